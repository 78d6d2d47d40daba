package notify

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrFull is returned by Send when the receiver's queue is full. The message is
// lost; the caller sends one that matters, above all READY=1, again.
var ErrFull = errors.New("the notify socket's queue is full")

// Upstream is the notify socket drainit itself was given, by systemd or podman.
// A nil Upstream stands for none: it drops every message.
//
// coreos/go-systemd's daemon package is not used because it blocks while the
// queue is full.
type Upstream struct {
	fd   int
	addr string
}

// Dial prepares sending to addr, a value of NOTIFY_SOCKET: "/path" or "@name".
// For an empty addr it returns nil and no error. Nothing is sent: the receiver
// may start later, or be restarted, so that its absence is an error of Send.
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

// Send forwards the fields of m that concern drainit's own supervisor: READY,
// STOPPING and STATUS, and those whose absence it acts on, WATCHDOG and
// EXTEND_TIMEOUT_USEC. MAINPID is not forwarded, as the main process is drainit
// whatever a child reports; neither is RELOADING, which needs the time at which
// it began. Send does nothing if none of those fields is set.
//
// It never blocks. After an error the next Send may succeed.
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

// Close closes the socket. Closing a nil Upstream does nothing.
func (u *Upstream) Close() error {
	if u == nil {
		return nil
	}
	return syscall.Close(u.fd)
}

// upstream encodes the fields that Send forwards.
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
		// Clean it again: the status may be drainit's own, and a newline in it
		// would begin another field.
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
