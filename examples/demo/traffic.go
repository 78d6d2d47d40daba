//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"
)

// failures are the ways to lose a request:
//   - refused: no connection was established
//   - reset: the connection ended before an answer began
//   - cut: the answer ended before it was complete
//   - timeout: none of these within 10 s
//   - status: an answer, but not 200
//   - nowhere: the balancer had no replica to send to
var failures = []string{"refused", "reset", "cut", "timeout", "status", "nowhere"}

const patience = 10 * time.Second

// tally counts requests by their outcome.
type tally struct {
	mu     sync.Mutex
	sent   int
	failed map[string]int
}

func (t *tally) add(failure string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent++
	if failure != "" {
		t.failed[failure]++
	}
}

func (t *tally) counts() (sent int, failed map[string]int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent, maps.Clone(t.failed)
}

func (t *tally) lost() (n int) {
	_, failed := t.counts()
	for _, f := range failed {
		n += f
	}
	return n
}

// load sends the same requests to every site, at the same instants, until ctx
// ends, and then waits for the answers. A request is sent when it is due,
// however late the answers are: clients don't wait for one another.
func load(ctx context.Context, sites []*site, o options) {
	tick := time.NewTicker(time.Second / time.Duration(o.rate))
	defer tick.Stop()
	var answers sync.WaitGroup
	defer answers.Wait()
	for i, told := 0, 0; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, s := range sites {
			answers.Go(func() { s.tally.add(request(s.balancer, i, o)) })
		}
		if i%o.rate == o.rate-1 {
			told = tell(sites, told)
		}
	}
}

// tell prints what was lost so far, if it has changed, and returns it.
func tell(sites []*site, told int) int {
	var lost int
	var words []string
	for _, s := range sites {
		n := s.tally.lost()
		lost += n
		words = append(words, fmt.Sprintf("%s %d", s.name, n))
	}
	if lost != told {
		sites[0].display.say("", "lost so far: %s", strings.Join(words, ", "))
	}
	return lost
}

// request sends the i-th request; ten kinds of them take turns. It returns what
// went wrong, and never retries.
func request(b *balancer, i int, o options) (failure string) {
	t := b.next()
	if t == nil {
		return "nowhere"
	}
	ms := o.long.Milliseconds()
	switch i % 10 {
	case 0:
		return exchange(b, t, false, "GET", fmt.Sprintf("/slow?ms=%d", ms), "", "done\n")
	case 5:
		return exchange(b, t, false, "GET", fmt.Sprintf("/stream?ms=%d", ms), "", "done\n")
	case 3, 7, 9:
		return exchange(b, t, true, "POST", "/echo", "kept alive", "kept alive")
	case 2:
		return exchange(b, t, false, "POST", "/echo", "hello", "hello")
	}
	return exchange(b, t, false, "GET", "/", "", "\n")
}

// conn is a client's connection. Not net/http's: its client silently retries
// some requests.
type conn struct {
	net.Conn
	r *bufio.Reader
}

func dial(addr string) (*conn, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	return &conn{c, bufio.NewReader(c)}, nil
}

// alive reports whether the server has kept c open: every client checks that
// before it reuses a connection.
func (c *conn) alive() bool {
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	var got error
	err = raw.Read(func(fd uintptr) bool {
		_, _, got = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	})
	return err == nil && errors.Is(got, syscall.EAGAIN)
}

// exchange sends one request to t, over an idle connection if there is one and
// reuse is set. The answer must be 200 and end in want.
func exchange(b *balancer, t *target, reuse bool, method, path, body, want string) (failure string) {
	var c *conn
	if reuse {
		c = b.take(t)
	}
	if c == nil {
		var err error
		if c, err = dial(t.addr); err != nil {
			return failed(err, "refused")
		}
	}
	r, err := http.NewRequest(method, "http://"+t.addr+path, strings.NewReader(body))
	if err != nil {
		panic(err) // impossible for the requests made here
	}
	r.Close = !reuse
	c.SetDeadline(time.Now().Add(patience))
	status, answer, failure := c.ask(r)
	switch {
	case failure == "" && status != http.StatusOK:
		failure = "status"
	case failure == "" && !strings.HasSuffix(answer, want):
		failure = "cut"
	}
	if failure == "" && reuse {
		b.keep(t, c)
	} else {
		c.Close()
	}
	return failure
}

func (c *conn) ask(r *http.Request) (status int, body, failure string) {
	if err := r.Write(c); err != nil {
		return 0, "", failed(err, "reset")
	}
	answer, err := http.ReadResponse(c.r, r)
	if err != nil {
		return 0, "", failed(err, "reset")
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, "", failed(err, "cut")
	}
	return answer.StatusCode, string(text), ""
}

// failed returns the word for err.
func failed(err error, otherwise string) string {
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return "timeout"
	}
	return otherwise
}

// probe requests url, host:port/path, over a new connection; any status but 200
// is an error.
func probe(ctx context.Context, url string) error {
	const patience = time.Second
	addr, path, _ := strings.Cut(url, "/")
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	c := &conn{nc, bufio.NewReader(nc)}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+addr+"/"+path, nil)
	if err != nil {
		return err
	}
	r.Close = true
	switch status, _, failure := c.ask(r); {
	case failure != "":
		return errors.New(failure)
	case status != http.StatusOK:
		return fmt.Errorf("status %d", status)
	}
	return nil
}
