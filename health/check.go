package health

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"time"
)

// Result is the outcome of a check.
type Result struct {
	OK     bool
	Reason string // why the check failed, or what it found
	Hint   string // to be logged, once
}

// While the child starts it is checked often. After patience the result
// carries a hint that the condition may never be met.
const (
	startingInterval = 200 * time.Millisecond
	patience         = 30 * time.Second
	lateInterval     = time.Second // from then on
)

// Check checks the child once. It returns soon after ctx ends.
type Check func(ctx context.Context) Result

// Started is the check for a child that counts as ready once it runs.
func Started(context.Context) Result {
	return Result{OK: true, Reason: "the child was started (DRAINIT_READY_CHECK=started checks nothing else)"}
}

// Bypassed is the check in place of any other where drainit is bypassed.
func Bypassed(context.Context) Result {
	return Result{OK: true, Reason: "the child was started (DRAINIT_BYPASS: nothing else is checked)"}
}

// Listening returns a check that passes once the child listens on a TCP port.
// ports returns those ports, without connecting to them.
//
// It proves that the server has bound its port, and nothing else: the server
// may hang, or answer every request with an error. An http:// check asks it.
func Listening(ports func() ([]uint16, error)) Check {
	return func(context.Context) Result {
		found, err := ports()
		switch {
		case err != nil:
			return Result{Reason: "can't read the listening sockets: " + err.Error()}
		case len(found) == 0:
			return Result{Reason: "no listening TCP socket yet"}
		}
		return Result{OK: true, Reason: fmt.Sprintf("listening on %d", found[0])}
	}
}

// TCP returns a check that passes while addr accepts a connection within
// timeout. The kernel accepts on behalf of a server that hangs, until the
// backlog is full: http:// is the better check.
//
// dialed is called for each connection that the child counts as a client.
func TCP(addr string, timeout time.Duration, dialed func()) Check {
	return func(ctx context.Context) Result {
		c, err := dial(ctx, addr, timeout, dialed)
		if err != nil {
			return Result{Reason: err.Error()}
		}
		c.Close()
		return Result{OK: true, Reason: addr + " accepts connections"}
	}
}

// HTTP returns a check that passes while a GET of u is answered with a status
// from 200 to 399 within timeout. Like the kubelet, it opens a new connection
// each time and does not follow redirects. agent is its User-Agent.
func HTTP(u *url.URL, timeout time.Duration, agent string, dialed func()) Check {
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), "80")
	}
	return func(ctx context.Context) Result {
		c, err := dial(ctx, addr, timeout, dialed)
		if err != nil {
			return Result{Reason: err.Error()}
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })()
		code, _, _, err := get(c, u.Host, u.RequestURI(), agent)
		if err != nil {
			return Result{Reason: fmt.Sprintf("GET %s: no answer: %.200s", u, err)}
		}
		return Result{OK: code >= 200 && code < 400, Reason: fmt.Sprintf("GET %s: %d", u, code)}
	}
}

func dial(ctx context.Context, addr string, timeout time.Duration, dialed func()) (net.Conn, error) {
	deadline := time.Now().Add(timeout)
	d := net.Dialer{Deadline: deadline, KeepAlive: -1}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	// A connection to an address of this network namespace is accepted in it
	// too, where it would be mistaken for a client.
	if l, r := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr); l.IP.Equal(r.IP) {
		dialed()
	}
	return c, c.SetDeadline(deadline)
}

// Watch runs check until ctx ends and sends each result that differs from the
// one before: often until the first pass, then every interval, or never again
// if interval is 0. If the child is not ready after patience, hint is appended
// to the reason, and the first such result has it as its Hint.
func Watch(ctx context.Context, check Check, interval time.Duration, hint string, out chan<- Result) {
	poll(ctx, check, &watch{began: time.Now(), interval: interval, hint: hint}, out)
}

// history decides what results come to.
type history interface {
	// next returns what is to be sent for a result, and whether it is.
	next(Result) (Result, bool)
	// wait returns the time until the next check, and whether there is to be
	// one.
	wait() (time.Duration, bool)
}

// poll runs check until ctx or h ends it, and sends what h says.
func poll(ctx context.Context, check Check, h history, out chan<- Result) {
	for {
		r := check(ctx)
		if ctx.Err() != nil {
			return
		}
		if r, changed := h.next(r); changed {
			select {
			case out <- r:
			case <-ctx.Done():
				return
			}
		}
		wait, again := h.wait()
		if !again {
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// watch is the state of Watch.
type watch struct {
	began    time.Time
	interval time.Duration
	hint     string

	checked bool   // once
	last    Result // the one before, without its hint
	ready   bool   // the check has passed once
	hinted  bool
}

// next returns r with the hint it needs, and whether it differs from the one
// before.
func (w *watch) next(r Result) (Result, bool) {
	w.ready = w.ready || r.OK
	hint := ""
	if !w.ready && !w.hinted && time.Since(w.began) >= patience {
		w.hinted = true
		hint = fmt.Sprintf("not ready after %s: %s%s", patience, r.Reason, w.hint)
	}
	if !w.ready && w.hinted {
		r.Reason += w.hint
	}
	changed := !w.checked || r != w.last || hint != ""
	w.checked, w.last = true, r
	return Result{r.OK, r.Reason, hint}, changed
}

// wait returns the time until the next check, and whether there is to be one.
func (w *watch) wait() (time.Duration, bool) {
	switch {
	case w.ready:
		return w.interval, w.interval > 0
	case w.hinted:
		return max(w.interval, lateInterval), true
	}
	return startingInterval, true
}
