package health

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of the port. Probes are small and fast; anything larger or slower is
// disconnected before it costs the container anything.
const (
	// maxConnections is how many are open at once. Each costs 250 bytes here
	// and 4 KB in the kernel. With 3,000 idle connections a second each has
	// 340 ms before it is evicted, and none of 10,000 requests of 400 clients
	// at a time is evicted. (With 64 places, and 250 ms for each, the former
	// made every probe time out; with 20 ms for each, 228 to 759 of the latter
	// were lost.)
	maxConnections = 1024
	// maxHeader bounds the head of a request; browsers' cookies fit.
	maxHeader = 8 << 10
	// maxHeld bounds what all connections together have sent of heads that
	// are not complete, and have still to be sent of answers.
	maxHeld = 128 << 10
	// maxFree is how many closed connections are kept to be used again, so
	// that neither a flood nor a burst makes garbage. All take 80 KB.
	maxFree = 512
	// maxDiscard bounds what is read after a request.
	maxDiscard = 256 << 10
	// minStay is how long a connection is not evicted if another one can be.
	minStay = 250 * time.Millisecond

	readTimeout   = 5 * time.Second
	lingerTimeout = 500 * time.Millisecond
)

// A connection is always in one state, and that has its own time limit.
type state int

const (
	idle      state = iota // has sent nothing
	reading                // has sent a part of a head
	waiting                // for the report it asked for
	writing                // has not read all of its answer
	lingering              // has its answer, and may still be sending
	states
)

var timeouts = [states]time.Duration{readTimeout, readTimeout, readTimeout, readTimeout, lingerTimeout}

// evictable lists the states in the order in which their connections are
// evicted: first those that lose nothing, last those that lose their answer.
var evictable = [states]state{lingering, idle, reading, writing, waiting}

// handler answers the requests that a port receives.
type handler interface {
	// answer returns the response to q at once; one of code 0 if a report is
	// needed.
	answer(q request) response
	// report returns a function that answers any number of requests for
	// reports. It may block.
	report() func(q request) response
	// panicked is called by the deferred function that recovered p.
	panicked(p any)
}

// port accepts connections and answers one request on each.
//
// One goroutine does it all, so that a connection that only waits costs no
// stack, and a flood of them no memory worth mentioning. A second one waits for
// reports, one for all connections that want it at that time.
type port struct {
	handler  handler
	poller   *poller
	listener int
	limit    int
	accepted atomic.Uint64
	buffer   [maxHeader]byte // what was just read
	out      []byte          // what is about to be sent

	mu       sync.Mutex // of everything below, and of each system call: see poller
	open     map[int]*conn
	queues   [states]queue
	free     *conn         // a list of those that can be used again, by next
	frees    int           // its length
	held     int           // bytes, see maxHeld
	wanting  []waiter      // for the next report
	busy     bool          // a report is being made
	resumeAt time.Time     // when to accept again; zero if accepting
	pause    time.Duration // the last one
	ended    bool          // by close
}

// conn is one connection.
type conn struct {
	fd      int
	serial  uint64 // of all that were accepted
	state   state
	since   time.Time // when it got into the state
	watched uint32    // the events that are waited for
	request request
	held    []byte // a part of a head, or what is still to be sent
	unread  bool   // it has sent, or may send, more than its request
	left    int    // bytes that are still discarded

	prev, next *conn // in the queue of its state
}

// timeout returns when c's state times out.
func (c *conn) timeout() time.Time { return c.since.Add(timeouts[c.state]) }

// queue holds the connections in one state, the first to time out in front.
type queue struct{ front, back *conn }

func (q *queue) push(c *conn) {
	c.prev, c.next = q.back, nil
	if q.back == nil {
		q.front = c
	} else {
		q.back.next = c
	}
	q.back = c
}

func (q *queue) remove(c *conn) {
	if c.prev == nil {
		q.front = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		q.back = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
}

// waiter is a connection that waits for a report. If its serial has changed,
// that connection was closed and c is another one.
type waiter struct {
	c      *conn
	serial uint64
}

// newPort takes over ln.
func newPort(ln *net.TCPListener) (p *port, err error) {
	defer ln.Close()
	p = &port{limit: maxConnections, open: make(map[int]*conn)}
	// Leave others of this process half of the descriptors.
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil {
		p.limit = int(max(1, min(uint64(p.limit), files.Cur/2)))
	}
	raw, err := ln.SyscallConn()
	if err != nil {
		return nil, err
	}
	var dupErr error
	err = raw.Control(func(fd uintptr) {
		p.listener, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(err, dupErr); err != nil {
		return nil, err
	}
	if p.poller, err = newPoller(&p.mu); err != nil {
		unix.Close(p.listener)
		return nil, err
	}
	return p, nil
}

// serve answers requests until close, and then returns nil.
func (p *port) serve(h handler) error {
	p.handler = h
	p.mu.Lock()
	p.resumeAt = time.Now()
	p.mu.Unlock()
	for {
		p.handle(nil)
		ready, err := p.poller.wait()
		if p.isClosed() {
			return nil
		}
		if err != nil {
			return err
		}
		p.handle(ready)
	}
}

// handle deals with the sockets that are ready and with what is due.
func (p *port) handle(ready []unix.EpollEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	for _, e := range ready {
		if fd := int(e.Fd); fd == p.listener {
			p.accept()
		} else if c := p.open[fd]; c != nil {
			p.proceed(c)
		} else {
			p.poller.watch(fd, e.Events, 0) // or it would be ready for ever
		}
	}
	p.expire()
	p.rest()
}

// rest sets when to wake up next.
func (p *port) rest() {
	next := p.resumeAt
	for i := range p.queues {
		if c := p.queues[i].front; c != nil {
			if at := c.timeout(); next.IsZero() || at.Before(next) {
				next = at
			}
		}
	}
	p.poller.wakeAt(next)
}

// acceptBatch bounds how long connections wait for new ones to be accepted.
const acceptBatch = 64

// accept accepts connections and answers those that have sent their request
// already, as most have.
func (p *port) accept() {
	for range acceptBatch {
		fd, err := accept(p.listener)
		switch {
		case err == nil:
			p.pause = 0
			p.add(fd)
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
		default:
			// Out of descriptors or memory. Connections that wait for nothing
			// may have them; or it passes. A probe is late by a second at most.
			if !p.evict() {
				p.pause = min(max(2*p.pause, 5*time.Millisecond), time.Second)
				p.resumeAt = time.Now().Add(p.pause)
				p.poller.watch(p.listener, unix.EPOLLIN, 0)
				return
			}
		}
	}
}

func (p *port) add(fd int) {
	if len(p.open) >= p.limit {
		p.evict()
	}
	c := p.free
	if c == nil {
		c = new(conn)
	} else {
		p.free, p.frees = c.next, p.frees-1
	}
	*c = conn{fd: fd, serial: p.accepted.Add(1), since: time.Now()}
	p.open[fd] = c
	p.queues[idle].push(c)
	p.proceed(c)
}

// evict closes a connection, and reports whether there was one: of those that
// have been in their state for minStay the one that loses the least by it, else
// the oldest.
func (p *port) evict() bool {
	var oldest *conn
	for _, s := range evictable {
		c := p.queues[s].front
		switch {
		case c == nil:
			continue
		case time.Since(c.since) >= minStay:
			p.drop(c)
			return true
		case oldest == nil || c.since.Before(oldest.since):
			oldest = c
		}
	}
	if oldest != nil {
		p.drop(oldest)
	}
	return oldest != nil
}

// expire closes connections that have timed out, and accepts again after a
// pause.
func (p *port) expire() {
	now := time.Now()
	for i := range p.queues {
		for c := p.queues[i].front; c != nil && !now.Before(c.timeout()); c = p.queues[i].front {
			p.drop(c)
		}
	}
	if !p.resumeAt.IsZero() && !now.Before(p.resumeAt) {
		p.resumeAt = time.Time{}
		if p.poller.watch(p.listener, 0, unix.EPOLLIN) != nil {
			p.resumeAt = now.Add(time.Second)
		}
	}
}

// move puts c in state s.
func (p *port) move(c *conn, s state) {
	p.queues[c.state].remove(c)
	c.state, c.since = s, time.Now()
	p.queues[s].push(c)
}

// drop closes c. Dropping it twice does nothing.
func (p *port) drop(c *conn) {
	if p.open[c.fd] != c {
		return
	}
	p.queues[c.state].remove(c)
	delete(p.open, c.fd)
	p.hold(c, nil)
	unix.Close(c.fd)
	c.serial = 0
	if p.frees < maxFree {
		c.next, p.free, p.frees = p.free, c, p.frees+1
	}
}

// hold replaces what c holds, and evicts connections that hold something while
// that is too much.
func (p *port) hold(c *conn, held []byte) {
	p.held += len(held) - len(c.held)
	c.held = held
	for _, s := range []state{reading, writing} {
		for c := p.queues[s].front; c != nil && p.held > maxHeld; c = p.queues[s].front {
			p.drop(c)
		}
	}
}

// proceed does what can be done for c without waiting. A panic costs only this
// connection.
func (p *port) proceed(c *conn) {
	defer func() {
		if v := recover(); v != nil {
			p.handler.panicked(v)
			p.drop(c)
		}
	}()
	switch c.state {
	case idle, reading:
		p.read(c)
	case writing:
		p.write(c, c.held)
	case lingering:
		p.discard(c)
	}
}

// receive reads into b. It returns ok false if c waits for more, or was closed
// because it has ended.
func (p *port) receive(c *conn, b []byte) (n int, ok bool) {
	n, err := unix.Read(c.fd, b)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		p.watch(c, unix.EPOLLIN)
		return 0, false
	case err != nil || n == 0:
		p.drop(c) // as a tcpSocket probe does
		return 0, false
	}
	return n, true
}

// watch waits for events on c. It returns false if that fails and c is closed.
func (p *port) watch(c *conn, events uint32) bool {
	if err := p.poller.watch(c.fd, c.watched, events); err != nil {
		p.drop(c)
		return false
	}
	c.watched = events
	return true
}

// read reads c's head, and answers it once it is complete.
func (p *port) read(c *conn) {
	n, ok := p.receive(c, p.buffer[len(c.held):])
	if !ok {
		return
	}
	copy(p.buffer[:], c.held)
	data := p.buffer[:len(c.held)+n]
	end := headEnd(data)
	switch {
	case end >= 0:
		p.answer(c, data[:end], len(data) > end)
	case !isTokenByte(data[0]):
		// TLS, say, whose client would wait for an answer.
		p.respond(c, text(400, "malformed HTTP request"), true)
	case len(data) == len(p.buffer):
		p.respond(c, text(431, "request head too large"), true)
	default:
		if c.state == idle {
			p.move(c, reading)
		}
		if p.watch(c, unix.EPOLLIN) {
			p.hold(c, append(c.held, data[len(c.held):]...))
		}
	}
}

// answer answers the request with that head. more is true if c has sent more
// than that.
func (p *port) answer(c *conn, head []byte, more bool) {
	q, rejected := parseRequest(head)
	c.request = q
	if rejected.code != 0 {
		p.respond(c, rejected, true)
		return
	}
	c.unread = more || q.body
	if r := p.handler.answer(q); r.code != 0 {
		p.respond(c, r, c.unread)
		return
	}
	p.move(c, waiting)
	if !p.watch(c, 0) {
		return
	}
	p.wanting = append(p.wanting, waiter{c, c.serial})
	if !p.busy {
		p.busy = true
		go p.reportAll() // ends when no connection waits for one
	}
}

// reportAll answers the connections that wait for a report.
func (p *port) reportAll() {
	for {
		p.mu.Lock()
		batch := p.wanting
		p.wanting = nil
		p.busy = len(batch) > 0
		p.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		p.reportTo(batch)
	}
}

func (p *port) reportTo(batch []waiter) {
	defer func() {
		if v := recover(); v != nil {
			p.handler.panicked(v)
		}
	}()
	answer := p.handler.report()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	for _, w := range batch {
		if c := w.c; c.serial == w.serial {
			p.respond(c, answer(c.request), c.unread)
		}
	}
	p.rest()
}

// respond sends r. unread is true if c has sent, or may still send, what is not
// read.
func (p *port) respond(c *conn, r response, unread bool) {
	c.unread = unread
	p.out = r.appendTo(p.out[:0], c.request.method == "HEAD")
	p.write(c, p.out)
}

// write sends out to c, and what doesn't fit later.
func (p *port) write(c *conn, out []byte) {
	for len(out) > 0 {
		// Without MSG_NOSIGNAL a client that has left would cost a SIGPIPE.
		n, err := unix.SendmsgN(c.fd, out, nil, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == unix.EAGAIN:
			if c.state != writing {
				p.move(c, writing)
			}
			if p.watch(c, unix.EPOLLOUT) {
				p.hold(c, bytes.Clone(out))
			}
			return
		case err != nil && err != unix.EINTR:
			p.drop(c)
			return
		}
		out = out[max(n, 0):]
	}
	p.hold(c, nil)
	if !c.unread {
		p.drop(c)
		return
	}
	// Closing with bytes of the client's unread would reset the connection, and
	// the answer might be lost.
	unix.Shutdown(c.fd, unix.SHUT_WR)
	c.left = maxDiscard
	p.move(c, lingering)
	p.discard(c)
}

// discard reads what a client sends after its request.
func (p *port) discard(c *conn) {
	for c.left > 0 {
		n, ok := p.receive(c, p.buffer[:])
		if !ok {
			return
		}
		c.left -= n
	}
	p.drop(c)
}

// close ends serve and every connection.
func (p *port) close() error {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return nil
	}
	p.ended = true
	for _, c := range p.open {
		p.drop(c)
	}
	err := unix.Close(p.listener)
	p.mu.Unlock()
	// Unlocked: it waits for a wait in progress, and that needs the lock.
	return errors.Join(p.poller.close(), err)
}

func (p *port) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}
