package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// A failure is how a request was lost:
//   - refused: no connection came to be
//   - reset: the connection ended before an answer began
//   - cut: the answer, stream or session ended before it was complete
//   - timeout: nothing for patience longer than it was to take
//   - 5xx: an answer, but not a good one
//   - nowhere: the balancer knew no server
//   - keep-alive race: reset on a kept connection that the server closed while
//     the request was on its way; the report tells these from other resets
type failure string

const (
	good    failure = ""
	refused failure = "refused"
	reset   failure = "reset"
	cut     failure = "cut"
	timeout failure = "timeout"
	bad     failure = "5xx"
	nowhere failure = "nowhere"

	keepAliveRace failure = "keep-alive race"
)

var failures = []failure{refused, reset, cut, timeout, bad, nowhere, keepAliveRace}

const (
	patience = 10 * time.Second

	// How long the long ones take. A WebSocket outlives DRAIN_WINDOW, so that
	// it shows which ways wait for it.
	slowTakes   = 2 * time.Second
	streamTakes = 5 * time.Second
	socketTakes = 8 * time.Second
)

// kind is one of the kinds of requests that are sent at the same time.
type kind struct {
	name  string
	about string
	rate  float64 // a second
	send  func(c *clients, ctx context.Context) failure
}

var kinds = []kind{
	{"fresh", "POST, a connection for each request", 8, (*clients).fresh},
	{"kept", "POST on kept-alive connections", 8, (*clients).kept},
	{"slow", "POST that takes 2 s to answer", 2, (*clients).slow},
	{"stream", "GET that is answered in pieces for 5 s", 1, (*clients).stream},
	{"socket", "WebSocket that its client ends after 8 s", 1, (*clients).socket},
	{"unary", "gRPC, one answer", 5, (*clients).unary},
	{"rpcs", "gRPC, a stream of answers for 5 s", 1, (*clients).streamRPC},
	{"command", "database, a connection for each command", 8, (*clients).command},
	{"session", "database, a transaction of 4 s", 1, (*clients).session},
	{name: "job", about: "a worker's job, which takes up to 1.5 s"},
}

func kindNamed(name string) kind {
	for _, k := range kinds {
		if k.name == name {
			return k
		}
	}
	panic("no kind " + name)
}

// clients are what sends requests to one balancer. None is ever sent again.
type clients struct {
	pick     func() string // the address for the next connection, "" for none
	rpc      grpc_testing.TestServiceClient
	protocol database
	quick    string // path of a quick answer
	want     string // what a complete answer ends with, unless ""
	get      bool   // GET in place of POST
	tell     func(loss)

	mu   sync.Mutex
	idle []*conn
}

// send sends requests of the given kinds until ctx ends, and waits for their
// ends. It is open loop: each is sent when it is due, whatever became of those
// before it.
func (c *clients) send(ctx context.Context, names []string, ended func(kind string, f failure)) {
	var all sync.WaitGroup
	for _, name := range names {
		k := kindNamed(name)
		all.Go(func() {
			tick := time.NewTicker(time.Duration(float64(time.Second) / k.rate))
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				all.Go(func() { ended(k.name, k.send(c, context.Background())) })
			}
		})
	}
	all.Wait()
	for _, kept := range c.idle {
		kept.Close()
	}
}

// conn is a client's connection. net/http's client would not do: it sends some
// requests again without telling.
type conn struct {
	net.Conn
	r    *bufio.Reader
	kind string
	used int // requests that it has served
	sent time.Time
	tell func(loss)
}

// loss is what is told of one request that was lost.
type loss struct {
	Kind  string    `json:"kind"`
	How   failure   `json:"how"`
	At    time.Time `json:"at"`
	After float64   `json:"after_s"`        // since it was sent
	Used  int       `json:"used,omitempty"` // requests that its connection had served
	Error string    `json:"error,omitempty"`
}

func (c *clients) dial(kind string) (*conn, failure) {
	addr := c.pick()
	if addr == "" {
		return nil, nowhere
	}
	began := time.Now()
	k := &conn{kind: kind, tell: c.tell}
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		f := failed(err, refused)
		k.lost(f, began, err)
		return nil, f
	}
	k.Conn, k.r = nc, bufio.NewReader(nc)
	return k, good
}

// lost tells that a request of c was lost, where anything wants to know it.
func (c *conn) lost(how failure, sent time.Time, err error) {
	if c.tell == nil {
		return
	}
	l := loss{Kind: c.kind, How: how, At: time.Now().UTC(), After: time.Since(sent).Seconds(), Used: c.used}
	if err != nil {
		l.Error = err.Error()
	}
	c.tell(l)
}

// alive reports whether the server has left c open: any client looks before it
// uses a connection again.
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

// take returns the connection that has been idle longest, or nil.
func (c *clients) take() *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.idle) > 0 {
		k := c.idle[0]
		c.idle = c.idle[1:]
		if k.alive() {
			return k
		}
		k.Close()
	}
	return nil
}

// keep keeps k for a later request, if it is one of the first six.
func (c *clients) keep(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.idle) >= 6 {
		k.Close()
		return
	}
	c.idle = append(c.idle, k)
}

func (c *clients) fresh(context.Context) failure {
	k, f := c.dial("fresh")
	if f != good {
		return f
	}
	defer k.Close()
	return k.exchange(c.method(), c.quick, true, 0, c.want)
}

func (c *clients) kept(context.Context) failure {
	k := c.take()
	if k == nil {
		var f failure
		if k, f = c.dial("kept"); f != good {
			return f
		}
	}
	f := k.exchange(c.method(), c.quick, false, 0, c.want)
	if f != good {
		k.Close()
		return f
	}
	c.keep(k)
	return good
}

func (c *clients) slow(context.Context) failure {
	k, f := c.dial("slow")
	if f != good {
		return f
	}
	defer k.Close()
	return k.exchange(c.method(), fmt.Sprintf("/slow?ms=%d", slowTakes.Milliseconds()), true, slowTakes, c.want)
}

func (c *clients) stream(context.Context) failure {
	k, f := c.dial("stream")
	if f != good {
		return f
	}
	defer k.Close()
	return k.exchange("GET", fmt.Sprintf("/stream?ms=%d", streamTakes.Milliseconds()), true, streamTakes, c.want)
}

func (c *clients) method() string {
	if c.get {
		return "GET"
	}
	return "POST"
}

// exchange sends one request and reads its answer to the end.
func (c *conn) exchange(method, path string, last bool, takes time.Duration, want string) failure {
	c.sent = time.Now()
	f, err := c.request(method, path, last, takes, want)
	if f != good {
		c.lost(f, c.sent, err)
	}
	c.used++
	return f
}

func (c *conn) request(method, path string, last bool, takes time.Duration, want string) (failure, error) {
	var body io.Reader
	if method == "POST" {
		body = strings.NewReader("hello=world")
	}
	r, err := http.NewRequest(method, "http://proof"+path, body)
	if err != nil {
		panic(err) // not with the paths above
	}
	r.Close = last
	c.SetDeadline(time.Now().Add(takes + patience))
	if err := r.Write(c); err != nil {
		return failed(err, reset), err
	}
	c.sent = time.Now() // on a busy machine that is later than it was due
	answer, err := http.ReadResponse(c.r, r)
	if err != nil {
		return failed(err, reset), err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	switch {
	case answer.StatusCode != http.StatusOK:
		return bad, errors.New(answer.Status)
	case err != nil:
		return failed(err, cut), err
	case want != "" && !strings.HasSuffix(strings.TrimSpace(string(text)), want):
		return cut, fmt.Errorf("%d bytes", len(text))
	}
	return good, nil
}

// socket says something every 400 ms and wants to hear it again. It ends the
// session itself.
func (c *clients) socket(ctx context.Context) failure {
	addr := c.pick()
	if addr == "" {
		return nowhere
	}
	ctx, cancel := context.WithTimeout(ctx, socketTakes+patience)
	defer cancel()
	s, answer, err := websocket.Dial(ctx, "ws://"+addr+"/ws", nil)
	if err != nil {
		if answer != nil {
			return bad
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			return refused
		}
		return failed(err, reset)
	}
	defer s.CloseNow()
	for end := time.Now().Add(socketTakes); time.Now().Before(end); time.Sleep(400 * time.Millisecond) {
		if err := s.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
			return failed(err, cut)
		}
		if _, _, err := s.Read(ctx); err != nil {
			return failed(err, cut)
		}
	}
	s.Close(websocket.StatusNormalClosure, "")
	return good
}

func (c *clients) unary(ctx context.Context) failure {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := c.rpc.EmptyCall(ctx, new(grpc_testing.Empty), grpc.WaitForReady(false))
	return failedRPC(err, reset)
}

func (c *clients) streamRPC(ctx context.Context) failure {
	ctx, cancel := context.WithTimeout(ctx, streamTakes+patience)
	defer cancel()
	const every = 200 * time.Millisecond
	r := new(grpc_testing.StreamingOutputCallRequest)
	for range streamTakes / every {
		r.ResponseParameters = append(r.ResponseParameters, &grpc_testing.ResponseParameters{
			Size: 8, IntervalUs: int32(every.Microseconds())})
	}
	s, err := c.rpc.StreamingOutputCall(ctx, r)
	if err != nil {
		return failedRPC(err, reset)
	}
	for {
		if _, err = s.Recv(); err == io.EOF {
			return good
		} else if err != nil {
			return failedRPC(err, cut)
		}
	}
}

// failedRPC returns the word for a gRPC error. The status is UNAVAILABLE for
// every way to lose one; its text tells which it was.
func failedRPC(err error, otherwise failure) failure {
	switch {
	case err == nil:
		return good
	case status.Code(err) == codes.DeadlineExceeded:
		return timeout
	case strings.Contains(err.Error(), "refused"):
		return refused
	case strings.Contains(err.Error(), "HTTP status code"):
		return bad
	}
	return otherwise
}

// failed returns the word for err.
func failed(err error, otherwise failure) failure {
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return timeout
	}
	return otherwise
}
