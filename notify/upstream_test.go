package notify

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestDial(t *testing.T) {
	tests := []struct{ addr, err string }{
		{"/run/systemd/notify", ""},
		{"@/org/freedesktop/systemd1/notify", ""},
		{"vsock:2:1234", "vsock addresses are not supported"},
		{"vsock-stream:2:1234", "vsock addresses are not supported"},
		{"run/notify", "neither an absolute path"},
		{"@", "neither an absolute path"},
		{"/" + strings.Repeat("x", 107), "longer than"},
	}
	for _, test := range tests {
		u, err := Dial(test.addr)
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%q: got %v, want %q", test.addr, err, test.err)
		}
		u.Close()
	}
	u, err := Dial("")
	if u != nil || err != nil {
		t.Errorf("no address: got %v, %v", u, err)
	}
	if err := u.Send(Message{Ready: true}); err != nil {
		t.Errorf("send to a nil Upstream: %v", err)
	}
}

// supervisor opens the receiving end: a socket that only the test reads.
func supervisor(t *testing.T, addr string) (fd int, receive func() string) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: addr}); err != nil {
		t.Fatal(err)
	}
	return fd, func() string {
		buf := make([]byte, 2*MaxDatagram)
		n, _, err := syscall.Recvfrom(fd, buf, syscall.MSG_DONTWAIT)
		if err == syscall.EAGAIN {
			return "nothing"
		}
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestUpstream(t *testing.T) {
	for _, addr := range []string{
		filepath.Join(t.TempDir(), "notify.sock"),
		"@drainit-test-" + filepath.Base(t.TempDir()) + time.Now().Format(".150405.000000000"),
	} {
		u, err := Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		if err := u.Send(Message{Ready: true}); err == nil || errors.Is(err, ErrFull) {
			t.Errorf("no receiver: got %v", err)
		}
		// The receiver may start later.
		_, receive := supervisor(t, addr)
		tests := []struct {
			name string
			m    Message
			want string
		}{
			{"ready", Message{Ready: true, Status: "up", HasStatus: true}, "READY=1\nSTATUS=up\n"},
			{"stopping", Message{Stopping: true}, "STOPPING=1\n"},
			{"status withdrawn", Message{HasStatus: true}, "STATUS=\n"},
			{"a status can't begin a field", Message{HasStatus: true, Status: "x\nMAINPID=1"}, "STATUS=x MAINPID=1\n"},
			{"fields whose absence matters", Message{Watchdog: true, WatchdogTrigger: true, ExtendTimeout: time.Second},
				"WATCHDOG=1\nWATCHDOG=trigger\nEXTEND_TIMEOUT_USEC=1000000\n"},
			{"fields that are not forwarded", Message{PID: 2, MainPID: 2, Reloading: true, Barrier: true}, "nothing"},
		}
		for _, test := range tests {
			if err := u.Send(test.m); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			if got := receive(); got != test.want {
				t.Errorf("%s: got %q, want %q", test.name, got, test.want)
			}
		}
	}
}

func TestUpstreamDoesNotWait(t *testing.T) {
	addr := filepath.Join(t.TempDir(), "notify.sock")
	_, receive := supervisor(t, addr)
	u, err := Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	full := make(chan error, 1)
	go func() {
		for range 100_000 {
			if err := u.Send(Message{Ready: true}); err != nil {
				full <- err
				return
			}
		}
		full <- nil
	}()
	if err := await(t, full); !errors.Is(err, ErrFull) {
		t.Fatalf("got %v, want ErrFull", err)
	}
	receive()
	if err := u.Send(Message{Stopping: true}); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestUpstreamToListener: drainit may supervise drainit.
func TestUpstreamToListener(t *testing.T) {
	out := make(chan Message)
	u, err := Dial(serve(t, out).Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	want := Message{Ready: true, Status: "läuft", HasStatus: true, ExtendTimeout: MaxDuration}
	if err := u.Send(want); err != nil {
		t.Fatal(err)
	}
	want.PID = os.Getpid()
	if got := await(t, out); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
