package supervisor

import (
	"time"

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
}

// decide reports whether the clients decide when to forward, and not the
// window alone.
func (c *clientWatch) decide() bool {
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
}

// onVerdict handles what the watcher saw. A verdict is about this instant: one
// that comes before the window has passed is of no use later.
func (l *loop) onVerdict(v sockets.Verdict, ok bool) {
	if !ok {
		// The watcher has ended: counting failed, the window decides.
		l.clients.verdicts = nil
		l.clients.last = sockets.Verdict{Blind: true}
		return
	}
	last := l.clients.last
	l.clients.last = v
	if l.phase != Draining || l.stop.mayForward {
		return
	}
	switch {
	case l.stop.neverReady && l.stop.extendedUntil.IsZero() && noClients(v):
		l.decideToForward("never ready")
	case l.Until == sockets.Window:
	case v.Blind && !last.Blind:
		l.Log.Warn("can't count clients: the window alone decides", "error", v.Err)
	case v.Met && !v.Blind && !time.Now().Before(l.windowEnd()):
		l.decideToForward(string(l.Until))
	case v.Known && !last.Known:
		l.logWaiting()
	}
}

// noClients reports whether no client has been seen, before the stop or since.
// Nothing was routed then to a container that has never been ready, as in a
// rollout that is rolled back or in a crash loop: the window would serve nothing.
func noClients(v sockets.Verdict) bool {
	return v.Known && !v.Blind && v.Open == 0 && v.InFlight == 0 && v.Queued == 0 && v.Rate == 0
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
	l.Log.Info("waiting", "for", what, "at_most", l.forwardBy().Sub(now).Round(100*time.Millisecond),
		"connections", v.Open, "in_flight", v.InFlight, "accept_queue", v.Queued)
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
	return v.Known && (v.InFlight > 0 || v.Queued > 0)
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
	return []any{"connections", v.Open, "in_flight", v.InFlight, "accept_queue", v.Queued}
}
