package supervisor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drainit/drainit/reaper"
	"golang.org/x/sys/unix"
)

// roleVar makes the test binary another process of the tests.
const roleVar = "SUPERVISOR_TEST_ROLE"

// outVar names the descriptor that roles write to.
const outVar = "SUPERVISOR_TEST_OUT"

func TestMain(m *testing.M) {
	if os.Args[0] == Trampoline {
		os.Exit(ExecChild(os.Args[1:]))
	}
	switch role := os.Getenv(roleVar); role {
	case "", "alone":
		// The race detector lets each process sleep for a second at its end.
		os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
		os.Exit(m.Run())
	case "start":
		startRole(false)
	case "start watched":
		startRole(true)
	case "report":
		reportRole()
	case "signals":
		signalsRole(false)
	case "signals and a child":
		signalsRole(true)
	default:
		panic("unknown role " + role)
	}
}

// pidVars returns the variables that a watched child needs its PID in.
func pidVars(watched bool) []string {
	if watched {
		return []string{"WATCHDOG_PID"}
	}
	return nil
}

// startRole is the least drainit: it starts its arguments and exits as they do.
func startRole(watched bool) {
	p, err := Start(os.Args[1:], without(os.Environ(), roleVar), false, pidVars(watched))
	if err != nil {
		var e *StartError
		if !errors.As(err, &e) {
			panic(err)
		}
		fmt.Fprintf(os.Stderr, "%s\n%s\n", e.Msg, e.Hint)
		os.Exit(e.Code)
	}
	var status unix.WaitStatus
	for {
		if pid, err := unix.Wait4(p.PID(), &status, 0, nil); pid == p.PID() {
			break
		} else if err != nil && err != unix.EINTR {
			panic(err)
		}
	}
	os.Exit(reaper.Exit{PID: p.PID(), Status: status}.Code())
}

// report is what a process can say of itself.
type report struct {
	PID, Group  int
	WatchdogPID string
	Args        []string
	Limit       uint64
}

func out() *os.File {
	fd, err := strconv.Atoi(os.Getenv(outVar))
	if err != nil {
		panic(err)
	}
	return os.NewFile(uintptr(fd), "out")
}

func reportRole() {
	var limit unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	json.NewEncoder(out()).Encode(report{os.Getpid(), unix.Getpgrp(), os.Getenv("WATCHDOG_PID"), os.Args, limit.Cur})
}

// signalsRole tells of each signal it receives, and ends on SIGTERM.
func signalsRole(parent bool) {
	c := make(chan os.Signal, 100)
	signal.Notify(c, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)
	who := "child"
	if !parent && os.Getenv("SUPERVISOR_TEST_GRANDCHILD") != "" {
		who = "grandchild"
	}
	if parent {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(without(os.Environ(), roleVar), roleVar+"=signals", "SUPERVISOR_TEST_GRANDCHILD=1", outVar+"=3")
		cmd.ExtraFiles = []*os.File{out()}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: os.Getenv("SUPERVISOR_TEST_GROUP") == ""}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
	}
	w := out()
	fmt.Fprintln(w, who, "ready")
	for s := range c {
		fmt.Fprintln(w, who, unix.SignalName(s.(syscall.Signal)))
		if s == unix.SIGTERM {
			os.Exit(0)
		}
	}
}

func without(env []string, name string) (rest []string) {
	for _, kv := range env {
		if !strings.HasPrefix(kv, name+"=") {
			rest = append(rest, kv)
		}
	}
	return rest
}

// alone runs the test that calls it in a process of its own, whose children
// are the test's and whose descriptors are no terminal. It says whether this is
// that process.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(roleVar) == "alone" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.v", "-test.timeout=60s", "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
	cmd.Env = append(os.Environ(), roleVar+"=alone")
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	if !strings.Contains(string(output), "--- PASS: "+t.Name()) && err == nil {
		t.Errorf("the test did not run:\n%s", output)
	}
	return false
}

// started is a child with a pipe it can be heard through.
type started struct {
	*Process
	lines chan string
}

// begin starts the test binary in a role.
func begin(t *testing.T, role string, group, watched bool, argv ...string) *started {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe(fds[:]); err != nil { // without O_CLOEXEC: inherited
		t.Fatal(err)
	}
	unix.CloseOnExec(fds[0])
	env := append(without(os.Environ(), roleVar), roleVar+"="+role, outVar+"="+strconv.Itoa(fds[1]))
	p, err := Start(argv, env, group, pidVars(watched))
	unix.Close(fds[1])
	if err != nil {
		t.Fatal(err)
	}
	s := &started{p, make(chan string)}
	go func() { // ends with the child
		defer close(s.lines)
		for in := bufio.NewScanner(os.NewFile(uintptr(fds[0]), "pipe")); in.Scan(); {
			s.lines <- in.Text()
		}
	}()
	t.Cleanup(func() { p.SignalOthers(unix.SIGKILL, false) })
	return s
}

// next is the child's next line, or "the end".
func (s *started) next(t *testing.T) string {
	t.Helper()
	select {
	case l, ok := <-s.lines:
		if !ok {
			return "the end"
		}
		return l
	case <-time.After(20 * time.Second):
		t.Fatal("nothing heard from the child in 20s")
		return ""
	}
}

// wait reaps the child and returns its code.
func (s *started) wait(t *testing.T) int {
	t.Helper()
	var status unix.WaitStatus
	for {
		pid, err := unix.Wait4(s.PID(), &status, 0, nil)
		if pid == s.PID() {
			return reaper.Exit{PID: pid, Status: status}.Code()
		}
		if err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
}

// countOthers returns how many processes are left, or -1 if that is unknown.
func countOthers(s *started) int {
	others, err := s.Others()
	if err != nil {
		return -1
	}
	return len(others)
}
