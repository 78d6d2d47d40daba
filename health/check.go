package health

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"time"
)

// Result is what a readiness check found.
type Result struct {
	OK     bool
	Reason string // why not, or what was seen
	Hint   string // for the log, once: something is odd
}

// How often a child that is starting is looked at, and when somebody should be
// told that it may never do what is waited for.
const (
	startingInterval = 200 * time.Millisecond
	patience         = 30 * time.Second
	lateInterval     = time.Second // once patience is at its end
)

// Check looks once.
type Check func(ctx context.Context) Result

// Started is the check of a child that counts as ready once it runs.
func Started(context.Context) Result {
	return Result{OK: true, Reason: "the child was started (DRAINIT_READY_CHECK=started looks no further)"}
}

// Listening is the check of a child that counts as ready once ports, which
// looks without connecting, finds one.
func Listening(ports func() ([]uint16, error)) Check {
	return func(context.Context) Result {
		found, err := ports()
		switch {
		case err != nil:
			return Result{Reason: "can't see listening sockets: " + err.Error()}
		case len(found) == 0:
			return Result{Reason: "no listening TCP socket yet"}
		}
		return Result{OK: true, Reason: fmt.Sprintf("listening on %d", found[0])}
	}
}

// TCP is the check of a child that counts as ready while addr accepts a
// connection within timeout.
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

// HTTP is the check of a child that counts as ready while a GET of u answers
// with 200 to 399 within timeout. As the kubelet's, it makes a connection of
// its own each time; redirects are an answer and are not followed.
func HTTP(u *url.URL, timeout time.Duration, dialed func()) Check {
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
		code, _, _, err := get(c, u.Host, u.RequestURI(), "drainit-readiness")
		if err != nil {
			return Result{Reason: fmt.Sprintf("GET %s: no answer: %.200s", u, err)}
		}
		return Result{OK: code >= 200 && code < 400, Reason: fmt.Sprintf("GET %s: %d", u, code)}
	}
}

func dial(ctx context.Context, addr string, timeout time.Duration, dialed func()) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout, KeepAlive: -1}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if l, r := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr); l.IP.Equal(r.IP) {
		dialed() // one that arrives here too, and is no client
	}
	return c, c.SetDeadline(time.Now().Add(timeout))
}

// Watch runs check and sends what changes until ctx ends: often until it
// first passes, and then every interval, or no more if interval is 0. hint is
// for the log if the child is not ready after a while.
func Watch(ctx context.Context, check Check, interval time.Duration, hint string, out chan<- Result) {
	var last Result
	began, ready, hinted := time.Now(), false, false
	for n := 1; ; n++ {
		r := check(ctx)
		if ctx.Err() != nil {
			return
		}
		if r.OK && !ready || n%trimEvery == 0 {
			ReleaseMemory()
		}
		ready = ready || r.OK
		if !ready && !hinted && time.Since(began) >= patience {
			hinted = true
			r.Hint = fmt.Sprintf("not ready after %s: %s%s", patience, r.Reason, hint)
		}
		if !ready && hinted {
			r.Reason += hint
		}
		if n == 1 || r != last {
			select {
			case out <- r:
			case <-ctx.Done():
				return
			}
			r.Hint = ""
			last = r
		}
		wait := interval
		if !ready && hinted {
			wait = max(interval, lateInterval)
		} else if !ready {
			wait = startingInterval
		} else if interval == 0 {
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}
