package sockets

import (
	"io"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"
)

func listen(t testing.TB, network, addr string) (net.Listener, uint16) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Skipf("no listener: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	return l, uint16(l.Addr().(*net.TCPAddr).Port)
}

// until takes verdicts until one satisfies ok.
func until(t *testing.T, ch <-chan Verdict, what string, ok func(Verdict) bool) Verdict {
	t.Helper()
	var v Verdict
	deadline := time.After(20 * time.Second)
	for {
		select {
		case v = <-ch:
			if ok(v) {
				return v
			}
		case <-deadline:
			t.Fatalf("no verdict with %s; last %+v", what, v)
		}
	}
}

func TestListeningFindsADescendantlessListenerByExplicitPort(t *testing.T) {
	_, port := listen(t, "tcp", "127.0.0.1:0")
	_, other := listen(t, "tcp", "127.0.0.1:0")
	c := New(Options{Ports: []uint16{port, 1}})
	got, err := c.Listening()
	if err != nil || !slices.Equal(got, []uint16{port}) {
		t.Errorf("got %v, %v; want [%d] without %d", got, err, port, other)
	}
}

func TestWatchCountsRealConnections(t *testing.T) {
	l, port := listen(t, "tcp", ":0")
	c := New(Options{Ports: []uint16{port}})
	done := make(chan struct{})
	defer close(done)
	ch := c.Watch(done, Idle)
	addr := l.Addr().(*net.TCPAddr)
	conn, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(addr.Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	v := until(t, ch, "a queued connection", func(v Verdict) bool { return v.Queued == 1 })
	t.Logf("%+v", v)
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	io.WriteString(conn, "hello")
	v = until(t, ch, "a request in flight", func(v Verdict) bool { return v.Queued == 0 && v.InFlight == 1 })
	t.Logf("%+v", v)
	b := make([]byte, 5)
	io.ReadFull(server, b)
	time.Sleep(50 * time.Millisecond)
	io.WriteString(server, "there")
	io.ReadFull(conn, b)
	v = until(t, ch, "idle", func(v Verdict) bool { return v.Met })
	t.Logf("%+v", v)
}
