package sockets

import (
	"math"
	"net/netip"
	"slices"
	"time"
)

const (
	// Below a second nothing is learnt: balancers probe and update at that
	// pace.
	minQuiet = time.Second
	// Above it every service would wait for probes, which come every 10 s
	// unless told otherwise, until they are recognised.
	maxQuiet = 8 * time.Second
	// Where the rate before t0 is unknown, the default window's time: at one
	// client per second one stop in 150 sees none for so long, and otherwise
	// the arrivals after t0 soon tell the rate.
	unknownQuiet = 5 * time.Second
	// How many seconds traffic is expected to go on after t0 at its old rate,
	// if the window was too short. Propagation times reported are mostly 1 to
	// 10 s.
	propagation = 10.0
	// How many of the latest gaps between arrivals tell the present rate.
	keepGaps = 8
	// Connections that arrive more seldom than keepGaps in this time may be
	// probers', whatever their rhythm: three of 15 s leave no pause of 8 s.
	// They hold for the patience only.
	frequentWithin = 6 * time.Second
	// Clients that come in bursts leave gaps no rate explains. The longest seen
	// is multiplied by this.
	burstMargin = 1.2
	// A machine that is held up makes gaps, too.
	burstGap = 2 * time.Second
	// Rates are compared with a burst's period only from so many arrivals on.
	burstLeast = 20
)

// quietTime returns how long no client must have arrived before it is assumed
// that none will. Poisson arrivals at a rate of λ leave a gap longer than q
// with a probability of exp(−λq) each, and there are λ·10 s of them until
// traffic has moved on: q = ln(100·λ·10 s)/λ lets one stop in a hundred through
// too early. (ln(100)/λ, one gap in a hundred, was too early in 14 % of
// simulated stops at four arrivals per second, this in 0.3 %.)
func quietTime(rate float64) time.Duration {
	if rate <= 0 {
		return minQuiet
	}
	q := math.Log(100*max(1, rate*propagation)) / rate
	if q > maxQuiet.Seconds() {
		return maxQuiet
	}
	return max(minQuiet, time.Duration(q*float64(time.Second)))
}

// arrivals judges whether new work still arrives: connections, and requests on
// kept ones. All times are since t0. It is pure: what it is told, and when, is
// all it knows.
type arrivals struct {
	before   float64       // connections per second before t0, probers' included
	unknown  bool          // before is not known
	window   time.Duration // the time over which before was counted
	gap      time.Duration // the longest before t0 that others followed
	patience time.Duration // 0: the longest there is
	local    []netip.Addr  // this machine's end and the host's: their probes say nothing

	probes probes
	total  int           // connections since t0, but those of known probers
	last   time.Duration // the last of them; 0 if there was none
	recent []arrival     // the latest of them
	others times         // the latest that did not come from this network namespace

	requests requests
}

type arrival struct {
	class
	at time.Duration
}

// requests are those on kept connections since t0.
type requests struct {
	n           int
	first, last time.Duration
}

// times are the latest keepGaps instants, the newest last.
type times []time.Duration

func (t *times) add(at time.Duration) {
	if len(*t) == keepGaps {
		*t = slices.Delete(*t, 0, 1)
	}
	*t = append(*t, at)
}

// add takes the arrival of a connection. The class is the zero class if nothing
// is known about it. inside reports that its other end is in this network
// namespace, whose other listeners are all the child's.
func (a *arrivals) add(c class, at time.Duration, inside bool) {
	var probe, recognised bool
	if c != (class{}) {
		c = a.probes.sameButFIN(c)
		probe, recognised = a.probes.arrival(c, at)
	}
	if probe {
		return
	}
	a.noteGap(at)
	a.total++
	a.last = max(a.last, at)
	if !inside {
		a.others.add(at)
	}
	if len(a.recent) > keepGaps {
		a.recent = slices.Delete(a.recent, 0, len(a.recent)-keepGaps)
	}
	a.recent = append(a.recent, arrival{c, at})
	if recognised {
		// What it was taken for until now must not pass for the clients' rate.
		a.recent = slices.DeleteFunc(a.recent, func(r arrival) bool { return r.class == c })
	}
}

// noteGap notes a gap that the rate before t0 does not explain, now that others
// have followed it: clients come in bursts.
func (a *arrivals) noteGap(at time.Duration) {
	gap := at - a.last
	if rate := a.clientRate(); !a.unknown && rate*a.window.Seconds() >= burstLeast && gap > max(burstGap, 2*quietTime(rate)) {
		a.gap = max(a.gap, gap)
	}
}

// seed takes the arrivals before t0 that are remembered, and keeps the longest
// gap between them if their rate does not explain it. complete reports that
// they are all.
func (a *arrivals) seed(before []time.Duration, complete bool) {
	if len(before) < burstLeast || !complete {
		return
	}
	slices.Sort(before)
	n := len(before) - 1
	span := before[n] - before[0]
	rate := float64(n) / max(span.Seconds(), minQuiet.Seconds())
	for i := range n {
		if gap := before[i+1] - before[i]; gap > quietTime(rate) {
			a.gap = max(a.gap, gap)
		}
	}
}

// request takes a further request on a kept connection.
func (a *arrivals) request(at time.Duration) {
	if a.requests.n == 0 {
		a.requests.first = at
	}
	a.requests.n++
	a.requests.last = max(a.requests.last, at)
}

// clientRate returns the rate before t0 without the probers known by now.
func (a *arrivals) clientRate() float64 {
	rate, n := a.probes.rate()
	rest := a.before - rate
	// One of each series may have fallen on either side of the window's edges.
	if rest*a.window.Seconds() <= float64(n)+0.5 && n > 0 {
		return 0
	}
	return max(0, rest)
}

// quiet returns how long no connection must have arrived.
func (a *arrivals) quiet() time.Duration {
	q := minQuiet
	if a.unknown {
		q = unknownQuiet
	} else {
		q = quietTime(a.clientRate())
	}
	q = max(q, min(time.Duration(float64(a.gap)*burstMargin), maxQuiet))
	// While balancers withdraw one by one the rate falls, and what was long for
	// the old rate is short for the new one: the longer time is the safer.
	// Where no rate was known, the time from t0 is a gap as well, and enough of
	// them tell more than the assumption.
	n := len(a.recent)
	switch {
	case n == 0:
	case a.unknown && n <= keepGaps:
		q = max(q, quietTime(float64(n)/a.recent[n-1].at.Seconds()))
	case n >= 3:
		if span := a.recent[n-1].at - a.recent[0].at; span > 0 {
			recent := quietTime(float64(n-1) / span.Seconds())
			if a.unknown {
				return recent
			}
			q = max(q, recent)
		}
	}
	return q
}

// frequent reports whether connections arrive too often to be probers' that
// were not recognised, and from elsewhere.
func (a *arrivals) frequent(now time.Duration) bool {
	return len(a.others) == keepGaps && now-a.others[0] <= frequentWithin
}

// The reasons for which new work is still expected.
const (
	whyConnections = "new connections"
	whyProber      = "connections at regular intervals"
	whyRequests    = "requests on kept connections"
)

// claim returns the evidence that new work still arrives, the surest first.
// until is when it ends if nothing more arrives.
func (a *arrivals) claim(now time.Duration) claim {
	patience := a.limit()
	if q := a.quiet(); now-a.last < q {
		held := claim{evidence: Ambiguous, why: whyConnections, until: a.last + q, since: a.last}
		if a.frequent(now) {
			held.evidence = Certain
			return held
		}
		if now < patience {
			held.until = min(held.until, patience)
			return held
		}
	}
	if now >= patience {
		return claim{}
	}
	if last, until := a.probes.alive(now, a.local); now < until {
		return claim{evidence: Ambiguous, why: whyProber, until: min(until, patience), since: last}
	}
	if until := a.requests.last + a.requests.quiet(); a.requests.n > 0 && now < until {
		return claim{evidence: Ambiguous, why: whyRequests, until: min(until, patience), since: a.requests.last}
	}
	return claim{}
}

// limit returns how long ambiguous evidence holds after t0.
func (a *arrivals) limit() time.Duration { return atMostPatience(a.patience) }

// quiet returns how long no request must have arrived on a kept connection.
func (r *requests) quiet() time.Duration {
	return quietTime(float64(r.n) / max(r.last.Seconds(), minQuiet.Seconds()))
}
