package sockets

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Verdict is the result of one poll of the tables.
type Verdict struct {
	// Met reports that the condition holds at this instant. The Verdict is
	// offered at that instant only.
	Met bool
	// Blind reports that counting has failed for seconds, or is impossible. The
	// window alone decides.
	Blind bool
	// Err is the reason why this poll failed. Nothing below is known then.
	Err error
	// Known reports that the numbers below are real.
	Known bool

	// Open counts the connections of the child's ports, InFlight those that
	// certainly carry a request, Suspected those that may carry one, and Queued
	// those that wait to be accepted.
	Open, InFlight, Suspected, Queued int
	// Arrived counts the connections since t0 but those of known probers, and
	// Requests the further requests on kept connections that were seen.
	Arrived, Requests int
	// Recent counts those of both that arrived within the last second or so.
	Recent int
	// Rate is how many connections per second arrived before t0, but those of
	// known probers.
	Rate float64
	// Quiet is how long no connection must have arrived, and QuietFor how long
	// none has.
	Quiet, QuietFor time.Duration

	// Evidence is the surest that is against the condition; None if Met.
	Evidence Evidence
	// HoldsFor is how long it still holds if nothing further happens; 0 if that
	// is unknown, as with all certain evidence.
	HoldsFor time.Duration
	// Holder is a connection that the evidence is about, if it is about one.
	Holder Holder
	// Waiting says for the log what is waited for. It is empty if Met.
	Waiting string
}

// Holder is a connection that holds the signal back.
type Holder struct {
	Peer netip.AddrPort // invalid if there is none
	Port uint16         // the child's
	For  time.Duration  // since the request, or the last byte
	Why  string         // such as "request" or "paused stream"
}

// unknown is the verdict of a failed poll.
func (w *watch) unknown(err error) Verdict {
	return Verdict{
		Err:     err,
		Blind:   time.Since(w.failed) >= blindAfter,
		Waiting: "a count of the clients (" + err.Error() + ")",
	}
}

// against is the evidence that one poll gives against a condition.
type against struct {
	holder
	what string // for the log
}

// decide judges a complete poll.
func (w *watch) decide(queued int, now time.Duration) Verdict {
	a, t := &w.arrivals, &w.judge.tally
	v := Verdict{
		Known: true, Open: t.open, InFlight: t.inFlight, Suspected: t.ambiguous, Queued: queued,
		Arrived: a.total, Requests: a.requests.n, Recent: w.recent(now),
		Rate: a.clientRate(), Quiet: a.quiet(), QuietFor: now - a.last,
	}
	if len(w.ports) == 0 || w.until == Window {
		v.Met = true
		return v
	}
	work := a.claim(now)
	waiting := queued > 0 || w.opens.pending > 0
	w.judge.arriving(waiting || work.why == whyConnections, now)
	quiet := !waiting && work.evidence == None
	switch w.until {
	case Quiet:
		v.Met = quiet
	case Idle:
		v.Met = quiet && w.judge.idle(now)
	case Closed:
		v.Met = quiet && t.holding == 0
	}
	if v.Met {
		return v
	}
	w.explain(&v, w.evidence(queued, work), now)
	w.logHolder(&v)
	return v
}

// logHolder logs at debug what holds the signal, when that changes.
func (w *watch) logHolder(v *Verdict) {
	h := &v.Holder
	if h.Peer == w.held.Peer && h.Why == w.held.Why {
		return
	}
	w.held = *h
	w.c.log.Debug("the signal is held", "evidence", v.Evidence, "by", h.Why,
		"peer", h.Peer, "port", h.Port, "since", h.For, "for_another", v.HoldsFor)
}

// evidence lists what is against the condition, the hardest first.
func (w *watch) evidence(queued int, work claim) (all []against) {
	t := &w.judge.tally
	add := func(h holder, what string) { all = append(all, against{h, what}) }
	if w.until == Idle && t.inFlight > 0 {
		add(t.certain, plural(t.inFlight, "request")+" in flight")
	}
	if w.until == Closed && t.holding > 0 {
		add(t.connected, plural(t.holding, "open connection"))
	}
	if queued > 0 {
		add(queue("accept queue"), fmt.Sprintf("%d in the accept queue", queued))
	} else if w.opens.pending > 0 {
		add(queue("connection not seen yet"), "a new connection to be seen")
	}
	if work.evidence != None {
		add(holder{claim: work}, w.arrivals.describe(work))
	}
	if w.until == Idle && t.ambiguous > 0 {
		add(t.suspected, plural(t.ambiguous, "connection")+" that may be busy")
	}
	return all
}

// queue is the claim of connections that are only counted.
func queue(why string) holder {
	return holder{claim: claim{evidence: Certain, why: why, until: never, since: never}}
}

// explain fills in why the condition is not met.
func (w *watch) explain(v *Verdict, all []against, now time.Duration) {
	var parts []string
	var strongest *against
	for i := range all {
		e := &all[i]
		parts = append(parts, e.what)
		stronger := strongest == nil || e.evidence == Certain && strongest.evidence != Certain ||
			e.evidence == strongest.evidence && e.until > strongest.until
		if stronger {
			strongest = e
		}
	}
	if strongest == nil {
		v.Evidence, v.HoldsFor, v.Waiting = Ambiguous, streamFor, "the last answers to be sent"
		return
	}
	v.Evidence = strongest.evidence
	if strongest.until != never {
		v.HoldsFor = max(strongest.until-now, 0)
	}
	v.Holder = Holder{Peer: strongest.peer, Port: strongest.port, For: max(now-strongest.since, 0), Why: strongest.why}
	v.Waiting = strings.Join(parts, " and ")
}

// describe says for the log which new work is still expected.
func (a *arrivals) describe(work claim) string {
	tenths := 100 * time.Millisecond
	switch work.why {
	case whyProber:
		return "connections at regular intervals, a prober's or a client's, to stop"
	case whyRequests:
		return fmt.Sprintf("requests on kept connections to stop (for %v)", a.requests.quiet().Round(tenths))
	}
	return fmt.Sprintf("new connections to stop (for %v)", a.quiet().Round(tenths))
}

// recent counts what arrived in the last second or so.
func (w *watch) recent(now time.Duration) (n int) {
	for _, r := range w.arrivals.recent {
		if now-r.at <= streamFor {
			n++
		}
	}
	if w.arrivals.requests.n > 0 && now-w.arrivals.requests.last <= streamFor {
		n++
	}
	return n
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
