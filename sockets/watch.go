package sockets

import (
	"cmp"
	"slices"
	"time"

	"github.com/drainit/drainit/internal/bug"
	"golang.org/x/sys/unix"
)

const (
	// While something is to be decided the tables are read this often; while an
	// instant between two requests is looked for as often as the dump's cost
	// allows, and not below the kernel's usual tick; where they are only
	// counted more seldom, and once there is nothing left to decide rarely.
	pollEvery  = 100 * time.Millisecond
	hurryEvery = 4 * time.Millisecond
	countEvery = 500 * time.Millisecond
	slowEvery  = time.Second
	// A dump of 50,000 connections takes about a tenth of a second: polling may
	// take a tenth of one CPU, and in a hurry a twentieth (it goes on for
	// longer).
	pollShare, hurryShare = 10, 20
	// The ends of connections are collected this often. The time of an arrival
	// is deduced from the connection's age at its end, and probers are
	// recognised by being regular to within some ticks.
	collectEvery = 10 * time.Millisecond
	// Counting that has failed for this long, without one success, is blind.
	blindAfter = 3 * time.Second
	// Watch waits this long at most for the first look at the listeners.
	noteTime = 100 * time.Millisecond
)

// Watch polls the child's clients from now on, which is t0, until done is
// closed. It then closes the channel. It starts one goroutine. A Verdict that
// is not received is withdrawn when the next one is made, so that none is old.
//
// With Until Window every Verdict is met: clients are only counted, at a lower
// pace.
func (c *Counter) Watch(done <-chan struct{}, until Until) <-chan Verdict {
	out := make(chan Verdict)
	w := &watch{c: c, until: until, t0: time.Now()}
	w.judge.rules.streamPause = c.options.StreamPause
	w.judge.rules.patience, w.arrivals.patience = c.options.Patience, c.options.Patience
	w.judge.closedIdle = cmp.Or(c.options.ClosedIdle, closedIdle)
	noted := make(chan struct{})
	go func() {
		defer close(out) // which tells the caller that the window decides
		defer w.close()
		defer func() {
			if p := recover(); p != nil {
				bug.Report(c.log, "counting clients", p)
			}
		}()
		c.Listening()
		close(noted)
		w.arrivals.local = gateways()
		w.run(done, out)
	}()
	// On the next signal the child may close its listeners, so they are noted
	// before. But the caller is not held up by a machine on which that takes
	// long: 16 s were seen at a load of 100 and with the /proc of a whole host.
	select {
	case <-noted:
	case <-time.After(noteTime):
	}
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

	started  bool // there was one complete poll
	foreign  bool // others listen in this network namespace
	warned   bool
	held     Holder // as last logged
	ports    []uint16
	dials    uint64 // drainit's own since t0 that have been seen to arrive
	failed   time.Time
	last     time.Duration // when the last poll began
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
	next := w.now() // the first poll is at once
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
			if w.until != Window && !w.c.slowed() {
				wait = min(wait, collectEvery)
			}
			timer.Reset(max(wait, time.Millisecond))
		}
	}
}

func (w *watch) now() time.Duration { return time.Since(w.t0) }

// pace returns how long after the beginning of the last poll the next one is
// due.
func (w *watch) pace() time.Duration {
	every := pollEvery
	switch {
	case w.c.slowed():
		every = slowEvery
	case w.until == Window:
		every = countEvery
	case w.until == Idle && w.judge.hurry(w.now()) && pollShare*w.cost < pollEvery:
		return max(hurryEvery, min(hurryShare*w.cost, pollEvery))
	}
	return max(every, pollShare*w.cost)
}

// start takes the arrival rate before t0, and subscribes to the ends of
// connections before the first poll, so that each arrival is in one or the
// other.
func (w *watch) start() {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	w.view = c.view()
	w.arrivals.before, w.arrivals.window = c.rate(w.t0)
	w.arrivals.unknown = w.arrivals.window == 0
	w.arrivals.gap = c.burstGap()
	if c.options.Dials != nil {
		w.dials = c.options.Dials()
	}
	if ends, err := c.openEvents(); err == nil {
		w.ends = ends
	} else {
		c.log.Debug("the ends of connections are not announced; short ones are only counted", "error", err)
	}
}

// poll reads all tables once.
func (w *watch) poll() Verdict {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	began, used := w.now(), threadTime()
	queued, err := w.pollTables(began)
	end := w.now()
	// The CPU's time, not the clock's: on a machine with a load of 70 a poll of
	// nothing took a second, and the next was due ten seconds later. The
	// cheaper of two counts, as a thread may have changed.
	cost := end - began
	if cpu := threadTime() - used; cpu >= 0 {
		cost = min(cost, cpu)
	}
	w.cost, w.lastCost = min(cost, w.lastCost), cost
	w.last = began
	if err != nil {
		w.judge.failed()
		if w.failed.IsZero() {
			w.failed = time.Now()
		}
		return w.unknown(err)
	}
	w.failed = time.Time{}
	return w.decide(queued, end)
}

// threadTime returns the CPU time that this thread has used.
func threadTime() time.Duration {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// pollTables makes one complete poll, or fails.
func (w *watch) pollTables(began time.Duration) (queued int, err error) {
	opens, buf, opensErr := w.c.opens(w.c.snmp)
	w.c.snmp = buf
	if queued, err = w.pollListeners(); err != nil {
		return 0, err
	}
	// Read after PassiveOpens, and with those that drainit has not accepted
	// yet: a probe of drainit itself must not pass for a client. One too many
	// is counted at the next poll.
	own := w.c.own() + uint64(w.view.ownQueue)
	w.judge.begin()
	if len(w.ports) == 0 {
		w.started = true
		w.judge.end(began)
		return 0, nil
	}
	if !w.started {
		w.seedFromTimeWait(began)
	}
	if err := w.pollConnections(opensErr == nil); err != nil {
		return 0, err
	}
	w.collectLocked()
	w.judge.end(began)
	if opensErr != nil && w.ends == nil && w.c.fellBack {
		return 0, opensErr // short connections would go unseen
	}
	if opensErr == nil && (!w.foreign || w.ends == nil) {
		n := w.opens.excess(opens-min(own, opens), began, !w.started, w.c.fellBack)
		for range min(n, keepGaps+1) {
			w.arrivals.add(w.uncounted(), began, false)
		}
	} else {
		w.opens.pending = 0
	}
	w.started = true
	return queued, nil
}

// uncounted returns the class of arrivals that are only counted. They make no
// rhythm, unless all are.
func (w *watch) uncounted() class {
	if w.c.fellBack {
		return class{bytes: anyBytes}
	}
	return class{}
}

// pollListeners finds the child's ports, and returns how many connections wait
// to be accepted there.
func (w *watch) pollListeners() (queued int, err error) {
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
	return queued, nil
}

// pollConnections shows every connection of the child's ports to the judge.
func (w *watch) pollConnections(counted bool) error {
	var port uint16 // the kernel filters by one; several are sorted out here
	if len(w.ports) == 1 {
		port = w.ports[0]
	}
	return w.view.forEachSocket(w.c.families, maskOpen, port, true, func(s *socket) {
		if port == 0 && !w.isOurs(s) {
			return
		}
		now := w.now()
		fresh, work := w.judge.observe(s, now)
		// In /proc/net/tcp a connection that is accepted gets another key. It
		// was counted when it came.
		if fresh && w.started && !(w.c.fellBack && counted) {
			w.addArrival(s, now)
		}
		if work {
			w.arrivals.request(now - min(s.recvAgo, now))
		}
	})
}

func (w *watch) isOurs(s *socket) bool {
	_, found := slices.BinarySearch(w.ports, s.local)
	return found
}

// warnOfNeighbours warns once if the child's listeners can't be told from
// others, and notes that the rate before t0 is not the child's alone.
func (w *watch) warnOfNeighbours(foreign bool) {
	w.foreign = foreign
	if foreign && !w.started {
		w.arrivals.unknown = true
	}
	if !w.warned && len(w.c.options.Ports) == 0 && w.c.owner.unsure {
		w.warned = true
		w.c.log.Warn("the child's listening ports can't be told from those of other containers in this network namespace; "+
			"if there are any, name the child's in DRAINIT_PORTS", "ports", w.c.ports)
	}
}

const (
	timeWait  = time.Minute // TCP_TIMEWAIT_LEN, which can't be configured
	maxRecall = int(timeWait / minPeriod)
)

// seedFromTimeWait looks for probers and bursts among the TIME_WAIT sockets.
// Where the server closes first, as it does with a kubelet's HTTP probes, they
// are the arrivals of the last minute. If it fails only time is lost.
func (w *watch) seedFromTimeWait(now time.Duration) {
	if w.c.fellBack {
		return
	}
	series := map[class][]time.Duration{}
	var all []time.Duration
	total := 0
	err := w.view.forEachSocket(w.c.families, maskTimeWait, 0, false, func(s *socket) {
		if !w.isOurs(s) {
			return
		}
		total++
		at := now + s.expires - timeWait
		if len(all) < maxClasses {
			all = append(all, at)
		}
		// A fast series has more than these in a minute, and is no prober's.
		k := class{peer: s.peer, port: s.local}
		if len(series[k]) <= maxRecall && len(series) < maxClasses {
			series[k] = append(series[k], at)
		}
	})
	if err != nil {
		return
	}
	for k, t := range series {
		if len(t) <= maxRecall {
			slices.Sort(t)
			w.arrivals.probes.remember(k.peer, k.port, t)
		}
	}
	w.arrivals.seed(all, total < maxClasses)
	if w.arrivals.unknown && w.foreign && total >= 3 {
		// Not all of the child's arrivals; but fewer is a lower rate, and so a
		// longer wait. In a young container they are no minute's: it would wait
		// for a rate at which none ever came.
		span := min(timeWait, w.c.age(w.t0))
		w.arrivals.before, w.arrivals.window, w.arrivals.unknown = float64(total)/span.Seconds(), span, false
	}
}

// addArrival takes a connection not seen before.
func (w *watch) addArrival(s *socket, now time.Duration) {
	w.opens.seen++
	if s.self && w.c.options.Dials != nil && w.c.options.Dials() > w.dials {
		w.dials++
		return
	}
	at := now
	if s.info {
		// Until something has come that is the age of the connection, then that
		// of the request.
		at = max(w.last, now-s.recvAgo)
	}
	w.arrivals.add(class{s.peer, s.local, s.recv}, min(at, now), s.self && !w.foreign)
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
		// Some ends were dropped: all that is known is that clients have come.
		w.arrivals.add(class{}, w.now(), false)
	}
}

// openings compares PassiveOpens with the arrivals that were seen one by one.
type openings struct {
	base    uint64
	seen    uint64 // arrivals seen one by one
	blamed  uint64 // arrivals only counted
	pending uint64 // arrivals counted by now, and not seen yet
	since   time.Duration
}

// unseenFor is how long an arrival may be counted and not seen: the kernel
// announces ends from a work queue, and on a machine with a load of 70 drainit
// accepts its own probes as late.
const unseenFor = 500 * time.Millisecond

// excess returns how many connections have been counted for a while, and not
// been seen since. With first set it only starts to count. With all set none
// was seen one by one, as the keys of /proc/net/tcp do not last.
func (o *openings) excess(opens uint64, now time.Duration, first, all bool) int {
	if first {
		*o = openings{base: opens}
		return 0
	}
	if all {
		n := opens - min(opens, o.base+o.blamed)
		o.blamed += n
		return int(n)
	}
	if explained := o.base + o.seen + o.blamed; explained > opens {
		// Some were seen, or turned out to be drainit's own, after all.
		o.blamed -= min(o.blamed, explained-opens)
	}
	unseen := opens - min(opens, o.base+o.seen+o.blamed)
	if unseen == 0 || o.pending == 0 {
		o.pending, o.since = unseen, now
		return 0
	}
	n := min(unseen, o.pending)
	o.pending = n
	if now-o.since < unseenFor {
		return 0
	}
	o.blamed += n
	o.pending, o.since = unseen-n, now
	return int(n)
}
