package reaper

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// No test here may be parallel or use os/exec: Reap takes every child.

// start runs sh -c script.
func start(t *testing.T, script string) int {
	t.Helper()
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{
		Dir: t.TempDir(), Files: []uintptr{0, 1, 2}, Env: os.Environ()})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// ended waits until pid is a zombie, and leaves it one.
func ended(t *testing.T, pid int) {
	t.Helper()
	changed(t, pid, unix.WEXITED)
}

func changed(t *testing.T, pid, what int) {
	t.Helper()
	for {
		switch err := unix.Waitid(unix.P_PID, pid, nil, what|unix.WNOWAIT, nil); err {
		case nil:
			return
		case unix.EINTR:
		default:
			t.Fatalf("waitid %d: %v", pid, err)
		}
	}
}

// want checks what Reap finds.
func want(t *testing.T, state State, codes map[int]int) {
	t.Helper()
	exits, got := Reap(nil)
	if got != state {
		t.Errorf("state %d, want %d", got, state)
	}
	found := make(map[int]int)
	for _, e := range exits {
		if _, twice := found[e.PID]; twice {
			t.Errorf("pid %d is reported twice", e.PID)
		}
		found[e.PID] = e.Code()
		if !e.Ended() {
			t.Errorf("pid %d has not ended: status %#x", e.PID, int(e.Status))
		}
	}
	if fmt.Sprint(found) != fmt.Sprint(codes) {
		t.Errorf("reaped %v, want %v", found, codes)
	}
}

func TestReapWithoutChildren(t *testing.T) { want(t, None, nil) }

func TestReapDoesNotBlockOnTheLiving(t *testing.T) {
	pid := start(t, "exec sleep 1000")
	want(t, Waiting, nil)
	unix.Kill(pid, unix.SIGKILL)
	ended(t, pid)
	want(t, None, map[int]int{pid: 137})
}

func TestReapEveryExitCode(t *testing.T) {
	codes := make(map[int]int)
	for code := range 256 {
		codes[start(t, fmt.Sprint("exit ", code))] = code
	}
	for pid := range codes {
		ended(t, pid)
	}
	// All at once: one SIGCHLD may have stood for all of them.
	want(t, None, codes)
}

func TestReapEveryTerminatingSignal(t *testing.T) {
	var none syscall.Rlimit // no core files
	if err := syscall.Setrlimit(unix.RLIMIT_CORE, &none); err != nil {
		t.Fatal(err)
	}
	// A background job begins with some of them ignored, and so would its
	// children; Go undoes that for those it has been asked to notify of.
	undo := make(chan os.Signal, 1)
	signal.Notify(undo)
	defer signal.Stop(undo)
	// 32 and 33 belong to the C library: processes started by glibc's
	// posix_spawn, as by make, ignore them, and Go can't be asked to notify of
	// them.
	harmless := []unix.Signal{32, 33, unix.SIGCHLD, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG, unix.SIGWINCH}
	codes := make(map[int]int)
	for sig := unix.Signal(1); sig <= 64; sig++ {
		if slices.Contains(harmless, sig) {
			continue
		}
		// ForkExec returns when the shell has taken over, handlers and all.
		pid := start(t, "exec sleep 1000")
		codes[pid] = 128 + int(sig)
		if err := unix.Kill(pid, sig); err == unix.EINVAL && sig >= 63 {
			// qemu's user-mode emulator needs these itself. Linux has all.
			t.Logf("not tested: there is no signal %d here", int(sig))
			unix.Kill(pid, unix.SIGKILL)
			codes[pid] = 128 + int(unix.SIGKILL)
		}
	}
	for pid := range codes {
		ended(t, pid)
	}
	want(t, None, codes)
}

func TestReapTellsOfStopsAndContinues(t *testing.T) {
	pid := start(t, "exec sleep 1000")
	step := func(sig unix.Signal, what int, ok func(unix.WaitStatus) bool) {
		t.Helper()
		unix.Kill(pid, sig)
		changed(t, pid, what)
		exits, state := Reap(nil)
		if len(exits) != 1 || state != Waiting || exits[0].PID != pid || !ok(exits[0].Status) {
			t.Fatalf("after %v: %v, state %d", sig, exits, state)
		}
		if exits[0].Ended() || exits[0].Code() != -1 {
			t.Errorf("after %v: ended %t with %d, want neither", sig, exits[0].Ended(), exits[0].Code())
		}
	}
	step(unix.SIGSTOP, unix.WSTOPPED, unix.WaitStatus.Stopped)
	step(unix.SIGCONT, unix.WCONTINUED, unix.WaitStatus.Continued)
	unix.Kill(pid, unix.SIGTERM)
	ended(t, pid)
	want(t, None, map[int]int{pid: 143})
}

func TestReapAppends(t *testing.T) {
	pid := start(t, "exit 3")
	ended(t, pid)
	before := []Exit{{PID: -7}}
	exits, _ := Reap(before)
	if len(exits) != 2 || exits[0].PID != -7 || exits[1].PID != pid {
		t.Errorf("got %v, want -7 and %d", exits, pid)
	}
}

// TestReapInBatches: a storm of exits does not keep the caller for ever.
func TestReapInBatches(t *testing.T) {
	if testing.Short() {
		t.Skip("makes some thousand processes")
	}
	left := make(map[int]bool)
	defer func() { // also after a failure
		for state := More; state == More; {
			_, state = Reap(nil)
		}
	}()
	for range batch + 10 {
		pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
		if errors.Is(err, unix.EAGAIN) {
			t.Skipf("the limit on processes allows %d here", len(left))
		}
		if err != nil {
			t.Fatal(err)
		}
		left[pid] = true
	}
	for pid := range left {
		ended(t, pid)
	}
	for _, c := range []struct {
		n     int
		state State
	}{{batch, More}, {10, None}} {
		exits, state := Reap(nil)
		if len(exits) != c.n || state != c.state {
			t.Errorf("%d exits, state %d; want %d, %d", len(exits), state, c.n, c.state)
		}
		for _, e := range exits {
			if !left[e.PID] || e.Code() != 0 {
				t.Errorf("pid %d with code %d, which is none or was there before", e.PID, e.Code())
			}
			delete(left, e.PID)
		}
	}
	if len(left) > 0 {
		t.Errorf("%d exits were lost", len(left))
	}
}

// TestSubreap: an orphan becomes a child of the caller.
func TestSubreap(t *testing.T) {
	switch err := Subreap(); {
	case err == nil:
	case errors.Is(err, unix.EINVAL): // Linux has it since 3.4; qemu-user has not
		t.Skip("prctl(2) knows no subreaper here")
	default:
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "(read x <&3; exit 9) & echo $! >orphan; exit 4"},
		&syscall.ProcAttr{Dir: t.TempDir(), Files: []uintptr{0, 1, 2, uintptr(fds[0])}})
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fds[0])
	ended(t, pid)
	want(t, Waiting, map[int]int{pid: 4}) // the orphan is ours now, and lives
	unix.Close(fds[1])
	if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	exits, state := Reap(nil)
	if len(exits) != 1 || exits[0].Code() != 9 || state != None {
		t.Errorf("got %v, state %d; want the orphan with 9, none left", exits, state)
	}
}
