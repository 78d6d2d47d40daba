package notify

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrFull is returned by Send when the other end's queue is full. The message is
// lost; one that matters, READY=1 above all, is for the caller to send again.
var ErrFull = errors.New("the notify socket's queue is full")

// Upstream is the notify socket drainit itself was given, by systemd or podman.
// A nil Upstream is one that was not given: it takes every message and drops it.
//
// coreos/go-systemd's daemon package is not used here because its sending waits
// when the queue is full.
type Upstream struct {
	fd   int
	addr string
}

// Dial prepares sending to addr, a value of NOTIFY_SOCKET: "/path" or "@name";
// for an empty one it returns nil and no error. Nothing is sent, and whether
// somebody listens there shows at the first Send: the other end may come later,
// or be restarted.
func Dial(addr string) (*Upstream, error) {
	switch {
	case addr == "":
		return nil, nil
	case strings.HasPrefix(addr, "vsock"): // also vsock-stream: and the like
		return nil, fmt.Errorf("NOTIFY_SOCKET=%q: vsock addresses are not supported", addr)
	case addr[0] != '/' && addr[0] != '@' || len(addr) < 2:
		return nil, fmt.Errorf("NOTIFY_SOCKET=%q: neither an absolute path nor an abstract name (@…)", addr)
	case len(addr) > 107: // sun_path, less its NUL
		return nil, fmt.Errorf("NOTIFY_SOCKET=%q: longer than a socket's address can be", addr)
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket for NOTIFY_SOCKET: %w", err)
	}
	return &Upstream{fd: fd, addr: addr}, nil
}

// Send passes on what of m concerns whoever supervises drainit: READY, STOPPING
// and STATUS, and those that a supervisor acts on if they don't come: WATCHDOG
// and EXTEND_TIMEOUT_USEC. The main process is drainit, whatever a child says,
// so MAINPID is not passed on, and neither is RELOADING, which would need the
// time at which it began. With nothing to say Send does nothing.
//
// It never waits. A failed Send is no reason to stop: the next may succeed.
func (u *Upstream) Send(m Message) error {
	if u == nil {
		return nil
	}
	state := m.upstream()
	if state == "" {
		return nil
	}
	err := syscall.Sendto(u.fd, []byte(state), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, &syscall.SockaddrUnix{Name: u.addr})
	switch {
	case err == syscall.EAGAIN || err == syscall.ENOBUFS:
		return ErrFull
	case err != nil:
		return fmt.Errorf("send to NOTIFY_SOCKET=%q: %w", u.addr, err)
	}
	return nil
}

// Close gives the socket up. Closing a nil Upstream is harmless.
func (u *Upstream) Close() error {
	if u == nil {
		return nil
	}
	return syscall.Close(u.fd)
}

// upstream encodes what Send promises.
func (m Message) upstream() string {
	var b strings.Builder
	line := func(key, value string) { b.WriteString(key + "=" + value + "\n") }
	if m.Ready {
		line("READY", "1")
	}
	if m.Stopping {
		line("STOPPING", "1")
	}
	if m.HasStatus {
		// Cleaned again: this end also sends what drainit itself wrote, and
		// a newline in it would begin a field.
		line("STATUS", cleanStatus([]byte(m.Status)))
	}
	if m.Watchdog {
		line("WATCHDOG", "1")
	}
	if m.WatchdogTrigger {
		line("WATCHDOG", "trigger")
	}
	if m.ExtendTimeout > 0 {
		line("EXTEND_TIMEOUT_USEC", strconv.FormatInt(int64(m.ExtendTimeout/time.Microsecond), 10))
	}
	return b.String()
}
