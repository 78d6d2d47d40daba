package sockets

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drainit/drainit/internal/bug"
)

const (
	// While it waits, the tables are read this often; while it looks for an instant as often as the dump's
	// cost allows, and not below the kernel's usual tick; and once there is nothing to decide, seldom.
	pollEvery  = 100 * time.Millisecond
	hurryEvery = 4 * time.Millisecond
	slowEvery  = time.Second
	// A dump of 50,000 connections takes about a tenth of a second: looking may take a tenth of one CPU, and
	// in a hurry a twentieth (it goes on for longer).
	pollShare, hurryShare = 10, 20
	// The ends of connections are collected this often, since the time of an arrival is told by how old the
	// connection was at its end; probers are known by being regular to within some ticks.
	collectEvery = 10 * time.Millisecond
	// Counting that has failed for this long, without one success, is given up for the time being.
	blindAfter = 3 * time.Second
)

// Watch looks at the child's clients from now on, which is t0, until done is closed; it then closes the
// channel. It starts one goroutine. A Verdict that nobody takes is withdrawn when the next one is made, so
// that none is ever old.
func (c *Counter) Watch(done <-chan struct{}, until Until) <-chan Verdict {
	// Now, and not when the goroutine gets to run: on the next signal the child may close its listeners.
	c.Listening()
	out := make(chan Verdict)
	w := &watch{c: c, until: until, t0: time.Now()}
	go func() {
		defer close(out) // which tells the caller that the window decides
		defer w.close()
		defer func() {
			if p := recover(); p != nil {
				bug.Report(c.log, "counting clients", p)
			}
		}()
		w.run(done, out)
	}()
	return out
}

// watch is what the goroutine of Watch owns.
type watch struct {
	c     *Counter
	until Until
	t0    time.Time

	view     *view
	ends     *events
	arrivals arrivals
	judge    judge
	opens    openings

	started  bool // there was one complete look
	foreign  bool
	warned   bool
	ports    []uint16
	dials    uint64 // drainit's own, of those since t0 not yet seen to arrive
	failed   time.Time
	last     time.Duration // when the last look began
	cost     time.Duration
	lastCost time.Duration
}

func (w *watch) close() {
	w.ends.close()
	if w.view != nil {
		w.view.close()
	}
}

func (w *watch) run(done <-chan struct{}, out chan<- Verdict) {
	w.start()
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := w.now() // the first look is at once
	var v Verdict
	var offer chan<- Verdict
	for {
		select {
		case <-done:
			return
		case offer <- v:
			offer = nil
		case <-timer.C:
			if w.now() >= next {
				v, offer = w.poll(), out
				next = w.last + w.pace()
			} else {
				w.collect()
			}
			wait := next - w.now()
			if !w.c.slowed() {
				wait = min(wait, collectEvery)
			}
			timer.Reset(max(wait, time.Millisecond))
		}
	}
}

func (w *watch) now() time.Duration { return time.Since(w.t0) }

// pace is how long after the beginning of the last look the next one is due.
func (w *watch) pace() time.Duration {
	if w.c.slowed() {
		return max(slowEvery, pollShare*w.cost)
	}
	if w.until == Idle && w.judge.hurry(w.now()) && pollShare*w.cost < pollEvery {
		return max(hurryEvery, min(hurryShare*w.cost, pollEvery))
	}
	return max(pollEvery, pollShare*w.cost)
}

// start takes the arrival rate before t0, and subscribes to the ends of connections before the first look:
// so that each arrival is in one or the other.
func (w *watch) start() {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	w.view = c.view()
	w.arrivals.before, w.arrivals.window = c.rate(w.t0)
	w.arrivals.unknown = w.arrivals.window == 0
	if c.options.Dials != nil {
		w.dials = c.options.Dials()
	}
	if ends, err := c.openEvents(); err == nil {
		w.ends = ends
	} else {
		c.log.Debug("the ends of connections are not announced; short ones are only counted", "error", err)
	}
}

// look reads all tables once.
func (w *watch) poll() Verdict {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	began := w.now()
	queued, err := w.pollTables(began)
	end := w.now()
	// The cheaper of two: the other may have waited for a CPU.
	w.cost, w.lastCost = min(end-began, w.lastCost), end-began
	if err != nil {
		w.judge.failed()
		w.last = began
		if w.failed.IsZero() {
			w.failed = time.Now()
		}
		return Verdict{Err: err, Blind: time.Since(w.failed) >= blindAfter, Waiting: "a count of the clients (" + err.Error() + ")"}
	}
	w.failed = time.Time{}
	w.last = began
	return w.decide(queued, end)
}

// read makes one complete look, or fails.
func (w *watch) pollTables(began time.Duration) (queued int, err error) {
	own := w.c.own()
	opens, buf, opensErr := w.c.opens(w.c.snmp)
	w.c.snmp = buf

	mine, foreign, err := w.view.listeners()
	if err != nil {
		return 0, err
	}
	for _, l := range mine {
		queued += int(l.queue)
		w.c.remember(l)
	}
	w.ports = w.c.ports
	w.warnOfNeighbours(foreign)
	if len(w.ports) == 0 {
		w.started = true
		w.judge.begin()
		w.judge.end(began)
		return 0, nil
	}
	if !w.started {
		w.seedFromTimeWait(began)
	}

	var port uint16 // the kernel filters by one; several are sorted out here
	if len(w.ports) == 1 {
		port = w.ports[0]
	}
	w.judge.begin()
	err = w.view.forEachSocket(w.c.families, maskOpen, port, true, func(s *socket) {
		if port == 0 && !w.isOurs(s) {
			return
		}
		now := w.now()
		// In /proc/net/tcp a connection that is accepted gets another key. It was counted when it came.
		if fresh := w.judge.observe(s, now); fresh && w.started && !(w.c.fellBack && opensErr == nil) {
			w.addArrival(s, now)
		}
	})
	if err != nil {
		return 0, err
	}
	w.collectLocked()
	w.judge.end(began)

	counts := opensErr == nil && (!foreign || w.ends == nil)
	if opensErr != nil && w.ends == nil && w.c.fellBack {
		return 0, opensErr // short connections would go unseen
	}
	if counts {
		n := w.opens.excess(opens-min(own, opens), !w.started, w.c.fellBack)
		for range min(n, keepGaps+1) {
			w.arrivals.add(class{}, began)
		}
	} else {
		w.opens.pending = 0
	}
	w.started = true
	return queued, nil
}

func (w *watch) isOurs(s *socket) bool {
	_, found := slices.BinarySearch(w.ports, s.local)
	return found
}

// notice says once what can't be told apart, and that the rate before t0 is not the child's alone.
func (w *watch) warnOfNeighbours(foreign bool) {
	w.foreign = foreign
	if foreign && !w.started {
		w.arrivals.unknown = true
	}
	if !w.warned && len(w.c.options.Ports) == 0 && w.c.owner.unsure {
		w.warned = true
		w.c.log.Warn("can't tell the child's listening ports from those of neighbours in the same network namespace; "+
			"if there are any, name the child's in DRAINIT_PORTS", "ports", w.c.ports)
	}
}

// recall looks through the TIME_WAIT sockets for probers: where the server closes first, as it does with a
// kubelet's HTTP probes, they are the arrivals of the last minute. Failing at it costs nothing but time.
func (w *watch) seedFromTimeWait(now time.Duration) {
	if w.c.fellBack {
		return
	}
	type from struct {
		class
	}
	times := map[from][]time.Duration{}
	total := 0
	err := w.view.forEachSocket(w.c.families, maskTimeWait, 0, false, func(s *socket) {
		if !w.isOurs(s) {
			return
		}
		total++
		k := from{class{peer: s.peer, port: s.local}}
		// A fast series has more than these in a minute, and is none of a prober's.
		if len(times[k]) <= maxRecall && len(times) < maxClasses {
			times[k] = append(times[k], now+s.expires-timeWait)
		}
	})
	if err != nil {
		return
	}
	for k, t := range times {
		if len(t) <= maxRecall {
			slices.Sort(t)
			w.arrivals.probes.remember(k.peer, k.port, t)
		}
	}
	if w.arrivals.unknown && w.foreign && total >= 3 {
		// Not all of the child's arrivals; but fewer is a lower rate, and so a longer wait. In a young
		// container they are no minute's: it would wait for a rate nobody ever came at.
		span := min(timeWait, w.c.age(w.t0))
		w.arrivals.before, w.arrivals.window, w.arrivals.unknown = float64(total)/span.Seconds(), span, false
	}
}

const (
	timeWait  = time.Minute // TCP_TIMEWAIT_LEN, which can't be configured
	maxRecall = int(timeWait / minPeriod)
)

// arrived takes a connection not seen before.
func (w *watch) addArrival(s *socket, now time.Duration) {
	w.opens.seen++
	if s.self && w.c.options.Dials != nil && w.c.options.Dials() > w.dials {
		w.dials++
		return
	}
	at := now
	if s.info {
		// Until something has come that is the age of the connection, then that of the request.
		at = max(w.last, now-s.recvAgo)
	}
	w.arrivals.add(class{s.peer, s.local, s.recv}, min(at, now))
}

// collect takes the connections that have ended.
func (w *watch) collect() {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.collectLocked()
}

func (w *watch) collectLocked() {
	if w.ends == nil {
		return
	}
	lost := w.ends.drain(func(s *socket) {
		if s.state == stListen || s.peerPort == 0 || !w.isOurs(s) {
			return
		}
		if w.judge.closed(s) && w.started {
			w.addArrival(s, w.now())
		}
	})
	if lost {
		// Some ends were dropped: that somebody has come is all that is known.
		w.arrivals.add(class{}, w.now())
	}
}

// openings compares PassiveOpens with the arrivals that were seen one by one.
type openings struct {
	base    uint64
	seen    uint64 // arrivals seen one by one
	blamed  uint64 // arrivals only counted
	pending uint64 // arrivals counted by now, and not seen yet
}

// excess returns how many connections were counted before the last look, and haven't been seen since: the
// announcement of an end comes a little after it. With first set it only starts to count; with all set
// nothing was seen one by one, as the keys of /proc/net/tcp don't last.
func (o *openings) excess(opens uint64, first, all bool) int {
	if first {
		o.base, o.seen, o.blamed, o.pending = opens, 0, 0, 0
		return 0
	}
	if all {
		n := opens - min(opens, o.base+o.blamed)
		o.blamed += n
		return int(n)
	}
	explained := o.base + o.seen + o.blamed
	now := opens - min(opens, explained)
	n := min(now, o.pending)
	o.blamed += n
	o.pending = now - n
	return int(n)
}

// verdict judges a complete look.
func (w *watch) decide(queued int, now time.Duration) Verdict {
	q, since := w.arrivals.quiet(), now-w.arrivals.last
	v := Verdict{
		Known: true, Open: w.judge.tally.open, InFlight: w.judge.tally.inFlight, Queued: queued,
		Rate: w.arrivals.clientRate(), Quiet: q, QuietFor: since,
	}
	if len(w.ports) == 0 || w.until == Window {
		v.Met = true
		return v
	}
	quiet := since >= q && queued == 0 && w.opens.pending == 0
	w.judge.arriving(!quiet, now)
	switch w.until {
	case Quiet:
		v.Met = quiet
	case Idle:
		v.Met = quiet && w.judge.idle(now)
	case Closed:
		v.Met = quiet && v.Open == 0
	}
	if !v.Met {
		v.Waiting = w.waiting(&v, now)
	}
	return v
}

// waiting says what is missing, the hardest first.
func (w *watch) waiting(v *Verdict, now time.Duration) string {
	var parts []string
	if w.until == Idle && v.InFlight > 0 {
		parts = append(parts, plural(v.InFlight, "request")+" in flight")
	}
	if n := w.judge.tally.streams; w.until == Idle && n > 0 {
		parts = append(parts, plural(n, "connection")+" that may be busy")
	}
	if w.until == Closed && v.Open > 0 {
		parts = append(parts, plural(v.Open, "open connection"))
	}
	if v.Queued > 0 {
		parts = append(parts, fmt.Sprintf("%d in the accept queue", v.Queued))
	}
	if len(parts) == 0 && v.QuietFor < v.Quiet {
		tenths := 100 * time.Millisecond
		which := "no new connection yet"
		if w.arrivals.last > 0 {
			which = fmt.Sprintf("last one %v ago", v.QuietFor.Round(tenths))
		}
		return fmt.Sprintf("new connections to stop (%s, %v without one are needed)", which, v.Quiet.Round(tenths))
	}
	if len(parts) == 0 {
		return "the last answers to be sent"
	}
	return strings.Join(parts, " and ")
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
