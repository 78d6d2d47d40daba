package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// answers starts a server that does what handle does.
func answers(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// slam closes a request's connection, with a reset if it can.
func slam(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

func closedPort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestEachWayToLoseARequestHasItsWord(t *testing.T) {
	servers := map[failure]string{
		good:    answers(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "done\n") }),
		refused: closedPort(t),
		reset:   answers(t, func(w http.ResponseWriter, r *http.Request) { slam(w) }),
		cut: answers(t, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "piece\n")
			http.NewResponseController(w).Flush()
			slam(w)
		}),
		bad:     answers(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }),
		nowhere: "",
	}
	for want, addr := range servers {
		c := &clients{pick: func() string { return addr }, quick: "/quick", want: "done"}
		for _, name := range []string{"fresh", "kept", "slow", "stream"} {
			if got := kindNamed(name).send(c, context.Background()); got != want {
				t.Errorf("%s at a server that is to give %q: %q", name, want, got)
			}
		}
	}
}

func TestAnAnswerThatEndsEarlyIsCut(t *testing.T) {
	// Complete as far as HTTP can tell, but not for the application.
	addr := answers(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "piece\n") })
	c := &clients{pick: func() string { return addr }, want: "done"}
	if got := c.stream(context.Background()); got != cut {
		t.Errorf("%q, want cut", got)
	}
}

func TestAKeptConnectionThatTheServerClosedIsNotUsed(t *testing.T) {
	addr := answers(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, "done\n")
	})
	c := &clients{pick: func() string { return addr }, quick: "/quick", want: "done"}
	for range 5 {
		if got := c.kept(context.Background()); got != good {
			t.Fatalf("%q, though the server said that it closes", got)
		}
		for deadline := time.Now().Add(5 * time.Second); len(c.idle) > 0 && c.idle[0].alive() && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}
}

func TestAWebSocketThatTheServerEndsIsCut(t *testing.T) {
	addr := answers(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err == nil {
			c.Read(r.Context())
			c.Close(websocket.StatusServiceRestart, "as uvicorn does")
		}
	})
	c := &clients{pick: func() string { return addr }}
	if got := c.socket(context.Background()); got != cut {
		t.Errorf("%q, want cut", got)
	}
}

func TestDatabases(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	replies := make(chan string, 1)
	go func() { // ends with the listener
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 100))
			io.WriteString(c, <-replies)
			c.Close()
		}
	}()
	for reply, want := range map[string]failure{"+PONG\r\n": good, "-ERR going down\r\n": bad, "": cut} {
		replies <- reply
		if got := (redis{}).command(ln.Addr().String()); got != want {
			t.Errorf("%q gives %q, want %q", reply, got, want)
		}
	}
	for _, d := range []database{redis{}, postgres{}} {
		if got := d.command(closedPort(t)); got != refused {
			t.Errorf("%T at a closed port: %q", d, got)
		}
	}
}

func TestLoadIsOpenLoop(t *testing.T) {
	// A server that answers nothing does not slow the sender.
	stuck := make(chan struct{})
	addr := answers(t, func(w http.ResponseWriter, r *http.Request) { <-stuck })
	c := &clients{pick: func() string { return addr }, quick: "/quick"}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan failure, 100)
	done := make(chan struct{})
	go func() { c.send(ctx, []string{"fresh"}, func(_ string, f failure) { ended <- f }); close(done) }()
	time.Sleep(2 * time.Second)
	cancel()
	if len(ended) > 0 {
		t.Fatal("something ended")
	}
	close(stuck)
	<-done
	if n := len(ended); n < 8 {
		t.Errorf("%d requests in 2 s of which none was answered, want at least half of 16", n)
	}
}

func Example_jobs() {
	s := &site{}
	s.tally.records = []record{{traffic: traffic{Sent: make(map[string]int)}}}
	s.countJobs("end 1\nbegin 2\nend 2\nbegin 3\n")
	r := s.tally.records[0]
	fmt.Println(r.sent(), r.lost())
	// Output: 2 1
}
