package sockets

import (
	"math/rand"
	"testing"
	"time"
)

// bench judges one connection, polled each 100 ms from t0 on, and returns its
// evidence at an instant. Steps before t0 have negative times.
type step struct {
	at time.Duration
	do func(m *model, now time.Duration)
}

func asks(bytes uint64) func(*model, time.Duration) {
	return func(m *model, now time.Duration) { m.ask(bytes, now) }
}

func receives(bytes uint64) func(*model, time.Duration) {
	return func(m *model, now time.Duration) { m.receive(bytes, now) }
}

func sends(bytes uint64) func(*model, time.Duration) {
	return func(m *model, now time.Duration) { m.send(bytes, 1, now) }
}

func keepalives(m *model, now time.Duration) { m.keepalive(now) }

const ms = time.Millisecond

// times shifts a pattern of steps to each instant.
func each(pattern []step, instants ...time.Duration) (all []step) {
	for _, at := range instants {
		for _, s := range pattern {
			all = append(all, step{at + s.at, s.do})
		}
	}
	return all
}

// judged plays steps, and returns the evidence at each whole second after t0.
func judged(steps []step, born, until time.Duration, settings rules) []Evidence {
	var j judge
	j.rules = settings
	j.closedIdle = closedIdle
	const begin = 100 * time.Second // the model's clock has no negative times
	m := newModel(1, begin+born)
	var got []Evidence
	for now := born; now <= until; now += modelTick {
		for len(steps) > 0 && steps[0].at <= now {
			steps[0].do(m, begin+now)
			steps = steps[1:]
		}
		if now < 0 || now%pollEvery != 0 {
			continue
		}
		j.begin()
		j.observe(m.at(begin+now), now)
		j.end(now)
		if now%time.Second == 0 {
			switch {
			case j.tally.inFlight > 0:
				got = append(got, Certain)
			case j.tally.ambiguous > 0:
				got = append(got, Ambiguous)
			default:
				got = append(got, None)
			}
		}
	}
	return got
}

// letters shortens evidence to a letter a second: c, a, or a dot.
func letters(all []Evidence) string {
	b := make([]byte, len(all))
	for i, e := range all {
		b[i] = '.'
		if e != None {
			b[i] = e[0]
		}
	}
	return string(b)
}

// TestEvidence: one connection, a letter a second from t0 on.
func TestEvidence(t *testing.T) {
	http := []step{{0, asks(80)}, {8 * ms, sends(140)}} // as fast as a handler that does nothing
	quick := []step{{0, asks(80)}, {0, sends(140)}}     // within a tick
	greet := []step{{0, receives(24 + 27)}, {4 * ms, sends(24)}, {8 * ms, receives(9)}}
	small := func(m *model, now time.Duration) { m.send(138, 2, now) } // uvicorn's head and body
	ping := []step{{0, sends(17)}, {4 * ms, receives(17)}}
	call := []step{{0, asks(120)}, {8 * ms, sends(180)}}
	calls := append(append(each(greet, -60*time.Second), each(ping, -30*time.Second, 50*ms)...), each(call, 2050*ms)...)
	tls := []step{{0, receives(260)}, {8 * ms, sends(900)}, {16 * ms, receives(160)}, {16 * ms, sends(315)}}
	for _, tt := range []struct {
		name  string
		steps []step
		want  string
		rules rules
	}{
		{"nothing said", nil, "aaa......", rules{}},
		{"used once", each(http, -3*time.Second), ".........", rules{}},
		{"used once, within a tick", each(quick, -3*time.Second), ".........", rules{}},
		{"used often", each(http, -9*time.Second, -7*time.Second, -3*time.Second), ".........", rules{}},
		{"a first request", []step{{-time.Second, asks(80)}}, "ccccccccccccccccccccccccccccccccccc", rules{}},
		{"a first request, dropped after a minute", []step{{-50 * time.Second, asks(80)}}, "cccccccccc...", rules{}},
		{"a further request", append(each(http, -9*time.Second), step{-time.Second, asks(80)}), "ccccccccccccccccccccccccccc", rules{}},
		{"a request within a tick of the third answer",
			append(each(quick, -9*time.Second, -7*time.Second, -time.Second), step{-time.Second, asks(80)}), "ccccccccccccccccccccccccccccc", rules{}},
		{"a request within a tick, and the server's keepalives",
			append(each(quick, -60*time.Second, -58*time.Second, -time.Second), step{-time.Second, asks(80)},
				step{14 * time.Second, keepalives}), "ccccccccccccccccccccccccccccc", rules{}},
		{"idle, and the server's keepalives",
			append(each(http, -40*time.Second, -39*time.Second), step{-9 * time.Second, keepalives}, step{6 * time.Second, keepalives}), "..........", rules{}},
		{"HTTP/2's greeting, long ago", each(greet, -12*time.Second), ".........", rules{}},
		{"HTTP/2's greeting", each(greet, -6*time.Second), "aaaaa....", rules{}},
		{"103 Early Hints", []step{{-time.Second, asks(80)}, {-time.Second, sends(70)}}, "aaaaaaaaaaaaaaaaaaaaaaa...", rules{}},
		{"TLS before its first answer", each(tls, -time.Second), "aaaaaaaaaaaaaaaaaaaaaaa...", rules{}},
		{"the same bytes on a port without TLS", each(tls, -3*time.Second), ".........", rules{cleartext: map[uint16]bool{8080: true}}},
		{"tokens, 3 s between them", []step{{-4 * time.Second, asks(80)}, {-4 * time.Second, sends(160)}, {-1 * time.Second, sends(26)},
			{2100 * ms, sends(26)}, {5100 * ms, sends(26)}, {8100 * ms, sends(26)}}, "...caacaacaaaaaaaaa....", rules{}},
		{"tokens, and a pause that is known", []step{{-1 * time.Second, asks(80)}, {-1 * time.Second, sends(160)},
			{1100 * ms, sends(26)}, {2100 * ms, sends(26)}}, "aacccccc......", rules{streamPause: 5 * time.Second}},
		{"pings of HTTP/2", append(each(greet, -60*time.Second),
			each(ping, 2050*ms, 5050*ms, 8050*ms)...), "...........", rules{}},
		{"HTTP/2, answered", calls, "...aaaaaaaaaa......", rules{}},
		{"HTTP/2, answered, where streams pause for up to 15 s", calls, "...aaaaaaaaaaaaaaa...", rules{streamPause: 15 * time.Second}},
		{"HTTP/2, answered, where no call is silent for 3 s", calls, "...aaa......", rules{streamPause: 3 * time.Second}},
		{"HTTP/2, not answered, where no call is silent for 3 s", calls[:len(calls)-1], "...aaa......", rules{streamPause: 3 * time.Second}},
		{"a WebSocket's pings", append(each(http, -30*time.Second),
			each([]step{{0, sends(6)}, {4 * ms, receives(10)}}, 2050*ms, 5050*ms, 8050*ms)...), "...........", rules{}},
		{"a request after an answer, as long as a pong would be", append(each(http, -30*time.Second), step{1050 * ms, asks(134)},
			step{2050 * ms, sends(130)}, step{2058 * ms, asks(134)}), "..cccccccc", rules{}},
		{"an answer that may pause, as is known", []step{{-2 * time.Second, asks(80)}, {-2 * time.Second, sends(160)}},
			"aaaaaaaa......", rules{streamPause: 10 * time.Second}},
		{"a haproxy's pool of HTTP/2, left", each([]step{{0, receives(33)}, {4 * ms, sends(75)}, {8 * ms, receives(13)}},
			-3*time.Second, -2*time.Second, -time.Second, 500*ms, 700*ms, 900*ms, 1300*ms), "aaaaaaaaaaaaaaaaaaaaaaa...", rules{}},
		{"a haproxy's pool of gRPC, left", each([]step{{0, receives(139)}, {0, sends(54)}, {0, receives(13)}},
			-3*time.Second, -2*time.Second, -time.Second, 550*ms, 750*ms, 950*ms, 1350*ms), "aaaaaaaaaaaaaaaaaaaaaaa...", rules{}},
		{"an upload in small segments after a small answer", append(each(http, -9*time.Second),
			each([]step{{0, receives(100)}}, -8*time.Second, -7*time.Second, -6*time.Second, -5*time.Second, -4*time.Second, -3*time.Second)...),
			"ccccccccccccccccccccccccccccccccccc", rules{}},
		{"an answer in small segments, after 2 s", []step{{-8 * time.Second, asks(107)}, {-6 * time.Second, small}}, ".........", rules{}},
		{"the same twice, within a tick", each([]step{{0, asks(107)}, {0, small}}, -8*time.Second, -6*time.Second), ".........", rules{}},
		{"an HTTP/2 request, and the server's ping", append(each(greet, -3*time.Second), step{-2 * time.Second, asks(79)}, step{-2 * time.Second, sends(30)}),
			"aaaaaaaaaaaaaaaaaaaaaaa...", rules{}},
		{"redis' BLPOP of 5 s, again and again", each([]step{{0, sends(5)}, {0, receives(40)}}, -10*time.Second, -5*time.Second, 0),
			"aaaaaaaaaaaaaaaaaaaaaaa...", rules{}},
		{"redis' BLPOP, the first command", []step{{-time.Second, asks(14)}}, "aaaaaaaaaaaaaaaaaaaaaaa...", rules{}},
		{"the same as an array, on a port that speaks no HTTP", []step{{-time.Second, asks(32)}}, "aaaaaaaaaaaaaaaaaaaaaaa...",
			rules{brief: map[uint16]bool{8080: true}}},
		{"redis' BLPOP after a job of 2 KB", []step{{-9 * time.Second, asks(32)}, {-9 * time.Second, sends(2000)}, {-time.Second, asks(32)}},
			"aaaaaaaaaaaaaaaaaaaaaaa...", rules{brief: map[uint16]bool{8080: true}}},
		{"a first request of HTTP/1.0, as short as can be", []step{{-time.Second, asks(18)}}, "ccccccccccccccccccccccccccccccccccc", rules{}},
		{"statsd", each([]step{{0, receives(30)}}, -5*time.Second, -4*time.Second, -3*time.Second, -2*time.Second), "aaaaaaaaaaaaaaaaaaaaaaa...", rules{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			born := -65 * time.Second
			if len(tt.steps) == 0 {
				born = -2 * time.Second
			} else {
				born = tt.steps[0].at
			}
			got := letters(judged(tt.steps, born.Truncate(modelTick), time.Duration(len(tt.want)-1)*time.Second, tt.rules))
			if got != tt.want {
				t.Errorf("\ngot  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestPortsAreKnownByTheirAnswers(t *testing.T) {
	const begin = 100 * time.Second
	for _, tt := range []struct {
		name             string
		asked, answered  uint64
		ago              time.Duration
		state            uint8
		cleartext, brief bool
	}{
		{"redis' OK", 22, 5, time.Second, stEstablished, false, true},
		{"the same, and more may come", 22, 5, 100 * ms, stEstablished, false, false},
		{"a TLS alert, and the end", 80, 7, time.Second, stFinWait1, false, false},
		{"HTTP/2's empty settings, and their acknowledgement", 51, 18, time.Second, stEstablished, false, false},
		{"an answer of HTTP/1.1", 80, 140, time.Second, stEstablished, true, false},
		{"TLS, and no request yet", 260, 900, time.Second, stEstablished, false, false},
		{"a greeting", 0, 10, time.Second, stEstablished, false, false},
	} {
		m := newModel(1, begin)
		if tt.asked > 0 {
			m.receive(tt.asked, begin)
		}
		m.send(tt.answered, 1, begin)
		s := m.at(begin + tt.ago)
		s.state = tt.state
		var r rules
		learnt := r.learn(s)
		if r.cleartext[8080] != tt.cleartext || r.brief[8080] != tt.brief || learnt != (tt.cleartext || tt.brief) {
			t.Errorf("%s: %+v", tt.name, r)
		}
		if r.learn(s) {
			t.Errorf("%s: learnt twice", tt.name)
		}
	}
}

// An answer as small as an interim one is known to be final once equal ones of
// its port have followed each other, on whichever connection.
func TestSmallAnswersOfAPortThatAreFinal(t *testing.T) {
	ask := func(answer uint64) func(*model, time.Duration) {
		return func(m *model, now time.Duration) {
			m.ask(80, now)
			m.answer(answer, 1, now)
		}
	}
	for _, tt := range []struct {
		name    string
		further func(m *model, now time.Duration)
		idle    bool
	}{
		{"as many bytes", ask(70), true},
		{"other bytes", ask(71), false},
		{"without a further request", nil, false},
		{"103 Early Hints, the answer and the client's FIN", func(m *model, now time.Duration) {
			m.send(150, 1, now)
			m.receive(1, now)
		}, false},
		{"103 Early Hints, an answer as long and the client's FIN", func(m *model, now time.Duration) {
			m.send(70, 1, now)
			m.receive(1, now)
		}, false},
		{"103 Early Hints, the answer and the next request", func(m *model, now time.Duration) {
			m.send(150, 1, now)
			m.ask(80, now)
		}, false},
		{"100 Continue, and what was to be continued", asks(70), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var j judge
			const begin = 100 * time.Second
			once, often := newModel(1, begin), newModel(2, begin)
			ask(70)(once, begin-time.Second)
			ask(70)(often, begin-time.Second)
			for now := time.Duration(0); now <= 5*time.Second; now += pollEvery {
				if tt.further != nil && now == time.Second {
					tt.further(often, begin+now)
				}
				j.begin()
				j.observe(once.at(begin+now), now)
				j.observe(often.at(begin+now), now)
				j.end(now)
			}
			c := j.known[1]
			held := j.rules.claimOf(&c, once.at(begin+5*time.Second), 5*time.Second)
			if idle := held.evidence == None; idle != tt.idle {
				t.Errorf("idle is %v: %+v", idle, held)
			}
		})
	}
}

// A connection may teach, late in a poll, that what was judged before is no TLS
// handshake but a request: FuzzHistories found that poll idle.
func TestWhatAPollTeachesCountsInIt(t *testing.T) {
	var j judge
	const begin = 100 * time.Second
	suspect, teacher := newModel(1, begin), newModel(2, begin)
	suspect.receive(260, begin)
	suspect.send(719, 3, begin+8*ms)
	suspect.ask(160, begin+500*ms)
	teacher.ask(80, begin+16*ms)
	teacher.answer(140, 1, begin+24*ms)
	j.arriving(false, 0)
	for i := range 3 {
		now := patience + instantFor + time.Duration(i)*pollEvery
		j.begin()
		j.observe(suspect.at(begin+now), now)
		if i > 0 {
			j.observe(teacher.at(begin+now), now)
		}
		j.end(now)
		if idle := j.idle(now); idle != (i == 0) {
			t.Errorf("poll %d: idle is %v: %+v", i, idle, j.tally)
		}
	}
}

// play plays a random history of several connections, and checks after each
// poll what must hold whatever happens.
func play(t *testing.T, next func(n int) int) {
	var j judge
	j.closedIdle = closedIdle
	const begin = 100 * time.Second
	var conns []*model
	now := -5 * time.Second
	for range 400 {
		now += time.Duration(1+next(60)) * modelTick
		if len(conns) == 0 || len(conns) < 6 && next(8) == 0 {
			conns = append(conns, newModel(uint64(len(conns)+1), begin+now))
		}
		m := conns[next(len(conns))]
		switch next(7) {
		case 0, 1:
			if m.unanswered == 0 {
				m.ask(uint64(60+next(400)), begin+now)
			}
		case 2, 3:
			if m.unanswered > 0 {
				m.answer(uint64(115+next(4000)), uint32(1+next(2)), begin+now)
			}
		case 4:
			m.keepalive(begin + now)
		}
		if now >= 0 && next(3) == 0 {
			j.begin()
			for _, m := range conns {
				j.observe(m.at(begin+now), now)
			}
			j.end(now)
			j.arriving(next(4) == 0, now)
			checkInvariants(t, &j, conns, begin, now)
		}
	}
}

// checkInvariants: evidence is never wrong for the worse.
func checkInvariants(t *testing.T, j *judge, conns []*model, begin, now time.Duration) {
	t.Helper()
	n := &j.tally
	if n.open != len(conns) || n.lasting > n.inFlight || n.inFlight+n.ambiguous+n.recent > n.open {
		t.Fatalf("%v: the tally is %+v of %d", now, n, len(conns))
	}
	if now >= patience && n.ambiguous > 0 {
		t.Fatalf("%v: ambiguous evidence holds after the patience: %+v", now, n.suspected)
	}
	if n.ambiguous > 0 && (n.suspected.until > patience || n.suspected.until <= now) {
		t.Fatalf("%v: ambiguous evidence until %v", now, n.suspected.until)
	}
	idle := j.idle(now)
	for _, m := range conns {
		c, s := j.known[m.s.cookie], m.at(begin+now)
		if m.unanswered == 0 || begin+now-m.askedAt >= staleAfter {
			continue
		}
		age := begin + now - m.askedAt
		held := j.rules.claimOf(&c, s, now)
		// A request whose order the ticks tell, begun before the patience
		// ended, is certain on a connection known for requests and answers, and
		// on one that was never answered, but for one as small as redis'; it
		// holds `idle` from when it is slow on.
		known := m.recvAt/modelTick > m.sentAt/modelTick && (m.s.dataOut == 0 || !c.unsettled()) && !j.rules.terse(s)
		if known && c.since < patience && held.evidence != Certain {
			t.Fatalf("%v: a request in flight for %v is %q (%s): %+v", now, age, held.evidence, held.why, s)
		}
		if idle && held.evidence == Certain && age >= slowAfter {
			t.Fatalf("%v: idle beside a request in flight for %v", now, age)
		}
		// No other that came since t0 is overlooked while patience lasts.
		if now < patience && m.recvAt/modelTick > m.sentAt/modelTick && age < suspectFor && held.evidence == None {
			t.Fatalf("%v: a request in flight for %v is overlooked: %+v %+v", now, age, s, c)
		}
	}
}

func TestRandomHistories(t *testing.T) {
	for seed := range int64(runs(2000)) {
		r := rand.New(rand.NewSource(seed))
		play(t, r.Intn)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzHistories(f *testing.F) {
	f.Add([]byte("a request, an answer, a request"))
	f.Fuzz(func(t *testing.T, b []byte) {
		i := 0
		play(t, func(n int) int {
			if len(b) == 0 {
				return 0
			}
			i++
			return int(b[i%len(b)]+byte(i/len(b))) % n
		})
	})
}
