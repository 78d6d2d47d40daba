package health

import (
	"context"
	"fmt"
	"time"
)

// Liveness configures WatchLiveness.
type Liveness struct {
	Check    Check
	Interval time.Duration // between two checks
	Failures int           // in a row, before the child is not alive; at least 1
}

// WatchLiveness runs a liveness check until ctx ends. It sends a failed Result
// once as many checks in a row have failed as l.Failures says, another one when
// the reason changes, and one that is OK when a check passes again.
//
// Nothing is sent while the child is alive, and failures do not count before
// the first pass: a server that takes long to start must not be restarted for
// that. One that never starts fails /startupz and /readyz.
func WatchLiveness(ctx context.Context, l Liveness, out chan<- Result) {
	poll(ctx, l.Check, &liveness{interval: l.Interval, limit: max(l.Failures, 1)}, out)
}

// liveness is the state of WatchLiveness.
type liveness struct {
	interval time.Duration
	limit    int    // failures in a row
	passed   bool   // once
	failed   int    // in a row
	sent     Result // the last failure sent; zero while alive
}

// wait returns the time until the next check: there always is one.
func (l *liveness) wait() (time.Duration, bool) { return l.interval, true }

// next returns what a check that returned r means, and whether that is to be
// sent.
func (l *liveness) next(r Result) (Result, bool) {
	if r.OK {
		back := l.failed >= l.limit
		l.passed, l.failed, l.sent = true, 0, Result{}
		return r, back
	}
	if !l.passed {
		return r, false
	}
	if l.failed < l.limit {
		l.failed++
	}
	if l.failed < l.limit {
		return r, false
	}
	r.Reason = fmt.Sprintf("the liveness check failed %s: %s", times(l.limit), r.Reason)
	changed := r != l.sent
	l.sent = r
	return r, changed
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times in a row", n)
}
