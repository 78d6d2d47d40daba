package sockets

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Each fault spoils the end of a dump: what came before looks like a whole,
// smaller one.
func TestAPollThatFailsHalfWayIsNeverMet(t *testing.T) {
	slow(t, "blindness needs three seconds of failures")
	lastIs := func(b []byte) []byte {
		for rest := b; len(rest) >= unix.NLMSG_HDRLEN; {
			_, _, _, _, next, err := nextMessage(rest)
			if err != nil {
				return nil
			}
			if len(next) == 0 && binary.NativeEndian.Uint16(rest[4:]) == unix.NLMSG_DONE {
				return rest
			}
			rest = next
		}
		return nil
	}
	for _, tt := range []struct {
		name  string
		spoil func(b []byte, n int) (int, error)
	}{
		{"a full buffer", func([]byte, int) (int, error) { return 0, unix.ENOBUFS }},
		{"no datagram in time", func([]byte, int) (int, error) { return 0, unix.EAGAIN }},
		{"a datagram longer than the buffer", func(b []byte, n int) (int, error) { return len(b) + 1, nil }},
		{"a datagram cut short", func(b []byte, n int) (int, error) { return n - 1, nil }},
		{"an empty datagram", func([]byte, int) (int, error) { return 0, nil }},
		{"an interrupted dump", func(b []byte, n int) (int, error) {
			done := lastIs(b[:n])
			if done != nil {
				binary.NativeEndian.PutUint16(done[6:], unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR)
			}
			return n, nil
		}},
		{"an error in place of the end", func(b []byte, n int) (int, error) {
			if done := lastIs(b[:n]); done != nil {
				binary.NativeEndian.PutUint16(done[4:], unix.NLMSG_ERROR)
				code := int32(-int32(unix.ENOMEM))
				binary.NativeEndian.PutUint32(done[unix.NLMSG_HDRLEN:], uint32(code))
			}
			return n, nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, port := listen(t, "tcp", "127.0.0.1:0")
			go func() { // a client whose request is never answered, from half-way on
				c, err := net.Dial("tcp", l.Addr().String())
				if err == nil {
					c.Write([]byte("x"))
					t.Cleanup(func() { c.Close() })
				}
			}()
			c := New(Options{Ports: []uint16{port}})
			var spoiled atomic.Bool
			spoiled.Store(true)
			c.openNetlink = func() (*netlink, error) {
				n, err := openNetlink()
				if err != nil {
					return nil, err
				}
				inner := n.recv
				n.recv = func(fd int, b []byte) (int, error) {
					got, err := inner(fd, b)
					if err != nil || !spoiled.Load() {
						return got, err
					}
					return tt.spoil(b, got)
				}
				return n, nil
			}
			done := make(chan struct{})
			defer close(done)
			ch := c.Watch(done, Closed)
			until(t, ch, "blindness", func(v Verdict) bool {
				if v.Met || v.Known || v.Err == nil {
					t.Fatalf("%+v", v)
				}
				return v.Blind
			})
			spoiled.Store(false)
			until(t, ch, "sight", func(v Verdict) bool {
				if v.Met {
					t.Fatalf("%+v", v)
				}
				return v.Known && !v.Blind && v.Open == 1
			})
		})
	}
}

func TestWithoutNetlinkProcIsRead(t *testing.T) {
	slow(t, "quiet needs five seconds where no rate is known")
	l, port := listen(t, "tcp", ":0")
	c := New(Options{Ports: []uint16{port}})
	denied := func() error { return &net.OpError{Op: "socket", Err: unix.EPROTONOSUPPORT} }
	c.openNetlink = func() (*netlink, error) { return nil, denied() }
	c.openEvents = func() (*events, error) { return nil, denied() }
	if ports, err := c.Listening(); err != nil || len(ports) != 1 || ports[0] != port {
		t.Fatalf("%v, %v", ports, err)
	}
	done := make(chan struct{})
	defer close(done)
	ch := c.Watch(done, Idle)
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	until(t, ch, "a queued client", func(v Verdict) bool { return v.Queued == 1 && v.Open == 1 && !v.Met })
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client.Write([]byte("x"))
	until(t, ch, "an unread request", func(v Verdict) bool { return v.Queued == 0 && v.InFlight == 1 })
	server.Read(make([]byte, 1))
	until(t, ch, "idle", func(v Verdict) bool { return v.Met })
}

func TestWithNeitherTableItIsBlind(t *testing.T) {
	slow(t, "blindness needs three seconds of failures")
	t.Parallel()
	c := New(Options{Ports: []uint16{1}})
	c.openNetlink = func() (*netlink, error) { return nil, unix.EPERM }
	c.openEvents = func() (*events, error) { return nil, unix.EPERM }
	c.tables = func(b []byte, _ func(*socket)) ([]byte, error) { return b, errors.New("no /proc") }
	done := make(chan struct{})
	defer close(done)
	until(t, c.Watch(done, Quiet), "blindness", func(v Verdict) bool {
		if v.Met {
			t.Fatalf("%+v", v)
		}
		return v.Blind
	})
}

func TestLostAnnouncementsCountAsAnArrival(t *testing.T) {
	e := &events{buf: make([]byte, 100)}
	answers := []error{unix.ENOBUFS, unix.EAGAIN}
	e.recv = func(int, []byte) (int, error) {
		err := answers[0]
		answers = answers[1:]
		return 0, err
	}
	w := &watch{c: New(Options{}), t0: time.Now().Add(-time.Minute), ends: e}
	w.collect()
	if w.arrivals.last < time.Minute {
		t.Errorf("last arrival %v after t0", w.arrivals.last)
	}
}
