package sockets

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"
)

// class identifies a prober's connections: peer address, local port, request
// size. The zero class is for arrivals of which only the time is known.
type class struct {
	peer  netip.Addr
	port  uint16
	bytes uint64
}

// A class of no bytes is that of a prober that only connects, or of a request
// that has not come yet. anyBytes is the request size of classes learnt from
// TIME_WAIT sockets, which do not keep it.
const anyBytes = math.MaxUint64

const (
	// Kubelet, HAProxy, ALB and the rest probe once a second at most. Faster
	// series are load.
	minPeriod = 500 * time.Millisecond
	// A series is taken for a prober's if chance would make one of that class
	// as even with less than this probability. With the 10 ms of a kernel tick
	// at HZ=100 it takes three arrivals at a period of 5 s, and four at 1 s;
	// with a tenth of the period as jitter (a kubelet on a busy node, GCP's)
	// six.
	chance = 0.003
	// The kernel's times come in ticks, of 10 ms at worst.
	tick = 10 * time.Millisecond
	// One prober, or up to three with one address and one request: the
	// readiness and the liveness probe of a kubelet, with different phases,
	// come as a pattern that repeats after two or three.
	maxSeries = 3
	// Enough for three interleaved series to be seen; and for what came before
	// t0, a minute of TIME_WAIT.
	keepTimes = 16
	// With more classes than this, further ones are not looked at: no prober's.
	maxClasses = 4096
	// The share of the period that jitter may have.
	maxJitter = 4
	// A series is expected to go on for this many periods after its last
	// arrival, and for a second more than one: a lost SYN is sent again after
	// as long, and a machine under load is as late.
	aliveFor = 1.25
	lateBy   = time.Second
)

// series is a regular pattern: the arrivals in last come again every period.
type series struct {
	period    time.Duration
	tolerance time.Duration
	last      []time.Duration
	others    int           // arrivals of its class that it did not expect
	other     time.Duration // the last of them, or of another class and expected
}

// fit returns a pattern that explains all of times, which are sorted. It takes
// arrivals for chance until the whole is too even for that: of a Poisson stream
// with one arrival per p, the share of gaps within ±d of p is 2·d/p·e⁻¹ ≈
// 0.74·d/p; and of the sums of m gaps, about 0.8·d·√m/p.
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
		if worst > p/maxJitter {
			continue
		}
		if math.Pow(0.8*math.Sqrt(float64(m))*float64(worst)/float64(p), float64(gaps-1)) < limit {
			return series{period: p, tolerance: min(max(2*worst, 5*tick), p/maxJitter), last: slices.Clone(times[len(times)-m:])}, true
		}
	}
	return series{}, false
}

// expects reports whether an arrival at t continues the series, and if so moves
// it on.
func (s *series) expects(t time.Duration) bool {
	i := s.due(t)
	if i >= 0 {
		s.last[i] = t
	}
	return i >= 0
}

// due returns the index in last of the arrival that one at t comes again after,
// or -1. Up to two may have been missed: a probe is late or lost once in a
// while.
func (s *series) due(t time.Duration) int {
	return slices.IndexFunc(s.last, func(last time.Duration) bool {
		for k := time.Duration(1); k <= 3; k++ {
			if (t - last - k*s.period).Abs() <= s.tolerance {
				return true
			}
		}
		return false
	})
}

// goesOn returns when the series last had an arrival, and until when the next
// is expected. One of its class that it did not expect may be a late one, and
// one of another that it did expect may be its own.
func (s *series) goesOn() (last, until time.Duration) {
	last = max(slices.Max(s.last), s.other)
	return last, last + max(time.Duration(aliveFor*float64(s.period)), s.period+lateBy)
}

// over reports whether the series has ended by t.
func (s *series) over(t time.Duration) bool { return t > slices.Max(s.last)+3*s.period+s.tolerance }

// rate returns how many arrivals per second the series makes.
func (s *series) rate() float64 { return float64(len(s.last)) / s.period.Seconds() }

// probes separates the arrivals of probers from those of clients, by class.
type probes struct {
	times map[class][]time.Duration // arrivals since t0, of classes not recognised
	known map[class]*series
}

// remember takes the arrivals of an address before t0, sorted. All of them
// together have to be regular.
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

// sameButFIN returns the class by which c is known already, if that differs by
// a byte: the client's FIN counts as one, once it has arrived.
func (p *probes) sameButFIN(c class) class {
	for _, bytes := range [...]uint64{c.bytes, c.bytes + 1, c.bytes - 1} {
		k := class{c.peer, c.port, bytes}
		if bytes != anyBytes && (p.known[k] != nil || p.times[k] != nil) {
			return k
		}
	}
	return c
}

// arrival takes an arrival, and reports whether it was a known prober's. The
// one by which a prober is recognised still counts as a client's, and those
// before it did: so that quiet has to last for its time afterwards, and a
// series taken for a prober's by accident has that long to become uneven.
// recognised is true then.
func (p *probes) arrival(c class, t time.Duration) (probe, recognised bool) {
	for _, k := range p.candidates(c) {
		s := p.known[k]
		if s.expects(t) {
			return true, false
		}
		if s.over(t) {
			delete(p.known, k)
		}
	}
	p.mayBeDue(c, t)
	if s := p.known[c]; s != nil {
		// A client between the probes: they go on. Or a pattern seen too early
		// in arrivals with jitter: it is looked for again.
		s.other = max(s.other, t)
		if s.others++; s.others < maxSeries {
			return false, false
		}
		delete(p.known, c)
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
	// A client may have come in between at first: the latest are enough, if
	// they are regular.
	for from := 0; len(times)-from >= 3; from++ {
		if s, ok := fit(times[from:], chance/float64(1+10*from)); ok {
			p.add(c, s)
			delete(p.times, c)
			return false, true
		}
	}
	return false, false
}

// mayBeDue notes an arrival of another size for the series that expect one then:
// it counts as a client's, but may be a prober's whose TLS alert has arrived, or
// has not yet.
func (p *probes) mayBeDue(c class, t time.Duration) {
	for k, s := range p.known {
		if k.peer == c.peer && k.port == c.port && s.due(t) >= 0 {
			s.other = max(s.other, t)
		}
	}
}

// alive returns when the series that is expected to go on longest last had an
// arrival, and until when it is expected to. Those of local addresses are left
// out: a kubelet's, Docker's or the container's own probes go on whether
// clients do or not. Any other may be a balancer's, which has not moved on, or
// a client that polls.
func (p *probes) alive(now time.Duration, local []netip.Addr) (last, until time.Duration) {
	for c, s := range p.known {
		if c.peer.IsLoopback() || slices.Contains(local, c.peer) {
			continue
		}
		if at, end := s.goesOn(); end > until {
			last, until = at, end
		}
	}
	return last, until
}

// candidates returns the known classes an arrival may be of, the nearest first.
func (p *probes) candidates(c class) (all []class) {
	for _, k := range [...]class{c, {c.peer, c.port, anyBytes}} {
		if p.known[k] != nil {
			all = append(all, k)
		}
	}
	if c.bytes != 0 || len(all) > 0 {
		return all
	}
	for k := range p.known {
		if k.peer == c.peer && k.port == c.port {
			all = append(all, k)
		}
	}
	slices.SortFunc(all, func(a, b class) int { return cmp.Compare(a.bytes, b.bytes) })
	return all
}

// rate returns how many arrivals per second all the probers make that are
// known.
func (p *probes) rate() (perSecond float64, n int) {
	for _, s := range p.known {
		perSecond += s.rate()
		n += len(s.last)
	}
	return perSecond, n
}
