package integration_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// drainLoss is the way in which a client lost its request.
type drainLoss string

const (
	drainRefused drainLoss = "refused" // no connection
	drainReset   drainLoss = "reset"   // closed before the answer began
	drainCut     drainLoss = "cut"     // closed in the middle of it
	drainTimeout drainLoss = "timeout"
)

var drainLosses = []drainLoss{drainRefused, drainReset, drainCut, drainTimeout}

// drainPatience is how long a client waits.
const drainPatience = 15 * time.Second

// drainLoad is the clients of one server, and the balancer that sends them. It
// writes HTTP by hand: net/http would silently retry what is lost.
type drainLoad struct {
	net    *drainNet
	addr   string
	seed   uint64
	secure bool // TLS

	t0      time.Time     // written under mu; valid once stopped is closed
	stopped chan struct{} // closed at t0
	moved   chan struct{} // closed when the balancer has stopped sending here
	over    chan struct{} // closed when the run is over
	clients sync.WaitGroup

	mu       sync.Mutex
	started  uint64
	requests int
	lost     map[drainLoss]int
	slow     []time.Duration // when slow requests that were lost had been sent, since t0
	details  []string
}

func newDrainLoad(n *drainNet, addr string, seed uint64) *drainLoad {
	return &drainLoad{net: n, addr: addr, seed: seed, lost: map[drainLoss]int{},
		stopped: make(chan struct{}), moved: make(chan struct{}), over: make(chan struct{})}
}

// listens waits until the server listens.
func (l *drainLoad) listens(t *testing.T, p drainSubject) {
	t.Helper()
	eventually(t, "the server listens", func() bool {
		if drainClosed(p.done) {
			t.Fatalf("the server has ended: %s", p.log())
		}
		c, err := l.net.dial(l.addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// stop marks t0.
func (l *drainLoad) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t0 = time.Now()
	close(l.stopped)
}

// balance moves the clients to another endpoint some time after readiness
// turns, or after t0 where there is no readiness port, as an endpoint's removal
// would. It probes readiness all the time, as kubelets do.
func (l *drainLoad) balance(health string, late time.Duration) {
	defer close(l.moved)
	for health != "" && l.ready(health) {
		time.Sleep(250 * time.Millisecond)
	}
	<-l.stopped
	time.Sleep(late)
}

func (l *drainLoad) ready(health string) bool {
	c, err := l.connect(health)
	if err != nil {
		return false
	}
	defer c.Close()
	code, _, err := c.ask("/readyz", true)
	return err == nil && code == 200
}

// finish waits until the clients have ended.
func (l *drainLoad) finish(t *testing.T) {
	t.Helper()
	close(l.over)
	done := make(chan struct{})
	go func() { defer close(done); l.clients.Wait() }()
	select {
	case <-done:
	case <-time.After(2 * drainPatience):
		t.Fatal("the clients don't come to an end")
	}
}

func (l *drainLoad) losses() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.lost {
		n += k
	}
	return n
}

// random returns a source for one client, the same in every run.
func (l *drainLoad) random() *rand.Rand {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.started++
	return rand.New(rand.NewPCG(l.seed, l.started))
}

// record counts the outcome of a request. answering says that its answer had
// begun.
func (l *drainLoad) record(what string, began time.Time, answering bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests++
	if err == nil {
		return
	}
	kind := drainReset
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		kind = drainRefused
	case errors.Is(err, os.ErrDeadlineExceeded):
		kind = drainTimeout
	case answering:
		kind = drainCut
	}
	l.lost[kind]++
	if strings.HasPrefix(what, "/?ms=") && drainClosed(l.stopped) {
		l.slow = append(l.slow, began.Sub(l.t0))
	}
	when := "before the stop"
	if drainClosed(l.stopped) {
		when = fmt.Sprintf("asked %.3fs and lost %.3fs after the stop signal", began.Sub(l.t0).Seconds(), time.Since(l.t0).Seconds())
	}
	l.details = append(l.details, fmt.Sprintf("%s: %s, %s: %v", what, kind, when, err))
}

// drainConn is the connection of a client.
type drainConn struct {
	net.Conn
	r *bufio.Reader
}

func (l *drainLoad) connect(addr string) (*drainConn, error) {
	c, err := l.net.dial(addr, drainPatience)
	if err != nil {
		return nil, err
	}
	if l.secure && addr == l.addr {
		c.SetDeadline(time.Now().Add(drainPatience))
		secure := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		if err := secure.Handshake(); err != nil {
			c.Close()
			return nil, err
		}
		c = secure
	}
	return &drainConn{c, bufio.NewReader(c)}, nil
}

// ask sends a request and reads the whole answer. It reports whether the answer
// had begun.
func (c *drainConn) ask(path string, last bool) (code int, answering bool, err error) {
	c.SetDeadline(time.Now().Add(drainPatience))
	header := ""
	if last {
		header = "Connection: close\r\n"
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: drain\r\n%s\r\n", path, header); err != nil {
		return 0, false, err
	}
	if _, err := c.r.Peek(1); err != nil {
		return 0, false, err
	}
	r, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return 0, true, err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return r.StatusCode, true, err
}

// pause waits, and reports whether the server has closed the connection
// meanwhile.
func (c *drainConn) pause(d time.Duration) (closed bool) {
	c.SetReadDeadline(time.Now().Add(d))
	_, err := c.r.Peek(1)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// visit sends one request on a new connection.
func (l *drainLoad) visit(path string) {
	began := time.Now()
	c, err := l.connect(l.addr)
	if err != nil {
		l.record(path, began, false, err)
		return
	}
	defer c.Close()
	what := path + " from " + c.LocalAddr().String()
	_, answering, err := c.ask(path, true)
	l.record(what, began, answering, err)
}

// crawl sends one request, and reads its answer slowly.
func (l *drainLoad) crawl(path string, during time.Duration) {
	began := time.Now()
	c, err := l.connect(l.addr)
	if err != nil {
		l.record(path, began, false, err)
		return
	}
	defer c.Close()
	c.SetDeadline(began.Add(during + drainPatience))
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: drain\r\nConnection: close\r\n\r\n", path)
	r, err := http.ReadResponse(c.r, nil)
	if err != nil {
		l.record(path, began, false, err)
		return
	}
	step := r.ContentLength/50 + 1
	for err == nil {
		time.Sleep(during / 50)
		_, err = io.CopyN(io.Discard, r.Body, step)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	l.record(path, began, true, err)
}

// arrive starts clients with one request each at random instants, at the given
// average rate per second, until they are moved to another endpoint.
func (l *drainLoad) arrive(rate float64, path func(r *rand.Rand) string) {
	random := l.random()
	l.clients.Go(func() {
		next := time.Now()
		for {
			next = next.Add(drainExponential(random, time.Duration(float64(time.Second)/rate)))
			select {
			case <-l.moved:
				return
			case <-time.After(time.Until(next)):
			}
			// Those that were due in the meantime, if the machine was busy.
			target := path(random)
			l.clients.Go(func() { l.visit(target) })
		}
	})
}

func drainExponential(r *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(r.ExpFloat64() * float64(mean))
}

// keep runs a client that keeps its connection, and sends a request after each
// pause. Once moved to another endpoint it closes the connection or leaves it
// idle; if it stays, it continues until the server closes.
func (l *drainLoad) keep(pause time.Duration, stays bool, path func(r *rand.Rand) string) {
	random := l.random()
	l.clients.Go(func() {
		for !l.isMoved() {
			began := time.Now()
			c, err := l.connect(l.addr)
			if err != nil {
				l.record("keep-alive", began, false, err)
				time.Sleep(100 * time.Millisecond)
				continue
			}
			l.session(c, random, pause, stays, path)
			c.Close()
		}
	})
}

// session sends requests on one connection until it is closed.
func (l *drainLoad) session(c *drainConn, random *rand.Rand, pause time.Duration, stays bool, path func(r *rand.Rand) string) {
	for {
		// A connection that is closed between two requests loses none.
		if c.pause(drainExponential(random, pause)) {
			return
		}
		if l.isMoved() && !stays {
			break
		}
		target, began := path(random), time.Now()
		_, answering, err := c.ask(target, false)
		l.record(target+" kept by "+c.LocalAddr().String(), began, answering, err)
		if err != nil {
			return
		}
	}
	if random.IntN(2) == 0 {
		return
	}
	for !c.pause(100*time.Millisecond) && !l.isOver() {
	}
}

func (l *drainLoad) isMoved() bool { return drainClosed(l.moved) }
func (l *drainLoad) isOver() bool  { return drainClosed(l.over) }

func drainClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// socket opens a WebSocket, which the client closes at the given time after t0.
// It sends a message from time to time, unless it is silent.
func (l *drainLoad) socket(t *testing.T, after time.Duration, silent bool) {
	t.Helper()
	random := l.random()
	c, err := l.connect(l.addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(drainPatience))
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: drain\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZHJhaW5pdCBkcmFpbmluZw==\r\n\r\n")
	r, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.StatusCode != 101 {
		t.Fatalf("no WebSocket: %s", r.Status)
	}
	l.clients.Go(func() {
		defer c.Close()
		began := time.Now()
		<-l.stopped
		err := c.chat(l.t0.Add(after), random, silent)
		l.record(fmt.Sprintf("WebSocket until %s from %s", after, c.LocalAddr()), began, true, err)
	})
}

// chat exchanges messages until then, and closes. It fails if the server closes
// first.
func (c *drainConn) chat(until time.Time, random *rand.Rand, silent bool) error {
	for time.Now().Before(until) {
		next := time.Now().Add(300*time.Millisecond + drainExponential(random, 500*time.Millisecond))
		if next.After(until) || silent {
			next = until
		}
		for time.Now().Before(next) {
			c.SetReadDeadline(next)
			if _, err := c.r.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err := c.frame(); err != nil {
				return err
			}
		}
		if !silent {
			c.SetWriteDeadline(time.Now().Add(drainPatience))
			if err := c.send(0x1, []byte("hello")); err != nil {
				return err
			}
		}
	}
	c.SetDeadline(time.Now().Add(drainPatience))
	if err := c.send(0x8, []byte{0x03, 0xe8}); err != nil { // 1000
		return err
	}
	for {
		err := c.frame()
		if errors.Is(err, errDrainClosed) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var errDrainClosed = errors.New("the server has closed the WebSocket")

// frame reads a short frame.
func (c *drainConn) frame() error {
	var h [2]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return err
	}
	b := make([]byte, h[1]&0x7f)
	if _, err := io.ReadFull(c.r, b); err != nil {
		return err
	}
	switch h[0] & 0xf {
	case 0x8:
		return errDrainClosed
	case 0x9:
		return c.send(0xa, b)
	}
	return nil
}

// send sends a short frame, masked with zeros.
func (c *drainConn) send(opcode byte, b []byte) error {
	_, err := c.Write(append([]byte{0x80 | opcode, 0x80 | byte(len(b)), 0, 0, 0, 0}, b...))
	return err
}

// drainPaths picks slow paths with that probability.
func drainPaths(slow float64, ms int) func(*rand.Rand) string {
	return func(r *rand.Rand) string {
		if r.Float64() < slow {
			return fmt.Sprintf("/?ms=%d", ms)
		}
		return "/"
	}
}
