package supervisor

import (
	"maps"
	"os"
	"time"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/sockets"
)

// status returns everything that is known at this instant, for /statusz and
// /metrics.
func (l *loop) status() health.Status {
	now := time.Now()
	a := l.Gate.Get()
	s := health.Status{
		Phase:    l.phase.String(),
		Since:    l.times.since,
		PID:      os.Getpid(),
		ChildPID: l.System.PID(),
		Started:  l.times.start,
		Uptime:   now.Sub(l.times.start).Seconds(),
		Ready:    a.Ready,
		Drained:  l.readiness.declinedByOperator,
		Text:     l.child.statusText,
		Alive:    a.NotAlive == "",
		Signals:  make(map[string]health.Count),
		Reaped:   l.reaped,
		Config:   maps.Clone(l.Config),
		Phases:   make(map[string]float64),
	}
	if !a.Ready {
		s.Reason = a.Reason
	}
	for sig, c := range l.counts {
		s.Signals[SignalName(sig)] = *c
	}
	for _, p := range Phases {
		s.Order = append(s.Order, p.String())
		s.Phases[p.String()] = l.times.in(p, l.phase, now).Seconds()
	}
	if l.LogDropped != nil {
		s.Dropped = l.LogDropped()
	}
	if l.NotifyRefusals != nil {
		refusals := l.NotifyRefusals()
		s.Notify = &refusals
	}
	if l.stop.begun() {
		s.Stop = l.stopStatus()
	}
	if l.clients.verdicts != nil {
		s.Clients = l.clientStatus()
	}
	return s
}

// clientStatus returns the part of the status that is about the clients.
func (l *loop) clientStatus() *health.Clients {
	v := l.clients.last
	c := &health.Clients{
		Known:     v.Known,
		Open:      v.Open,
		InFlight:  v.InFlight,
		Suspected: v.Suspected,
		Queued:    v.Queued,
		Arrived:   v.Arrived,
		Requests:  v.Requests,
		Rate:      v.Rate,
		UDP:       l.clients.sockets.UDP,
		Unix:      l.clients.sockets.Unix,
		AtForward: l.atForward(),
	}
	if v.Evidence != sockets.None && l.phase == Draining {
		c.Evidence, c.Why, c.HoldsFor = string(v.Evidence), v.Holder.Why, v.HoldsFor.Seconds()
		c.Since = v.Holder.For.Seconds()
		if v.Holder.Peer.IsValid() {
			c.Peer, c.Port = v.Holder.Peer.String(), v.Holder.Port
		}
	}
	return c
}

// atForward returns the clients at the instant of the forwarding, or nil
// before.
func (l *loop) atForward() *health.AtForward {
	if l.stop.forwarded.IsZero() {
		return nil
	}
	v := l.clients.atSignal
	return &health.AtForward{
		Known:    v.Known,
		Open:     v.Open,
		InFlight: v.InFlight,
		Queued:   v.Queued,
		Arrived:  v.Arrived,
		Quiet:    v.QuietFor.Seconds(),
	}
}

// stopStatus returns the part of the status that is about the stop.
func (l *loop) stopStatus() *health.Stop {
	s := &health.Stop{
		T0:         l.stop.at,
		AskedBy:    l.stop.by,
		ForwardBy:  l.forwardBy(),
		KillAt:     l.killAt(),
		MayForward: l.stop.waitOver || l.phase > Draining,
		Signal:     SignalName(l.stopSignal()),
		Why:        l.stop.why,
		Elapsed:    time.Since(l.stop.at).Seconds(),
		ForwardIn:  time.Until(l.forwardBy()).Seconds(),
		KillIn:     time.Until(l.killAt()).Seconds(),
	}
	switch {
	case l.stop.err != nil:
		s.Error = l.stop.err.Error()
	case !l.stop.forwarded.IsZero():
		s.Forwarded = &l.stop.forwarded
	}
	if l.phase == Draining && !l.stop.waitOver {
		s.WaitingFor = l.clients.last.Waiting
	}
	return s
}
