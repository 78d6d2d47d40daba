package sockets

import (
	"math"
	"net/netip"
	"slices"
	"time"
)

// class is what a prober's connections have in common: whence, to which port, and how much was asked. The
// zero class is for arrivals about which nothing is known but the time.
type class struct {
	peer  netip.Addr
	port  uint16
	bytes uint64
}

// anyBytes is the byte count of the classes that TIME_WAIT sockets tell of: they don't remember theirs.
const anyBytes = math.MaxUint64

const (
	// Kubelet, HAProxy, ALB and the rest probe once a second at most. Faster series are load.
	minPeriod = 500 * time.Millisecond
	// A series is taken for a prober's if chance would make one of that class as even with less than this
	// probability. With the 10 ms of a kernel tick at HZ=100 it takes three arrivals at a period of 5 s, and
	// four at 1 s.
	chance = 0.003
	// The kernel's times come in ticks, of 10 ms at worst.
	tick = 10 * time.Millisecond
	// One prober, or up to three with one address and one request: the readiness and the liveness probe of a
	// kubelet, with different phases, come as a pattern that repeats after two or three.
	maxSeries = 3
	// Enough for three interleaved series to be seen; and for what came before t0, a minute of TIME_WAIT.
	keepTimes = 16
	// An address whose connections come in more classes than this is nobody's prober.
	maxClasses = 4096
)

// series is a regular pattern: the n arrivals in last come again every period.
type series struct {
	period    time.Duration
	tolerance time.Duration
	last      []time.Duration
}

// fit looks for a pattern that explains all of times, which are sorted. It holds an arrival to be chance
// until the whole is too even for that: of a Poisson stream with one arrival per p, the share of gaps
// within ±d of p is 2·d/p·e⁻¹ ≈ 0.74·d/p; and of the sums of m gaps, about 0.8·d·√m/p.
func fit(times []time.Duration, limit float64) (series, bool) {
	for m := 1; m <= maxSeries; m++ {
		gaps := len(times) - m
		if gaps < 2 || len(times) < 3 {
			break
		}
		var sum time.Duration
		for i := range gaps {
			sum += times[i+m] - times[i]
		}
		p := sum / time.Duration(gaps)
		if p/time.Duration(m) < minPeriod {
			continue
		}
		worst := tick
		for i := range gaps {
			worst = max(worst, (times[i+m] - times[i] - p).Abs())
		}
		if worst > p/10 {
			continue
		}
		if math.Pow(0.8*math.Sqrt(float64(m))*float64(worst)/float64(p), float64(gaps-1)) < limit {
			return series{p, min(max(2*worst, 5*tick), p/10), slices.Clone(times[len(times)-m:])}, true
		}
	}
	return series{}, false
}

// expects reports whether an arrival at t continues the series, and if so moves it on. Up to two may have
// been missed: a probe is late or lost once in a while.
func (s *series) expects(t time.Duration) bool {
	for i, last := range s.last {
		for k := time.Duration(1); k <= 3; k++ {
			if (t - last - k*s.period).Abs() <= s.tolerance {
				s.last[i] = t
				return true
			}
		}
	}
	return false
}

// over reports whether the series has ended by t.
func (s *series) over(t time.Duration) bool { return t > slices.Max(s.last)+3*s.period+s.tolerance }

// rate is how many arrivals per second the series makes.
func (s *series) rate() float64 { return float64(len(s.last)) / s.period.Seconds() }

// probes tells the arrivals of probers from those of clients, by class.
type probes struct {
	times map[class][]time.Duration // what came since t0, of classes not recognised
	known map[class]*series
}

// remember takes the arrivals of an address before t0, sorted. They have to be regular all together.
func (p *probes) remember(peer netip.Addr, port uint16, times []time.Duration) {
	if s, ok := fit(times, chance); ok && len(times) > 3 {
		p.add(class{peer, port, anyBytes}, s)
	}
}

func (p *probes) add(c class, s series) {
	if p.known == nil {
		p.known = map[class]*series{}
	}
	p.known[c] = &s
}

// arrival takes an arrival, and reports whether it was a known prober's. The one that gives a prober away
// still counts as a client's, and those before it did: so that quiet has to last for its time afterwards,
// and a series taken for a prober's by accident has that long to become uneven. recognised is true then.
func (p *probes) arrival(c class, t time.Duration) (probe, recognised bool) {
	for _, k := range [...]class{c, {c.peer, c.port, anyBytes}} {
		if s := p.known[k]; s != nil {
			if s.expects(t) {
				return true, false
			}
			if s.over(t) {
				delete(p.known, k)
			}
		}
	}
	if p.known[c] != nil {
		return false, false // a client between the probes: they go on
	}
	if p.times == nil {
		p.times = map[class][]time.Duration{}
	}
	times, seen := p.times[c]
	if !seen && len(p.times) >= maxClasses {
		return false, false
	}
	if len(times) == keepTimes {
		times = slices.Delete(times, 0, 1)
	}
	// An estimate may be a little before the one before.
	i, _ := slices.BinarySearch(times, t)
	times = slices.Insert(times, i, t)
	p.times[c] = times
	// A client may have come in between at first: the latest are enough, if they are regular.
	for from := 0; len(times)-from >= 3; from++ {
		if s, ok := fit(times[from:], chance/float64(1+10*from)); ok {
			p.add(c, s)
			delete(p.times, c)
			return false, true
		}
	}
	return false, false
}

// rate is how many arrivals per second all the probers make that are known.
func (p *probes) rate() (perSecond float64, n int) {
	for _, s := range p.known {
		perSecond += s.rate()
		n += len(s.last)
	}
	return perSecond, n
}
