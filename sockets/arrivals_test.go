package sockets

import (
	"math/rand"
	"net/netip"
	"testing"
	"time"
)

var (
	proxy   = class{netip.MustParseAddr("10.0.0.1"), 8080, 80}
	kubelet = class{netip.MustParseAddr("10.0.0.2"), 8080, 120}
)

// poisson returns arrivals from a start to an end at a rate.
func poisson(r *rand.Rand, rate float64, from, to time.Duration) (times []time.Duration) {
	for t := from; ; {
		t += time.Duration(r.ExpFloat64() / rate * float64(time.Second))
		if t >= to {
			return times
		}
		times = append(times, t)
	}
}

// through runs arrivals (with a minute before t0 to know the rate from) and
// returns when it first was quiet, not before the window, looking every 100 ms.
func through(before []time.Duration, after map[class][]time.Duration, window time.Duration) time.Duration {
	a := arrivals{local: []netip.Addr{kubelet.peer}}
	a.before, a.window, a.unknown = float64(len(before))/60, time.Minute, before == nil
	for now := time.Duration(0); now < 5*time.Minute; now += pollEvery {
		for c, times := range after {
			for len(times) > 0 && times[0] <= now {
				a.add(c, times[0], false)
				times = times[1:]
			}
			after[c] = times
		}
		if now >= window && a.claim(now).evidence == None {
			return now
		}
	}
	return 5 * time.Minute
}

// One proxy forwards every client, and all ask the same: the hardest case to
// tell from a prober.
func TestPoissonArrivalsAreWaitedForUntilTheyEnd(t *testing.T) {
	for _, rate := range []float64{1, 4, 40} {
		runs := runs(1000)
		early, late := 0, time.Duration(0)
		for seed := range int64(runs) {
			r := rand.New(rand.NewSource(seed))
			before := poisson(r, rate, 0, time.Minute)
			times := poisson(r, rate, 0, 8*time.Second)
			if len(times) == 0 {
				continue
			}
			last := times[len(times)-1]
			at := through(before, map[class][]time.Duration{proxy: times}, 2*time.Second)
			if at < last {
				early++
			}
			late += max(0, at-8*time.Second)
		}
		t.Logf("%v per second: too early in %d of %d stops, %v later than 8s on average", rate, early, runs, late/time.Duration(runs))
		if early > runs*3/100 {
			t.Errorf("%v per second: too early in %d of %d stops", rate, early, runs)
		}
	}
}

func TestArrivalsAtAnUnknownRateAreWaitedForToo(t *testing.T) {
	for _, rate := range []float64{1, 4, 40} {
		runs := runs(1000)
		early, late := 0, time.Duration(0)
		for seed := range int64(runs) {
			times := poisson(rand.New(rand.NewSource(seed)), rate, 0, 8*time.Second)
			at := through(nil, map[class][]time.Duration{proxy: times}, 2*time.Second)
			if len(times) > 0 && at < times[len(times)-1] {
				early++
			}
			late += max(0, at-8*time.Second)
		}
		t.Logf("%v per second: too early in %d of %d stops, %v later than 8s on average", rate, early, runs, late/time.Duration(runs))
		if early > runs*4/100 {
			t.Errorf("%v per second: too early in %d of %d stops", rate, early, runs)
		}
	}
}

func TestProbersDoNotHoldQuiet(t *testing.T) {
	for _, tt := range []struct {
		period, jitter, most time.Duration
	}{
		{time.Second, 5 * time.Millisecond, 6 * time.Second},
		{time.Second, 20 * time.Millisecond, 7 * time.Second},
		{2 * time.Second, 20 * time.Millisecond, 10 * time.Second},
		{3 * time.Second, 20 * time.Millisecond, 14 * time.Second},
		{5 * time.Second, 20 * time.Millisecond, 17 * time.Second},
		{10 * time.Second, 50 * time.Millisecond, 18 * time.Second},
	} {
		for seed := range int64(runs(200)) {
			r := rand.New(rand.NewSource(seed))
			series := func(from, to time.Duration) (times []time.Duration) {
				phase := time.Duration(r.Int63n(int64(tt.period)))
				for at := from + phase; at < to; at += tt.period {
					times = append(times, at+time.Duration(r.Int63n(int64(tt.jitter))))
				}
				return times
			}
			at := through(series(0, time.Minute), map[class][]time.Duration{kubelet: series(0, time.Minute)}, 2*time.Second)
			if at > tt.most {
				t.Errorf("every %v, seed %d: quiet only after %v", tt.period, seed, at)
				break
			}
		}
	}
}

func TestProbersDoNotHideClients(t *testing.T) {
	runs := runs(500)
	early := 0
	for seed := range int64(runs) {
		r := rand.New(rand.NewSource(seed))
		probe := []time.Duration{}
		for at := time.Duration(r.Int63n(int64(time.Second))); at < time.Minute; at += time.Second {
			probe = append(probe, at)
		}
		before := append(poisson(r, 2, 0, time.Minute), probe...)
		times := poisson(r, 2, 0, 8*time.Second)
		at := through(before, map[class][]time.Duration{proxy: times, kubelet: probe}, 2*time.Second)
		if len(times) > 0 && at < times[len(times)-1] {
			early++
		}
	}
	t.Logf("too early in %d of %d stops", early, runs)
	if early > runs*3/100 {
		t.Errorf("too early in %d of %d stops", early, runs)
	}
}

func TestAKubeletWithTwoProbesOfOnePathIsRecognised(t *testing.T) {
	var p probes
	var seen int
	for _, s := range []time.Duration{0, 3, 10, 13, 20, 23, 30, 33, 40} {
		if probe, _ := p.arrival(kubelet, s*time.Second); probe {
			seen++
		}
	}
	if seen == 0 {
		t.Error("the two series were not told")
	}
}

func TestWhatCameBeforeTellsProbersAtOnce(t *testing.T) {
	var a arrivals
	a.before, a.window = 0.1, time.Minute
	a.probes.remember(kubelet.peer, kubelet.port, []time.Duration{-32 * time.Second, -22 * time.Second, -12 * time.Second, -2 * time.Second})
	if q := a.quiet(); q != minQuiet {
		t.Errorf("with only a known prober before t0 quiet has to last %v", q)
	}
	a.add(kubelet, 8*time.Second+20*time.Millisecond, false)
	if a.last != 0 {
		t.Errorf("its next probe was taken for a client")
	}
	a.add(kubelet, 9*time.Second, false)
	if a.last != 9*time.Second {
		t.Errorf("a client of the same address between probes was taken for a probe")
	}
}

// arrive plays arrivals of classes and requests on kept connections, and
// returns when new work was no longer expected, polling each 100 ms from the
// window on.
func arrive(a *arrivals, connections map[class][]time.Duration, requests []time.Duration) time.Duration {
	for now := time.Duration(0); now < time.Minute; now += pollEvery {
		for c, at := range connections {
			for len(at) > 0 && at[0] <= now {
				a.add(c, at[0], false)
				at = at[1:]
			}
			connections[c] = at
		}
		for len(requests) > 0 && requests[0] <= now {
			a.request(requests[0])
			requests = requests[1:]
		}
		if now >= 5*time.Second && a.claim(now).evidence == None {
			return now
		}
	}
	return time.Minute
}

// every returns instants of a period, with jitter.
func every(r *rand.Rand, period, jitter, until time.Duration) (at []time.Duration) {
	for t := time.Duration(r.Int63n(int64(period))); t < until; t += period {
		at = append(at, max(t+time.Duration((2*r.Float64()-1)*float64(jitter)), 0))
	}
	return at
}

func addr(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 1, n}) }

// What probes in a rhythm holds for the patience if it may be a balancer that
// has not moved on, and not at all if it is the host.
func TestRhythmsHoldForThePatience(t *testing.T) {
	second := time.Second
	for _, tt := range []struct {
		name           string
		probers        int
		period, jitter time.Duration
		local          bool
		least, most    time.Duration
	}{
		{"a poll each second", 1, second, 5 * time.Millisecond, false, patience - second, patience + 100*time.Millisecond},
		{"a poll each 5 s", 1, 5 * second, 5 * time.Millisecond, false, patience - 2*second, patience + 100*time.Millisecond},
		{"ALB's three, each 15 s", 3, 15 * second, 20 * time.Millisecond, false, 5 * second, patience + 100*time.Millisecond},
		{"NLB's three, each 10 s", 3, 10 * second, 20 * time.Millisecond, false, 5 * second, patience + 100*time.Millisecond},
		{"GCP's five, each 5 s", 5, 5 * second, 300 * time.Millisecond, false, patience - second, patience + 100*time.Millisecond},
		{"a kubelet on the host", 1, second, 100 * time.Millisecond, true, 5 * second, patience},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range int64(runs(100)) {
				r := rand.New(rand.NewSource(seed))
				a := arrivals{before: float64(tt.probers) / tt.period.Seconds(), window: time.Minute}
				connections := map[class][]time.Duration{}
				for i := range tt.probers {
					c := class{addr(byte(i)), 8080, 100}
					connections[c] = every(r, tt.period, tt.jitter, time.Minute)
					if tt.local {
						a.local = append(a.local, c.peer)
					}
				}
				if got := arrive(&a, connections, nil); got < tt.least || got > tt.most {
					t.Fatalf("seed %d: held for %v, want %v to %v", seed, got, tt.least, tt.most)
				}
			}
		})
	}
}

// A poll that a machine under load held up is still the client's. One each 2 s,
// of which one came 80 ms late, was forwarded to at 13 s.
func TestALatePollHoldsAsOneInTime(t *testing.T) {
	for late := 20 * ms; late < time.Second; late += 20 * ms {
		var one, all []time.Duration
		for i := range 15 {
			at := 40*ms + time.Duration(i)*2*time.Second
			one, all = append(one, at), append(all, at)
			if i >= 6 {
				all[i] += late
			}
		}
		one[6] += late
		for _, polls := range [][]time.Duration{one, all} {
			a := arrivals{before: 0.5, window: 16 * time.Second}
			got := arrive(&a, map[class][]time.Duration{{addr(1), 8080, 100}: polls}, nil)
			if got < patience-100*ms {
				t.Errorf("a poll %v late: held for %v", late, got)
			}
		}
	}
}

// The client's FIN counts as a byte, and has arrived by the time a connection
// is seen or not: that is no other prober.
func TestAFinMakesNoOtherProber(t *testing.T) {
	for _, bytes := range []uint64{80, 0} {
		a := arrivals{window: time.Minute}
		var last time.Duration
		for i := range 8 {
			last = time.Duration(2*i)*time.Second + time.Second
			c := class{proxy.peer, proxy.port, bytes}
			if i%3 == 1 {
				c.bytes++
			}
			a.add(c, last, false)
		}
		if held := a.claim(last + 2900*ms); held.why != whyProber {
			t.Errorf("%d bytes: 2.9 s after the last, %+v", bytes, held)
		}
		if held := a.claim(last + 3100*ms); held.evidence != None {
			t.Errorf("%d bytes: 3.1 s after the last, %+v", bytes, held)
		}
	}
}

// A TLS client ends with an alert, which may have arrived or not. Of whichever
// size, what comes when a probe is due may be it.
func TestAProbeOfAnotherSizeMayBeTheOneThatIsDue(t *testing.T) {
	polls := func(odd time.Duration) (held claim) {
		a := arrivals{window: time.Minute}
		c := class{proxy.peer, proxy.port, 620}
		for i := range 8 {
			a.add(c, time.Duration(2*i)*time.Second, false)
		}
		c.bytes += 25
		a.add(c, odd, false)
		return a.claim(odd + 2100*ms)
	}
	if held := polls(16 * time.Second); held.why != whyProber {
		t.Errorf("one that is due: %+v", held)
	}
	if held := polls(15 * time.Second); held.evidence != None {
		t.Errorf("one between two: %+v", held)
	}
}

// A balancer that pools makes requests on kept connections until it moves on.
func TestRequestsOnKeptConnectionsAreWork(t *testing.T) {
	for _, tt := range []struct {
		name        string
		rate        float64
		moved       time.Duration
		least, most time.Duration
	}{
		{"40/s, moved after 10 s", 40, 10 * time.Second, 10 * time.Second, 12 * time.Second},
		{"2/s, moved after 12 s", 2, 12 * time.Second, 11 * time.Second, 21 * time.Second},
		{"clients that stay", 40, time.Minute, patience, patience},
	} {
		t.Run(tt.name, func(t *testing.T) {
			early := 0 // one stop in a hundred, by quietTime
			for seed := range int64(runs(200)) {
				requests := poisson(rand.New(rand.NewSource(seed)), tt.rate, 0, tt.moved)
				got := arrive(&arrivals{window: time.Minute}, nil, requests)
				if got < tt.least {
					early++
				}
				if got > tt.most {
					t.Fatalf("seed %d: held for %v, want at most %v", seed, got, tt.most)
				}
			}
			if early > runs(200)*3/100+1 {
				t.Errorf("too early in %d of %d stops", early, runs(200))
			}
		})
	}
}

func TestBurstsAreWaitedFor(t *testing.T) {
	for phase := time.Duration(0); phase < 7*time.Second; phase += 500 * time.Millisecond {
		a := arrivals{before: 100. / 7, window: time.Minute}
		var before []time.Duration
		at := map[class][]time.Duration{}
		for burst := phase - 28*time.Second; burst < 20*time.Second; burst += 7 * time.Second {
			for i := range 100 {
				t := burst + time.Duration(i)*time.Millisecond
				c := class{addr(byte(i)), 8080, 100}
				if t < 0 {
					before = append(before, t)
				} else {
					at[c] = append(at[c], t)
				}
			}
		}
		a.seed(before, true)
		if got := arrive(&a, at, nil); got < phase+14*time.Second {
			t.Errorf("bursts from %v on: held for %v", phase, got)
		}
	}
}

func TestArrivalsOnlyCountedHaveNoRhythm(t *testing.T) {
	a := arrivals{window: time.Minute}
	for i := range 10 {
		a.add(class{}, time.Duration(i)*time.Second, false)
	}
	if n := len(a.probes.known); n > 0 {
		t.Errorf("%d series of nothing", n)
	}
}

func TestOpeningsGiveBackWhatWasDrainits(t *testing.T) {
	var o openings
	o.excess(100, 0, true, false)
	if n := o.excess(101, 100*time.Millisecond, false, false); n != 0 {
		t.Errorf("blamed %d at once", n)
	}
	if n := o.excess(101, 700*time.Millisecond, false, false); n != 1 {
		t.Errorf("blamed %d after a while, want 1", n)
	}
	o.excess(100, 800*time.Millisecond, false, false) // it was drainit's own
	o.excess(101, 900*time.Millisecond, false, false)
	if n := o.excess(101, 1500*time.Millisecond, false, false); n != 1 {
		t.Errorf("blamed %d: the next one is hidden by the one given back", n)
	}
}
