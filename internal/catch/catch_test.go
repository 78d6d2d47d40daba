package catch

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// patience bounds the wait for a signal.
const patience = 30 * time.Second

// TestMain runs the tests with the signals as the Go runtime has them, and with
// CATCH_CHILD a program that prints the signals that Signals delivers.
func TestMain(m *testing.M) {
	switch os.Getenv("CATCH_CHILD") {
	case "":
		Release()
		os.Exit(m.Run())
	case "release":
		Release()
		fmt.Println("ready")
		select {}
	case "fault":
		fmt.Println(recovered())
	case "own":
		syscall.Kill(os.Getpid(), syscall.SIGXFSZ)
		syscall.Kill(os.Getpid(), syscall.SIGPIPE)
	case "allocs":
		signals, _ := Signals()
		fmt.Println(testing.AllocsPerRun(200, func() {
			sigqueue(os.Getpid(), syscall.SIGUSR1)
			<-signals
		}))
	case "load":
		for range 2 {
			go func() { // ends with the program
				for kept := [][]byte{}; ; kept = append(kept[max(0, len(kept)-9):], make([]byte, 9999)) {
				}
			}()
		}
	}
	signals, children := Signals()
	fmt.Println("ready")
	for {
		select {
		case s := <-signals:
			fmt.Println(int(s))
		case <-children:
			fmt.Println("child")
		}
	}
}

// recovered returns the error of a nil dereference.
func recovered() (err error) {
	defer func() { err = recover().(error) }()
	var p *int
	*p = 1
	return nil
}

type child struct {
	*exec.Cmd
	t     *testing.T
	lines chan string
}

// startChild runs this test binary as the program of TestMain.
func startChild(t *testing.T, mode string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(os.Args[0]), t: t, lines: make(chan string, 100)}
	c.Env = append(os.Environ(), "CATCH_CHILD="+mode)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	go func() { // ends with the child
		defer close(c.lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			c.lines <- in.Text()
		}
	}()
	return c
}

func (c *child) says(want string) {
	c.t.Helper()
	select {
	case got, ok := <-c.lines:
		if got != want || !ok {
			c.t.Fatalf("got %q, %t, want %q", got, ok, want)
		}
	case <-time.After(patience):
		c.t.Fatalf("no %q", want)
	}
}

// sigqueue sends s as sigqueue(3) does.
func sigqueue(pid int, s syscall.Signal) error {
	const siQueue = -1
	info := struct {
		signo, errno, code, pad, pid, uid int32
		rest                              [104]byte
	}{signo: int32(s), code: siQueue, pid: int32(os.Getpid())}
	_, _, errno := syscall.Syscall(syscall.SYS_RT_SIGQUEUEINFO,
		uintptr(pid), uintptr(s), uintptr(unsafe.Pointer(&info)))
	if errno != 0 {
		return errno
	}
	return nil
}

// sent sends the child all signals that are caught and waits until it has each,
// except those that qemu's user-mode emulator can't deliver. The emulator needs
// 63 and 64 itself and refuses them with EINVAL, which Linux never does. A
// SIGILL, SIGFPE or SIGSEGV that is sent to a Go program, whatever it does, ends
// the emulator by a SIGSEGV of its own about once in a hundred times (7.2).
func (c *child) sent(send func(pid int, s syscall.Signal) error) {
	c.t.Helper()
	emulated := false
	for s := syscall.Signal(64); s >= 1; s-- {
		fatal := s == syscall.SIGILL || s == syscall.SIGFPE || s == syscall.SIGSEGV
		if !Caught(s) || emulated && fatal {
			continue
		}
		err := send(c.Process.Pid, s)
		if errors.Is(err, syscall.EINVAL) && s >= 63 {
			emulated = true
			continue
		}
		if err != nil {
			c.t.Fatalf("signal %d: %v", s, err)
		}
		c.says(fmt.Sprint(int(s)))
	}
	if emulated {
		c.t.Log("not tested: SIGILL, SIGFPE, SIGSEGV, 63 and 64, which the emulator can't deliver")
	}
}

func TestEverySignalIsDelivered(t *testing.T) {
	c := startChild(t, "signals")
	c.says("ready")
	c.sent(syscall.Kill)
	c.Process.Signal(syscall.SIGCHLD)
	c.says("child")
	for _, s := range []syscall.Signal{syscall.SIGPIPE, syscall.SIGURG} {
		c.Process.Signal(s)
	}
	c.Process.Signal(syscall.SIGTERM) // after those that are discarded
	c.says("15")
}

// TestQueuedSignalIsDelivered checks the signals that the Go runtime takes for
// crashes unless kill(2) has sent them.
func TestQueuedSignalIsDelivered(t *testing.T) {
	needHandler(t)
	c := startChild(t, "signals")
	c.says("ready")
	c.sent(sigqueue)
}

// TestPendingSignalsKeepTheirOrder is about one set: the kernel may hand
// signals that come together to several threads at once, and so in several
// sets.
func TestPendingSignalsKeepTheirOrder(t *testing.T) {
	sets := make(chan uint64, 1)
	sets <- 1<<(syscall.SIGCONT-1) | 1<<(syscall.SIGHUP-1) | 1<<(syscall.SIGTERM-1)
	signals, _ := deliver(func() uint64 { return <-sets })
	for _, want := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGCONT} {
		if got := <-signals; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

func TestSignalsOfAStoppedProcessAllArrive(t *testing.T) {
	c := startChild(t, "signals")
	c.says("ready")
	c.Process.Signal(syscall.SIGSTOP)
	c.Process.Signal(syscall.SIGTERM)
	c.Process.Signal(syscall.SIGHUP)
	c.Process.Signal(syscall.SIGCONT)
	got := map[string]bool{}
	for range 3 {
		select {
		case line := <-c.lines:
			got[line] = true
		case <-time.After(patience):
			t.Fatalf("only %v within %s", got, patience)
		}
	}
	if !got["1"] || !got["15"] || !got["18"] {
		t.Errorf("got %v, want 1, 15 and 18", got)
	}
}

// TestFaultIsRecovered checks that the Go runtime still gets faults.
func TestFaultIsRecovered(t *testing.T) {
	c := startChild(t, "fault")
	select {
	case line := <-c.lines:
		if !strings.HasPrefix(line, "runtime") {
			t.Errorf("got %q, want the runtime's error", line)
		}
	case <-time.After(patience):
		t.Error("a nil dereference was not recovered")
	}
}

func TestOwnSignalsAreNotDelivered(t *testing.T) {
	needHandler(t)
	c := startChild(t, "own")
	c.says("ready")
	c.Process.Signal(syscall.SIGTERM)
	c.says("15")
}

func TestDeliveryDoesNotAllocate(t *testing.T) {
	c := startChild(t, "allocs")
	c.says("0")
}

func TestReleaseRestoresTheDefaults(t *testing.T) {
	c := startChild(t, "release")
	c.says("ready")
	c.Process.Signal(syscall.SIGTERM)
	c.Wait()
	if s := c.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGTERM {
		t.Errorf("SIGTERM: %v", c.ProcessState)
	}
}

// TestHandlerUnderLoad sends signals to a program that allocates, collects and
// is preempted all the time.
func TestHandlerUnderLoad(t *testing.T) {
	c := startChild(t, "load")
	c.says("ready")
	for range 300 {
		for _, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGTERM, 34} {
			if Caught(s) {
				c.Process.Signal(s)
				c.says(fmt.Sprint(int(s)))
			}
		}
	}
}

// needHandler skips the test where os/signal catches the signals.
func needHandler(t *testing.T) {
	t.Helper()
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("os/signal catches the signals on " + runtime.GOARCH)
	}
}
