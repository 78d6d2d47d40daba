package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// running is an init in front of a bench/child.
type running struct {
	pid    int
	addr   string // drainit's port
	shared *shared
	ended  bool
}

// environment gives each drainit a port of its own, and is otherwise what a
// user gets who sets nothing.
func environment() ([]string, string) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return os.Environ(), ""
	}
	defer l.Close()
	addr := l.Addr().String()
	return append(os.Environ(), "DRAINIT_HEALTH_ADDR="+addr, "DRAINIT_LOG_LEVEL=error"), addr
}

// launch starts an init with a child that counts signals, and waits for it.
func (b *bench) launch(c candidate) (*running, error) { return b.launchIn(c, namespaces) }

// launchIn is launch in these namespaces, or in none.
func (b *bench) launchIn(c candidate, attr *syscall.SysProcAttr) (*running, error) {
	s, file, err := newShared(b.dir)
	if err != nil {
		return nil, err
	}
	env, addr := environment()
	argv := slices.Concat(c.argv, []string{b.child, "signals", file})
	if attr != nil {
		argv = b.staged(argv)
	}
	pid, err := spawn(argv, env, attr)
	if err != nil {
		return nil, err
	}
	r := &running{pid: pid, addr: addr, shared: s}
	return r, await(&s.pid, 1, "the child's start")
}

func spawn(argv, env []string, attr *syscall.SysProcAttr) (int, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	return syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Env: env, Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}, Sys: attr})
}

// wait waits for the end of a process and returns its exit code.
func wait(pid int) (int, error) {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return status.ExitStatus(), err
		}
	}
}

// stop ends the child and waits for its init.
func (r *running) stop() {
	if r.ended {
		return
	}
	r.ended = true
	if child, err := r.child(); err == nil { // it would outlive an init outside a namespace
		unix.Kill(child, unix.SIGKILL)
	}
	unix.Kill(r.pid, unix.SIGKILL)
	wait(r.pid)
}

// child returns the child's PID outside its namespace. Any thread of the init
// may have started it.
func (r *running) child() (int, error) {
	words := bytes.Fields(bytes.Join(tasks(r.pid, "children"), nil))
	if len(words) != 1 {
		return 0, fmt.Errorf("an init with the children %q", words)
	}
	return strconv.Atoi(string(words[0]))
}

// staged has argv run as the first process of a PID namespace.
func (b *bench) staged(argv []string) []string {
	return slices.Concat([]string{b.child, "stage"}, argv)
}

// namespaces are those of a container that matter here.
var namespaces = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}

// took runs argv to its end and returns the milliseconds that took, and those
// of CPU time that it and its children used.
func took(argv, env []string) (elapsed, cpu float64, err error) {
	began := time.Now()
	pid, err := spawn(argv, env, namespaces)
	if err != nil {
		return 0, 0, err
	}
	var status unix.WaitStatus
	var usage unix.Rusage
	for {
		if _, err = unix.Wait4(pid, &status, 0, &usage); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	elapsed = float64(time.Since(began).Microseconds()) / 1000
	if err == nil && status.ExitStatus() != 0 {
		err = fmt.Errorf("%v: exit code %d", argv, status.ExitStatus())
	}
	return elapsed, float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e6, err
}

// output runs a program that is part of the measuring.
func output(name string, args ...string) ([]byte, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s %v: %v\n%s", name, args, err, out)
	}
	return out, nil
}
