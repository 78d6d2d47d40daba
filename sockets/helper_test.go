package sockets

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// helper names the variable that makes the test binary do something else in a
// process of its own.
const helper = "DRAINIT_TEST_HELPER"

func TestMain(m *testing.M) {
	switch words := strings.Fields(os.Getenv(helper)); {
	case len(words) == 0:
		os.Exit(runIsolated(m))
	case words[0] == "hold":
		var n int
		fmt.Sscan(words[2], &n)
		os.Exit(hold(words[1], n))
	case words[0] == "listen":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(l.Addr().(*net.TCPAddr).Port)
		io.Copy(io.Discard, os.Stdin)
	case words[0] == "listening": // what a Counter in this process sees, besides a listener of its own
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		c := New(Options{})
		ports, err := c.Listening()
		fmt.Println(l.Addr().(*net.TCPAddr).Port, ports, err, c.owner.cgroup > rootCgroup)
	}
}

// start runs a helper, in a cgroup if its descriptor isn't 0, and returns its
// first line.
func start(t *testing.T, what string, cgroup int) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helper+"="+what)
	if cgroup > 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: cgroup}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("no helper: %v", err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("helper %s: %q, %v", what, line, err)
	}
	return strings.TrimSpace(line)
}
