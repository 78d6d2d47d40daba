package integration_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoThreadIsCreatedUnderLoad: the threads that are reserved at the start
// are all that drainit ever needs. Another one can't be had where the server
// has used up the pids limit, and the Go runtime ends the program then: PID 1,
// and the container with it.
//
// A thread is needed where a goroutine is interrupted within a system call, as
// on a machine with many processes waiting for each CPU. strace does that to
// each call here. With a goroutine for each connection that makes its own calls
// two more threads were created for 30 clients.
func TestNoThreadIsCreatedUnderLoad(t *testing.T) {
	strace := program(t, "/usr/bin/strace", "strace")
	w := runs["as PID 1"](t, []string{
		"READY_CHECK=http://127.0.0.1:PORT/", "READY_INTERVAL=100ms", "READY_TIMEOUT=20s",
		"GRACE_PERIOD=24s", "DRAIN_WINDOW=1s", "DRAIN_UNTIL=idle", "LOG_LEVEL=debug",
		"SIGNAL_MAP=SIGHUP=ignore",
	}, "onterm -1", "listen 127.0.0.1:PORT")
	answers(t, w.url+"/readyz", 200)
	tasks := fmt.Sprintf("/proc/%d/task/*/status", w.pid)
	reserved, _ := filepath.Glob(tasks)

	const calls = "accept4,read,pread64,write,sendmsg,sendto,recvfrom,recvmsg,openat,close,shutdown," +
		"connect,getsockopt,setsockopt,epoll_ctl,getdents64,readlinkat,wait4,kill"
	interrupt := exec.Command(strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace="+calls,
		"-e", "inject="+calls+":delay_enter=10000", "-p", strconv.Itoa(w.pid))
	if err := interrupt.Start(); err != nil {
		t.Fatal(err)
	}
	defer interrupt.Wait()
	defer interrupt.Process.Signal(unix.SIGTERM)
	eventually(t, "strace traces each thread", func() bool {
		for _, task := range reserved {
			if statusField(t, task, "TracerPid") == 0 {
				return false
			}
		}
		return true
	})

	var clients sync.WaitGroup
	for i := range 30 {
		clients.Go(func() {
			for n := range 4 {
				path := []string{"/readyz", "/statusz", "/livez", "/metrics"}[(i+n)%4]
				if code, body := get(w.url + path); code != 200 && code != 503 {
					t.Errorf("%s: %d %s", path, code, body)
				}
				w.signal(unix.SIGHUP)
			}
		})
	}
	clients.Wait()
	w.signal(unix.SIGTERM)
	w.becomes(503, "draining")
	for range 20 {
		clients.Go(func() { get(w.url + "/readyz") })
	}
	clients.Wait()
	w.logs("stop signal forwarded")
	used, _ := filepath.Glob(tasks)
	t.Logf("%d threads before, %d after", len(reserved), len(used))
	if len(used) == 0 || len(used) > len(reserved) {
		t.Errorf("%d threads before, %d after: the reserve is too small", len(reserved), len(used))
	}
}
