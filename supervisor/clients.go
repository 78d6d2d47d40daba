package supervisor

import (
	"time"

	"github.com/drainit/drainit/internal/bug"
	"github.com/drainit/drainit/sockets"
)

// reportEvery is how often the log says what a stop waits for.
const reportEvery = 5 * time.Second

// clientWatch is what is known of the child's clients during a stop.
type clientWatch struct {
	until    sockets.Until
	verdicts <-chan sockets.Verdict // nil: the clients are not counted
	done     chan struct{}          // ends the watcher
	last     sockets.Verdict
	atSignal sockets.Verdict // the last one before the signal was forwarded
	reportAt time.Time       // when to log again what the stop waits for

	serving chan serving // what clients can reach the child by, once
	sockets sockets.Serving
	nothing bool // there is nothing that they can reach it by
}

// serving is what Clients.Serving has returned.
type serving struct {
	sockets.Serving
	err error
}

// decides reports whether the clients decide when to forward, and not the
// window alone.
func (c *clientWatch) decides() bool {
	return c.until != sockets.Window && c.verdicts != nil && !c.last.Blind
}

// stop ends the watcher.
func (c *clientWatch) stop() {
	if c.done != nil {
		close(c.done)
	}
}

// watchClients begins to count the clients. They are counted where the window
// alone decides as well, to report what the stop signal may cut short.
func (l *loop) watchClients() {
	if l.Clients == nil {
		return
	}
	l.clients.until = l.Until
	l.clients.done = make(chan struct{})
	l.clients.verdicts = l.Clients.Watch(l.clients.done, l.Until)
	l.findListeners()
}

// findListeners looks for what clients can reach the child by. That reads the
// descriptors of every process, so the loop does not wait for it. The exception
// is DRAIN_SIGNAL, on which the child may close its listeners: it is sent when
// the look has ended, or after lookTime.
func (l *loop) findListeners() {
	result := make(chan serving, 1)
	l.clients.serving = result
	found := make(chan struct{})
	go func() { // ends with the look
		defer close(found)
		defer func() {
			if p := recover(); p != nil {
				bug.Report(l.Log, "the look for listeners", p)
			}
		}()
		s, err := l.Clients.Serving()
		result <- serving{s, err}
	}()
	if l.DrainSignal != 0 {
		select {
		case <-found:
		case <-time.After(lookTime):
		}
	}
}

// lookTime bounds how long DRAIN_SIGNAL waits for the look for listeners.
const lookTime = 100 * time.Millisecond

// onServing handles what clients can reach the child by.
func (l *loop) onServing(s serving) {
	l.clients.serving = nil
	if s.err != nil {
		l.Log.Debug("can't tell what the child listens on", "error", s.err)
		return
	}
	l.clients.sockets, l.clients.nothing = s.Serving, s.Nothing()
	if len(s.UDP)+len(s.Unix) > 0 {
		l.Log.Info("clients of these sockets are not counted", "udp", s.UDP, "unix", s.Unix)
	}
	l.forwardWithoutClients()
}

// forwardWithoutClients ends the wait of a child that has no clients, before
// the window has passed. Such a child listens on nothing, and then an explicit
// DRAIN_WINDOW is obeyed all the same; or its container has never been ready,
// so that nothing was routed to it, and no connection has arrived either.
func (l *loop) forwardWithoutClients() {
	v := l.clients.last
	if l.phase != Draining || l.stop.waitOver || !l.stop.extendedUntil.IsZero() ||
		!v.Known || v.Blind || v.Open > 0 || v.Queued > 0 {
		return
	}
	switch {
	case l.clients.nothing && !l.WindowSet:
		l.decideToForward("no listener")
	case l.stop.neverReady && v.Rate == 0:
		l.decideToForward("never ready")
	}
}

// onVerdict handles what the watcher saw. A verdict holds for this instant
// only: that the condition was met before the end of the window is not
// remembered.
func (l *loop) onVerdict(v sockets.Verdict, ok bool) {
	if !ok {
		// The watcher has ended: counting failed, the window decides.
		l.clients.verdicts = nil
		l.clients.last = sockets.Verdict{Blind: true}
		return
	}
	last := l.clients.last
	l.clients.last = v
	if l.phase != Draining || l.stop.waitOver {
		return
	}
	l.forwardWithoutClients()
	switch {
	case l.stop.waitOver, l.Until == sockets.Window:
	case v.Blind && !last.Blind:
		l.Log.Warn("can't count clients: the window alone decides", "error", v.Err)
	case l.met(v):
		l.decideToForward(string(l.Until))
	case v.Known && !last.Known:
		l.logWaiting()
	}
}

// met reports whether the clients allow to forward at this instant.
func (l *loop) met(v sockets.Verdict) bool {
	return v.Met && !v.Blind && !time.Now().Before(l.windowEnd())
}

// logWaiting reports what the stop waits for, and for how long at most.
func (l *loop) logWaiting() {
	now := time.Now()
	l.clients.reportAt = now.Add(reportEvery)
	what := l.clients.last.Waiting
	if what == "" {
		what = "the window to pass"
	}
	v := l.clients.last
	attrs := []any{"for", what, "at_most", round(l.forwardBy().Sub(now))}
	if v.Evidence != sockets.None {
		attrs = append(attrs, "evidence", string(v.Evidence))
	}
	if v.HoldsFor > 0 {
		attrs = append(attrs, "holds_for", round(min(v.HoldsFor, l.forwardBy().Sub(now))))
	}
	if v.Holder.Peer.IsValid() {
		attrs = append(attrs, "peer", v.Holder.Peer.String(), "port", v.Holder.Port)
	}
	l.Log.Info("waiting", append(attrs, clientAttrs(v)...)...)
}

// warnOfClients reports clients that the stop signal may cut short, and the
// setting that would have waited for them.
func (l *loop) warnOfClients() {
	v := l.clients.atSignal
	if !busy(v) {
		return
	}
	l.Log.Warn("the stop signal was forwarded while clients were not done",
		append(clientAttrs(v), "hint", l.waitHint(v))...)
}

// busy reports whether clients are known to be arriving, waiting or in flight.
func busy(v sockets.Verdict) bool {
	return v.Known && (v.InFlight > 0 || v.Queued > 0 || v.Recent > 0)
}

// waitHint returns the setting that would have waited longer.
func (l *loop) waitHint(v sockets.Verdict) string {
	switch {
	case l.stop.why == "skip":
		return "`drainit skip` ended the wait"
	case l.Until == sockets.Window && v.InFlight == 0:
		return "DRAINIT_DRAIN_UNTIL=quiet waits for them"
	case (l.Until == sockets.Window || l.Until == sockets.Quiet) && v.InFlight > 0:
		return "DRAINIT_DRAIN_UNTIL=idle waits for them"
	}
	return "a longer DRAINIT_GRACE_PERIOD (and the runtime's own limit) leaves more time"
}

// clientAttrs returns the client counts as log attributes, or nil if they are
// unknown.
func clientAttrs(v sockets.Verdict) []any {
	if !v.Known {
		return nil
	}
	return []any{"connections", v.Open, "in_flight", v.InFlight, "accept_queue", v.Queued, "arriving", v.Recent}
}
