package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// serve handles each connection with f and counts them.
func serve(t *testing.T, f func(net.Conn)) (string, *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	n := new(atomic.Int64)
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	return l.Addr().String(), n
}

// answer returns a handler that reads a request and writes text.
func answer(text string) func(net.Conn) {
	return func(c net.Conn) {
		head := make([]byte, 4096)
		c.Read(head)
		io.WriteString(c, text)
	}
}

func head(status, more string) string { return "HTTP/1.1 " + status + "\r\n" + more + "\r\n" }

func TestHTTPCheck(t *testing.T) {
	gone := make(chan struct{})
	t.Cleanup(func() { close(gone) })
	for _, c := range []struct {
		name  string
		serve func(net.Conn)
		ok    bool
		says  string
	}{
		{"200", answer(head("200 OK", "Content-Length: 0\r\n")), true, ": 200"},
		{"204", answer(head("204 No Content", "")), true, ": 204"},
		{"302 is an answer, and not followed", answer(head("302 Found", "Location: /elsewhere\r\n")), true, ": 302"},
		{"399", answer(head("399 Odd", "")), true, ": 399"},
		{"400", answer(head("400 Bad Request", "")), false, ": 400"},
		{"404", answer(head("404 Not Found", "")), false, ": 404"},
		{"500", answer(head("500 Oh", "")), false, ": 500"},
		{"503", answer(head("503 Not Yet", "")), false, ": 503"},
		{"199", answer(head("199 Odd", "")), false, ""},
		{"HTTP/1.0", answer("HTTP/1.0 200 OK\r\n\r\n"), true, ": 200"},
		{"no HTTP", answer("220 smtp.example\r\n"), false, "no answer"},
		{"a connection that closes", answer(""), false, "no answer"},
		{"a server that says nothing", func(net.Conn) { <-gone }, false, "timeout"},
		{"a head that never ends", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			<-gone
		}, false, "timeout"},
		{"a body that never ends", func(c net.Conn) {
			answer(head("200 OK", ""))(c)
			for err := error(nil); err == nil; {
				_, err = c.Write(make([]byte, 4096))
			}
		}, true, ": 200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, n := serve(t, c.serve)
			u, err := url.Parse("http://" + addr + "/path?x=1")
			if err != nil {
				t.Fatal(err)
			}
			var dials int
			timeout := deadline
			if c.says == "timeout" {
				timeout = 200 * time.Millisecond
			}
			got := HTTP(u, timeout, "drainit-test", func() { dials++ })(t.Context())
			if got.OK != c.ok || !strings.Contains(got.Reason, c.says) {
				t.Errorf("got %v, %q; want %v, %q", got.OK, got.Reason, c.ok, c.says)
			}
			if strings.Contains(got.Reason, "\n") {
				t.Errorf("the reason %q is more than a line", got.Reason)
			}
			if dials != 1 || n.Load() != 1 {
				t.Errorf("%d connections, %d came; want 1", dials, n.Load())
			}
		})
	}
}

// TestHTTPCheckIsBounded: an endless answer must not fill the memory of PID 1.
func TestHTTPCheckIsBounded(t *testing.T) {
	for name, f := range map[string]func(net.Conn, []byte){
		"header lines":   func(c net.Conn, x []byte) { io.WriteString(c, "HTTP/1.1 200 OK\r\n") },
		"a status line":  func(net.Conn, []byte) {},
		"a header value": func(c net.Conn, x []byte) { io.WriteString(c, "HTTP/1.1 200 OK\r\nX: ") },
	} {
		t.Run(name, func(t *testing.T) {
			sent := make(chan int, 1)
			addr, _ := serve(t, func(c net.Conn) {
				chunk := []byte(strings.Repeat("x", 4094))
				if name == "header lines" {
					chunk = append([]byte("X: "), append(chunk, "\r\n"...)...)
				}
				f(c, chunk)
				total := 0
				for total < 256<<20 {
					n, err := c.Write(chunk)
					total += n
					if err != nil {
						break
					}
				}
				sent <- total
			})
			u, _ := url.Parse("http://" + addr)
			got := HTTP(u, deadline, "drainit-test", func() {})(t.Context())
			if got.OK {
				t.Errorf("got %+v, want a failure", got)
			}
			if len(got.Reason) > 1000 {
				t.Errorf("a reason of %d bytes", len(got.Reason))
			}
			// What is more than the limit was in the sockets' buffers.
			if n := <-sent; n > 64<<20 {
				t.Errorf("%d MB were taken", n>>20)
			}
		})
	}
}

func TestHTTPCheckSendsWhatAServerNeeds(t *testing.T) {
	asked := make(chan string, 1)
	addr, _ := serve(t, func(c net.Conn) {
		b := make([]byte, 4096)
		n, _ := c.Read(b)
		asked <- string(b[:n])
		io.WriteString(c, head("200 OK", ""))
	})
	u, _ := url.Parse("http://" + addr + "/a%20b?x=1")
	HTTP(u, deadline, "drainit-test", func() {})(t.Context())
	got := <-asked
	for _, want := range []string{"GET /a%20b?x=1 HTTP/1.1\r\n", "Host: " + addr + "\r\n", "Connection: close\r\n", "User-Agent: drainit-test\r\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
}

// refused returns an address at which connections are refused.
func refused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestTCPCheck(t *testing.T) {
	addr, n := serve(t, func(net.Conn) {})
	dials := 0
	if got := TCP(addr, deadline, func() { dials++ })(t.Context()); !got.OK {
		t.Errorf("got %+v, want OK", got)
	}
	for n.Load() < 1 {
		time.Sleep(time.Millisecond)
	}
	if dials != 1 {
		t.Errorf("%d connections are counted, want 1", dials)
	}
	for name, check := range map[string]Check{
		"tcp":  TCP(refused(t), deadline, func() { dials++ }),
		"http": HTTP(&url.URL{Scheme: "http", Host: refused(t)}, deadline, "drainit-test", func() { dials++ }),
	} {
		if got := check(t.Context()); got.OK || !strings.Contains(got.Reason, "refused") {
			t.Errorf("%s: got %+v, want refused", name, got)
		}
	}
	if dials != 1 {
		t.Errorf("%d connections are counted, want 1: refused ones never came to the child", dials)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := TCP(addr, deadline, func() {})(ctx); got.OK {
		t.Errorf("got %+v after the end", got)
	}
}

func TestListeningCheck(t *testing.T) {
	for _, c := range []struct {
		ports []uint16
		err   error
		ok    bool
		says  string
	}{
		{nil, nil, false, "no listening TCP socket"},
		{[]uint16{8080, 9090}, nil, true, "8080"},
		{nil, errors.New("no netlink"), false, "no netlink"},
		{[]uint16{8080}, errors.New("no netlink"), false, "no netlink"},
	} {
		got := Listening(func() ([]uint16, error) { return c.ports, c.err })(t.Context())
		if got.OK != c.ok || !strings.Contains(got.Reason, c.says) {
			t.Errorf("%v, %v: got %+v, want %v, %q", c.ports, c.err, got, c.ok, c.says)
		}
	}
}

func TestStartedCheck(t *testing.T) {
	if got := Started(t.Context()); !got.OK || !strings.Contains(got.Reason, "started") {
		t.Errorf("got %+v, want OK, and that it says little", got)
	}
}

// TestWatch: the instants at which the child is checked and a result is sent.
func TestWatch(t *testing.T) {
	okAfter := func(d time.Duration) func(time.Duration) Result {
		return func(at time.Duration) Result { return Result{OK: at >= d, Reason: fmt.Sprint(at >= d)} }
	}
	flaps := func(at time.Duration) Result {
		up := at < 2*time.Second || at >= 5*time.Second
		return Result{OK: up, Reason: fmt.Sprint(up)}
	}
	for _, c := range []struct {
		name     string
		check    func(time.Duration) Result
		interval time.Duration
		until    time.Duration
		want     []string
		checks   int
	}{
		{"ready at once, and no more looks", okAfter(0), 0, time.Hour, []string{"0s true"}, 1},
		{"ready at once, and a look every interval", okAfter(0), time.Second, 10*time.Second + 1, []string{"0s true"}, 11},
		{"often until it is ready, and no more", okAfter(time.Second), 0, time.Hour, []string{"0s false", "1s true"}, 6},
		{"often until it is ready, then every interval", okAfter(time.Second), 3 * time.Second, 10*time.Second + 1,
			[]string{"0s false", "1s true"}, 9},
		{"goes and comes, seen every interval", flaps, time.Second, 8*time.Second + 1, []string{"0s true", "2s false", "5s true"}, 9},
		{"a hint after 30s, once, and in the reason from then on", okAfter(time.Minute), time.Second, 61 * time.Second,
			[]string{"0s false", "30s false; set this: not ready after 30s: false; set this", "1m0s true"}, 182},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), c.until)
				defer cancel()
				checks := 0
				out := make(chan Result)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					Watch(ctx, func(context.Context) Result { checks++; return c.check(time.Since(began)) }, c.interval, "; set this", out)
				}()
				var got []string
				for done := false; !done; {
					select {
					case r := <-out:
						line := time.Since(began).String() + " " + r.Reason
						if r.Hint != "" {
							line += ": " + r.Hint
						}
						got = append(got, line)
					case <-ended:
						done = true
					}
				}
				if !slices.Equal(got, c.want) || checks != c.checks {
					t.Errorf("got %q in %d checks, want %q in %d", got, checks, c.want, c.checks)
				}
			})
		})
	}
}

func TestWatchEndsWhileItsResultIsNotReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		Watch(ctx, Started, time.Second, "", make(chan Result)) // or the bubble deadlocks
	})
}
