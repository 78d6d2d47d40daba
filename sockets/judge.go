package sockets

import (
	"net/netip"
	"time"
)

const (
	// What has ended is remembered for this long.
	rememberFor = 10 * time.Second
	// Two polls this far apart have to find nothing, as a dump is not atomic.
	confirmAfter = 90 * time.Millisecond
	// For this long after clients have ceased to arrive it waits for two such
	// polls. Then any instant will do in which nothing is in flight, and then
	// any in which nothing slow is.
	instantAfter = time.Second
	steadyAfter  = 4 * time.Second
	// Without tcp_info a connection's age is all that is known: one that has
	// been seen for less than this may carry a request. At 10 s requests of 6 s
	// were kept, and of 12 s cut.
	unknownFor = 15 * time.Second
)

// tally is what one poll of all connections gives:
//
//	open ┬ nothing held  (idle, or stale)
//	     ├ recent        seems to be done, and has sent within streamFor
//	     ├ ambiguous     holds for the patience at most
//	     └ inFlight  ┬   holds for as long as it lasts
//	                 └ lasting   no instant between two requests is in sight
//	holding          those that hold `closed`, whatever else they are
//
// Every open connection is in one leaf, and in each box around that.
type tally struct {
	open      int
	recent    int
	ambiguous int
	inFlight  int
	lasting   int
	holding   int

	certain   holder // the oldest of inFlight
	suspected holder // the one of ambiguous that holds longest
	connected holder // one of holding
}

// holder is a connection that holds, and its claim.
type holder struct {
	claim
	peer netip.AddrPort
	port uint16
}

// judge knows the connections of the child's ports from poll to poll. All times
// are since t0. It is pure: what it is shown, and when, is all it knows.
type judge struct {
	rules rules
	known map[uint64]connState
	polls uint32
	tally tally
	// learnt reports that this poll has taught something about a port, by which
	// the connections before are to be judged again.
	learnt bool
	// closedIdle is how long a connection may be silent and hold `closed`.
	closedIdle time.Duration

	cleanSince time.Duration // nothing held, nor had just been sent
	clean      bool
	quietSince time.Duration // no connection has arrived
	quiet      bool
}

// begin starts a poll of all connections.
func (j *judge) begin() {
	if j.known == nil {
		j.known = map[uint64]connState{}
	}
	j.polls++
	j.tally, j.learnt = tally{}, false
}

// observe takes a connection. It reports whether it is a new one, and whether a
// further request has arrived on it.
func (j *judge) observe(s *socket, now time.Duration) (fresh, work bool) {
	c, known := j.known[s.cookie]
	if known && c.poll == j.polls {
		return false, false // the table moved under the dump, and showed it twice
	}
	c.poll, c.seen = j.polls, now
	if !known {
		c.born = j.polls > 1
	}
	switch {
	case isOpen(s):
		work = j.look(s, &c, known, now)
	case undelivered(s):
		j.lookClosed(s, &c, known, now)
	}
	j.known[s.cookie] = c
	return !known, work
}

// isOpen reports whether the server has not closed a connection, nor forgotten
// to.
func isOpen(s *socket) bool {
	return s.state == stEstablished ||
		s.state == stCloseWait && (!s.info || min(s.ackAgo, s.recvAgo) < halfClosedFor)
}

// look takes an open connection.
func (j *judge) look(s *socket, c *connState, known bool, now time.Duration) (work bool) {
	var held claim
	switch {
	case !s.info:
		held = j.rules.blindClaim(s, c, known, now)
	case known:
		var final uint64
		work, final = c.update(s, now)
		if final > 0 && learn(&j.rules.final, answerOf{s.local, final}) {
			j.learnt = true
		}
		held = j.rules.claimOf(c, s, now)
	default:
		c.meet(s, now)
		held = j.rules.claimOf(c, s, now)
	}
	if s.info && j.rules.learn(s) {
		j.learnt = true
	}
	j.count(s, held)
	j.countOpen(s, c, held, now)
	return work
}

// lookClosed takes a connection that the server has closed, and whose client
// has not received all of what was written before. How long that takes is the
// client's affair, unless it acknowledges nothing.
func (j *judge) lookClosed(s *socket, c *connState, known bool, now time.Duration) {
	if !known || s.acked != c.acked {
		c.progress, c.acked = now, s.acked
	}
	if now-c.progress >= stalledAfter {
		return
	}
	held := claim{evidence: Certain, why: "undelivered answer", until: never, since: c.since, lasting: true}
	j.count(s, held)
	j.hold(s, held)
}

// blindClaim is the rule for a connection without tcp_info.
func (r *rules) blindClaim(s *socket, c *connState, known bool, now time.Duration) claim {
	if !known {
		c.since = now
	}
	if s.rqueue > 0 || s.wqueue > 0 {
		return claim{evidence: Certain, why: "queued bytes", until: never, since: c.since, lasting: true}
	}
	if until := min(c.since+unknownFor, r.limit()); now < until {
		return claim{evidence: Ambiguous, why: "connection of which only the age is known", until: until, since: c.since}
	}
	return claim{}
}

// count enters a connection in the tally by its claim.
func (j *judge) count(s *socket, held claim) {
	t := &j.tally
	t.open++
	switch held.evidence {
	case Certain:
		if t.inFlight == 0 || held.since < t.certain.since {
			t.certain = holder{held, s.peerAddr(), s.local}
		}
		t.inFlight++
		if held.lasting {
			t.lasting++
		}
	case Ambiguous:
		if t.ambiguous == 0 || held.until > t.suspected.until {
			t.suspected = holder{held, s.peerAddr(), s.local}
		}
		t.ambiguous++
	default:
		if held.recent {
			t.recent++
		}
		if held.lasting {
			t.lasting++
		}
	}
}

// countOpen enters an open connection among those that hold `closed`: not a
// stale one, nor one that is idle, as a pool's, a scraper's or a browser's.
func (j *judge) countOpen(s *socket, c *connState, held claim, now time.Duration) {
	idle := j.closedIdle
	switch {
	case c.session: // the server speaks unasked
	case c.asks > 0 && now >= j.rules.limit():
		idle = min(idle, streamFor)
	case c.asks > 0 || s.dataIn > 1 && answeredByCounts(s):
		idle = min(idle, closedAnswered)
	}
	if held.evidence == None && s.info && min(s.recvAgo, s.sentAgo) >= idle {
		return
	}
	if held.evidence == None && s.wqueue > 0 && s.info && !delivered(s) {
		return // a dead peer's
	}
	j.hold(s, claim{evidence: Certain, why: "open connection", until: never, since: c.since})
}

// hold enters a connection among those that hold `closed`.
func (j *judge) hold(s *socket, held claim) {
	if j.tally.holding == 0 {
		j.tally.connected = holder{held, s.peerAddr(), s.local}
	}
	j.tally.holding++
}

// closed takes a connection that was destroyed, and reports whether it had
// never been seen.
func (j *judge) closed(s *socket) (fresh bool) {
	_, known := j.known[s.cookie]
	delete(j.known, s.cookie)
	if s.info && j.rules.learn(s) {
		j.learnt = true
	}
	return !known
}

// end finishes a complete poll. What has disappeared is forgotten, but not at
// once: the announcement of its end comes from a work queue, on a busy machine
// much later, and must not pass for an arrival then. A cookie is never used
// again.
func (j *judge) end(now time.Duration) {
	for k, c := range j.known {
		if c.poll != j.polls && now-c.seen > rememberFor {
			delete(j.known, k)
		}
	}
	if j.learnt || j.tally.inFlight+j.tally.ambiguous+j.tally.recent > 0 {
		j.clean = false
	} else if !j.clean {
		j.clean, j.cleanSince = true, now
	}
}

// failed notes a poll that was not complete.
func (j *judge) failed() { j.clean, j.quiet = false, false }

// arriving notes whether connections still arrive.
func (j *judge) arriving(yes bool, now time.Duration) {
	if !yes && !j.quiet {
		j.quietSince = now
	}
	j.quiet = !yes
}

// idle reports whether no request is in flight in this instant, as far as
// evidence tells.
func (j *judge) idle(now time.Duration) bool {
	switch {
	case !j.quiet, j.learnt:
		return false
	case j.clean && now-j.cleanSince >= confirmAfter:
		return true
	case now-j.quietSince < instantAfter, j.tally.ambiguous > 0:
		return false
	case j.tally.inFlight == 0 && j.tally.lasting == 0:
		return true
	}
	return now-j.quietSince >= steadyAfter && j.tally.lasting == 0
}

// hurry reports whether it is time to look for an instant.
func (j *judge) hurry(now time.Duration) bool { return j.quiet && now-j.quietSince >= instantAfter }
