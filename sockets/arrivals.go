package sockets

import (
	"math"
	"time"
)

const (
	// Below a second nothing is learnt: balancers probe and update at that pace.
	minQuiet = time.Second
	// Above it every service would wait for the kubelet's probes, which come every 10 s unless told
	// otherwise, until they are recognised.
	maxQuiet = 8 * time.Second
	// Where the rate before t0 can't be known, the default window's time: at one client per second one stop in
	// 150 sees nobody for so long, and otherwise the arrivals after t0 soon tell the rate.
	unknownQuiet = 5 * time.Second
	// How long traffic is thought to go on after t0 at its old rate, if the window was too short: the
	// propagation times reported are 1 to 10 s for most.
	propagation = 10.0
	// How many of the latest gaps between arrivals tell the present rate.
	keepGaps = 8
)

// quietTime is how long no client must have arrived before it is thought that none will. Poisson arrivals
// at a rate of λ leave a gap longer than q with a probability of exp(−λq) each, and there are λ·10 s of them
// until traffic has moved on: q = ln(100·λ·10 s)/λ lets one stop in a hundred through too early. (ln(100)/λ,
// one *gap* in a hundred, was too early in 14 % of simulated stops at four arrivals per second, this in 0.3 %.)
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

// arrivals judges whether clients still arrive. All times are since t0. It is pure: what it is told and
// when is all it knows.
type arrivals struct {
	before  float64       // per second before t0, probers included
	unknown bool          // before is not known
	window  time.Duration // the time over which before was counted

	probes probes
	last   time.Duration
	recent []arrival // clients'
}

type arrival struct {
	class
	at time.Duration
}

// add takes an arrival. The class is the zero class if nothing is known about it.
func (a *arrivals) add(c class, at time.Duration) {
	probe, recognised := a.probes.arrival(c, at)
	if probe {
		return
	}
	a.last = max(a.last, at)
	if len(a.recent) > keepGaps {
		copy(a.recent, a.recent[1:])
		a.recent = a.recent[:keepGaps]
	}
	a.recent = append(a.recent, arrival{c, at})
	if recognised {
		// What it was taken for until now must not pass for the clients' rate.
		kept := a.recent[:0]
		for _, r := range a.recent {
			if r.class != c {
				kept = append(kept, r)
			}
		}
		a.recent = kept
	}
}

// clientRate is the rate before t0 without the probers known by now.
func (a *arrivals) clientRate() float64 {
	rate, n := a.probes.rate()
	rest := a.before - rate
	// One of each series may have fallen on either side of the window's edges.
	if rest*a.window.Seconds() <= float64(n)+0.5 && n > 0 {
		return 0
	}
	return max(0, rest)
}

// quiet is how long it has to be quiet.
func (a *arrivals) quiet() time.Duration {
	q := minQuiet
	if a.unknown {
		q = unknownQuiet
	} else {
		q = quietTime(a.clientRate())
	}
	// While balancers withdraw one by one the rate falls, and what was long for the old rate is short for
	// the new one: the longer time is the safer. Where no rate was known, the time from t0 is a gap as well,
	// and enough of them tell more than the assumption.
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
