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

// through runs arrivals (with a minute before t0 to know the rate from) and returns when it first was
// quiet, not before the window, looking every 100 ms.
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

// One proxy forwards every client, and all ask the same: the hardest case to tell from a prober.
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
