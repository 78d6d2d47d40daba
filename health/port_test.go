package health

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// opened waits until n connections were accepted, and returns how many are
// open.
func opened(s *Server, n int) int {
	for s.Accepted() < uint64(n) {
		time.Sleep(time.Millisecond)
	}
	s.port.mu.Lock()
	defer s.port.mu.Unlock()
	return len(s.port.open)
}

// closedByServer fails the test if the server does not close c.
func closedByServer(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is open after %s", deadline)
	}
}

// TestConnectionsOverTheLimit fills the port with clients that send nothing, a
// part of a head, or a head byte by byte: probes are answered nevertheless, the
// oldest connection is evicted for each, and the others time out.
func TestConnectionsOverTheLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the time limits of the port")
	}
	s, addr := listen(t)
	var slow []net.Conn
	for i := range maxConnections {
		c := dialed(t, addr)
		if i%2 == 1 {
			io.WriteString(c, "GET /livez HT")
		}
		slow = append(slow, c)
	}
	if n := opened(s, maxConnections); n != maxConnections {
		t.Errorf("%d connections are open, want %d", n, maxConnections)
	}
	for i := range 3 {
		if code := say(t, dialed(t, addr), probe); code != 200 {
			t.Errorf("code %d, want 200 over the limit", code)
		}
		if n := opened(s, maxConnections+i+1); n > maxConnections {
			t.Errorf("%d connections are open, want at most %d", n, maxConnections)
		}
	}
	for _, c := range slow {
		closedByServer(t, c)
	}
}

// flood opens connections that send text, rate of them a second, until the
// function it returns is called.
func flood(t *testing.T, addr string, rate int, text string) (stop func()) {
	t.Helper()
	const tick = 10 * time.Millisecond
	var workers sync.WaitGroup
	ended := make(chan struct{})
	workers.Go(func() {
		var open []net.Conn
		ticker := time.NewTicker(tick)
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				for _, c := range open {
					c.Close()
				}
				return
			case <-ticker.C:
			}
			for range rate / int(time.Second/tick) {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				io.WriteString(c, text)
				if open = append(open, c); len(open) > 2*maxConnections {
					open[0].Close()
					open = open[1:]
				}
			}
		}
	})
	return func() {
		close(ended)
		workers.Wait()
	}
}

// TestFloods: probes are answered while other clients open connections for
// nothing, thousands a second. With 64 places of 250 ms each 256 silent ones a
// second made every probe fail, and the kubelet restart the container.
func TestFloods(t *testing.T) {
	for name, text := range map[string]string{
		"idle":               "",
		"one byte":           "G",
		"half a head":        "GET /livez HTTP/1.1\r\nHost: ",
		"a head of 8 KB":     "GET /livez HTTP/1.1\r\nX: " + strings.Repeat("x", maxHeader-100),
		"TLS":                "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"HTTP/2":             "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"pipelined requests": strings.Repeat(probe, 100),
		"reports":            "GET /statusz HTTP/1.1\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "idle" {
				t.Skip("takes a second or two")
			}
			s, addr := listen(t)
			stop := flood(t, addr, 3000, text)
			defer stop()
			opened(s, 2*maxConnections)
			// This process may stop for longer than a connection may be idle
			// then: that costs one probe, or two. Without protection it is all.
			const probes, lost = 20, 4
			answered, slowest := 0, time.Duration(0)
			for range probes {
				began := time.Now()
				if say(t, dialed(t, addr), probe) == 200 {
					answered++
				}
				slowest = max(slowest, time.Since(began))
			}
			t.Logf("%d of %d probes were answered, the slowest in %s", answered, probes, slowest)
			if answered < probes-lost {
				t.Errorf("%d of %d probes were answered", answered, probes)
			}
			s.port.mu.Lock()
			defer s.port.mu.Unlock()
			if s.port.held > maxHeld {
				t.Errorf("%d bytes are held, want at most %d", s.port.held, maxHeld)
			}
		})
	}
}

// TestManyProbes: none of many probes at a time is evicted.
func TestManyProbes(t *testing.T) {
	probes, clients := 10_000, 400
	if testing.Short() {
		probes = 2_000
	}
	_, addr := listen(t)
	var next, answered atomic.Int64
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for next.Add(1) <= int64(probes) {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				c.SetDeadline(time.Now().Add(deadline))
				if code := say(t, c, probe); code == 200 {
					answered.Add(1)
				} else {
					t.Errorf("code %d, want 200", code)
				}
				c.Close()
			}
		})
	}
	all.Wait()
	if answered.Load() != int64(probes) {
		t.Errorf("%d of %d probes were answered", answered.Load(), probes)
	}
}

// TestOddClients: each gets the answer that is due, and costs the port nothing.
func TestOddClients(t *testing.T) {
	for _, c := range []struct {
		name   string
		client func(net.Conn)
		code   int // 0 for no answer
	}{
		{"connects and leaves", func(c net.Conn) { c.(*net.TCPConn).CloseWrite() }, 0},
		{"leaves within a head", func(c net.Conn) {
			io.WriteString(c, "GET /livez HTTP/1.1\r\n")
			c.(*net.TCPConn).CloseWrite()
		}, 0},
		{"closes its end after the request", func(c net.Conn) {
			io.WriteString(c, probe)
			c.(*net.TCPConn).CloseWrite()
		}, 200},
		{"sends byte by byte", func(c net.Conn) {
			for i := range probe {
				io.WriteString(c, probe[i:i+1])
			}
		}, 200},
		{"sends requests after the first", func(c net.Conn) { io.WriteString(c, strings.Repeat(probe, 1000)) }, 200},
		{"sends a body", func(c net.Conn) {
			io.WriteString(c, "POST /livez HTTP/1.1\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 100_000))
		}, 405},
		{"sends a body that never ends", func(c net.Conn) {
			io.WriteString(c, "POST /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
			for err := error(nil); err == nil; {
				_, err = io.WriteString(c, strings.Repeat("x", 10_000))
			}
		}, 405},
		{"sends a head of exactly the limit", func(c net.Conn) {
			io.WriteString(c, probe[:len(probe)-2]+"X: "+strings.Repeat("x", maxHeader-len(probe)-5)+"\r\n\r\n")
		}, 200},
		{"sends a head longer than the limit", func(c net.Conn) {
			io.WriteString(c, probe[:len(probe)-2]+"X: "+strings.Repeat("x", maxHeader-len(probe)-4)+"\r\n\r\n")
		}, 431},
		{"sends a target longer than the limit", func(c net.Conn) { io.WriteString(c, "GET /"+strings.Repeat("x", 64<<10)) }, 431},
		{"speaks TLS", func(c net.Conn) { io.WriteString(c, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") }, 400},
		{"speaks HTTP/2", func(c net.Conn) { io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") }, 505},
		{"sends binary", func(c net.Conn) { io.WriteString(c, "\x00") }, 400},
		{"sends HTTP/0.9", func(c net.Conn) { io.WriteString(c, "GET /livez\r\n\r\n") }, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, addr := listen(t)
			conn := dialed(t, addr)
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				c.client(conn)
			}()
			if code := say(t, conn, ""); code != c.code {
				t.Errorf("code %d, want %d", code, c.code)
			}
			conn.Close()
			<-sent
			for n := 1; n > 0; n = opened(s, 1) {
			}
			s.port.mu.Lock()
			defer s.port.mu.Unlock()
			if s.port.held != 0 {
				t.Errorf("%d bytes are held without a connection", s.port.held)
			}
		})
	}
}

// TestResets: clients that reset their connections at any moment cost nothing.
func TestResets(t *testing.T) {
	s, addr := listen(t)
	texts := []string{"", "G", probe, probe + probe, "GET /metrics HTTP/1.1\r\n\r\n", "\x16\x03"}
	for i := range 600 {
		c := dialed(t, addr).(*net.TCPConn)
		io.WriteString(c, texts[i%len(texts)])
		c.SetLinger(0)
		c.Close()
	}
	if code := say(t, dialed(t, addr), probe); code != 200 {
		t.Errorf("code %d, want 200", code)
	}
	for n := 1; n > 0; n = opened(s, 601) {
	}
}

// TestALongAnswer: a client that reads slowly gets all of an answer that does
// not fit the socket's buffer.
func TestALongAnswer(t *testing.T) {
	long := full
	long.Text = strings.Repeat("x", 100<<10)
	s, addr := listenWith(t, Options{Status: statusOf(long)})
	if err := unix.SetsockoptInt(s.port.listener, unix.SOL_SOCKET, unix.SO_SNDBUF, 4096); err != nil {
		t.Fatal(err)
	}
	c := dialed(t, addr)
	io.WriteString(c, "GET /statusz HTTP/1.1\r\n\r\n")
	for held := 0; held == 0; { // until some of it had to wait
		s.port.mu.Lock()
		held = s.port.held
		s.port.mu.Unlock()
	}
	body, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(body), long.Text) {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

func TestCloseWithManyConnections(t *testing.T) {
	s, addr := listen(t)
	var open []net.Conn
	for range 100 {
		open = append(open, dialed(t, addr))
	}
	opened(s, len(open))
	s.Close()
	for _, c := range open {
		closedByServer(t, c)
	}
	// listen's clean-up is the rest of the test: Serve must return.
}

// TestCloseWhileClientsConnect closes ports that just then have an event to
// handle.
func TestCloseWhileClientsConnect(t *testing.T) {
	for range 300 {
		s, addr := listen(t)
		for range 4 {
			dialed(t, addr)
		}
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		select {
		case err := <-closed:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(deadline):
			t.Fatalf("not closed after %s", deadline)
		}
	}
}
