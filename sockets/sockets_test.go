package sockets

import (
	"fmt"
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

func TestExplicitPortsAreThoseThatListen(t *testing.T) {
	_, port := listen(t, "tcp", "127.0.0.1:0")
	_, other := listen(t, "tcp", "127.0.0.1:0")
	c := New(Options{Ports: []uint16{port, 1}})
	got, err := c.Listening()
	if err != nil || !slices.Equal(got, []uint16{port}) {
		t.Errorf("got %v, %v; want [%d] without %d", got, err, port, other)
	}
}

func TestWatchCountsRealConnections(t *testing.T) {
	slow(t, "quiet needs five seconds where no rate is known")
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

// pair returns both ends of a connection to a listener.
func pair(t *testing.T, l net.Listener, network string) (client, server *net.TCPConn) {
	t.Helper()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	host := "127.0.0.1"
	if network == "tcp6" {
		host = "::1"
	}
	c, err := net.Dial(network, net.JoinHostPort(host, port))
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// looking returns a function that makes one look at a port, and one that
// returns the last tally.
func looking(t *testing.T, port uint16) func() tally {
	w := &watch{c: New(Options{Ports: []uint16{port}}), until: Idle, t0: time.Now()}
	t.Cleanup(w.close)
	w.start()
	return func() tally {
		t.Helper()
		if v := w.poll(); v.Err != nil {
			t.Fatal(v.Err)
		}
		return w.judge.tally
	}
}

// soon looks until the tally is as wanted: some of it is only known after a
// tick or two.
func soon(t *testing.T, look func() tally, what string, ok func(tally) bool) {
	t.Helper()
	var got tally
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if got = look(); ok(got) {
			return
		}
	}
	t.Fatalf("%s: %+v", what, got)
}

func exchange(t *testing.T, from, to net.Conn, text string) {
	t.Helper()
	b := make([]byte, len(text))
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(to, b); err != nil {
		t.Fatal(err)
	}
}

func TestWhatTheKernelTellsOfARequest(t *testing.T) {
	slow(t, "an answer counts for a second")
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			l, port := listen(t, "tcp", ":0") // dual-stack
			client, server := pair(t, l, network)
			look := looking(t, port)
			soon(t, look, "silent", func(n tally) bool { return n.open == 1 && n.ambiguous == 1 })
			for i, request := range []string{"GET / HTTP/1.0\r\n\r\n", "ask", "ask"} {
				io.WriteString(client, request)
				soon(t, look, "unread", func(n tally) bool { return n.inFlight == 1 })
				io.ReadFull(server, make([]byte, len(request)))
				for end := time.Now().Add(400 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
					if n := look(); n.inFlight+n.ambiguous != 1 {
						t.Fatalf("request %d, read and not answered: %+v", i, n)
					}
				}
				// So small a further one may be a reply.
				if n := look(); i == 0 && n.lasting != 1 {
					t.Fatalf("a slow request: %+v", n)
				}
				exchange(t, server, client, "answer")
				soon(t, look, "answered", func(n tally) bool { return n.open == 1 && n.inFlight == 0 })
			}
			soon(t, look, "done", func(n tally) bool { return n.open == 1 && n.inFlight+n.recent == 0 })

			io.WriteString(client, "last")
			client.CloseWrite()
			io.ReadFull(server, make([]byte, 4))
			for range 10 {
				if n := look(); n.open != 1 || n.inFlight+n.ambiguous != 1 {
					t.Fatalf("half-closed and not answered: %+v", n)
				}
			}
			server.Close()
			soon(t, look, "closed", func(n tally) bool { return n.open == 0 })
		})
	}
}

func TestAnAnswerIsInFlightUntilTheClientHasIt(t *testing.T) {
	for _, half := range []bool{false, true} { // FIN_WAIT1 and LAST_ACK
		t.Run(fmt.Sprintf("half-closed %t", half), func(t *testing.T) {
			t.Parallel()
			l, port := listen(t, "tcp", "127.0.0.1:0")
			client, server := pair(t, l, "tcp4")
			look := looking(t, port)
			client.SetReadBuffer(16 << 10)
			server.SetWriteBuffer(4 << 20)
			exchange(t, client, server, "ask")
			if half {
				client.CloseWrite()
				io.ReadAll(server)
			}
			if _, err := server.Write(make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
			server.Close()
			for end := time.Now().Add(400 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if n := look(); n.open != 1 || n.inFlight != 1 {
					t.Fatalf("closed by the server, and not read: %+v", n)
				}
			}
			if n, err := io.Copy(io.Discard, client); n != 1<<20 || err != nil {
				t.Fatal(n, err)
			}
			soon(t, look, "read", func(n tally) bool { return n.open == 0 && n.inFlight == 0 })
		})
	}
}

func TestAStreamToASilentClientIsBusy(t *testing.T) {
	slow(t, "a stream counts for a second")
	t.Parallel()
	l, port := listen(t, "tcp", "127.0.0.1:0")
	client, server := pair(t, l, "tcp4")
	look := looking(t, port)
	exchange(t, client, server, "GET /events")
	for range 8 {
		exchange(t, server, client, "data")
		for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if n := look(); n.inFlight+n.ambiguous != 1 {
				t.Fatalf("between two pieces: %+v", n)
			}
		}
	}
	soon(t, look, "silence", func(n tally) bool { return n.inFlight+n.ambiguous+n.recent == 0 })
}

// A connection may live for less than the time between two looks; its end is
// announced.
func TestShortConnectionsAreSeenWithTheirPeer(t *testing.T) {
	l, port := listen(t, "tcp", "127.0.0.1:0")
	w := &watch{c: New(Options{Ports: []uint16{port}}), until: Quiet, t0: time.Now()}
	defer w.close()
	w.start()
	if w.ends == nil {
		t.Skip("the kernel announces no ends")
	}
	if v := w.poll(); v.Err != nil {
		t.Fatal(v.Err)
	}
	client, server := pair(t, l, "tcp4")
	exchange(t, client, server, "ask")
	client.SetLinger(0)
	client.Close()
	server.Close()
	for deadline := time.Now().Add(10 * time.Second); len(w.arrivals.recent) == 0; time.Sleep(time.Millisecond) {
		w.collect()
		if time.Now().After(deadline) {
			t.Fatal("never seen")
		}
	}
	if got := w.arrivals.recent[0]; got.peer.String() != "127.0.0.1" || got.port != port || got.bytes != 3 {
		t.Errorf("got %+v", got)
	}
}

func TestAWorkerHasNothingToWaitFor(t *testing.T) {
	c := New(Options{})
	c.tables = func(b []byte, _ func(*socket)) ([]byte, error) { return b, nil }
	c.fellBack = true
	c.openEvents = func() (*events, error) { return nil, net.ErrClosed }
	done := make(chan struct{})
	ch := c.Watch(done, Closed)
	if v := <-ch; !v.Met || !v.Known || v.Waiting != "" {
		t.Errorf("got %+v", v)
	}
	close(done)
	for range ch { // it ends
	}
}

// A verdict that was not taken must not be there for a later reader.
func TestVerdictsAreNeverOld(t *testing.T) {
	_, port := listen(t, "tcp", "127.0.0.1:0")
	c := New(Options{Ports: []uint16{port}})
	done := make(chan struct{})
	defer close(done)
	ch := c.Watch(done, Quiet)
	first := until(t, ch, "anything", func(Verdict) bool { return true })
	time.Sleep(2 * time.Second) // polls are as far apart as they are slow
	if v := <-ch; v.Arrived == first.Arrived && v.QuietFor < first.QuietFor+time.Second {
		t.Errorf("after two seconds a verdict of %v, the one before of %v", v.QuietFor, first.QuietFor)
	}
}
