package sockets

import "time"

const (
	// A connection on which nothing was ever received may be about to ask, or be a browser's spare: Go's
	// Shutdown waits 5 s for such, too.
	silentFor = 5 * time.Second
	// A half-closed client may still read its answer; after this long the server has forgotten to close.
	halfClosedFor = 30 * time.Second
	// A server that has closed may leave an answer in the queue, which dies with the container's network: it is
	// in flight unless the client has acknowledged nothing for this long (the probes of a closed window are
	// further apart only after twelve seconds of it).
	deliverFor = 10 * time.Second
	// A server that pushes is busy for this long after it last sent something.
	streamFor = time.Second
	// What has ended is remembered for this long.
	rememberFor = 10 * time.Second
	// After being asked again this often a connection is known for one of requests and answers: no mere stream,
	// and no TLS handshake either, in which both sides speak twice.
	settledAsks = 3
	// An answer that comes in pieces is seen growing at this many looks at most, or it is taken for a stream.
	streamPolls = 3
	// A request older than this is slow, and a connection that has carried one may do so again for a
	// while, and after each further one for so much longer: on a busy machine every connection has its hiccup.
	slowAfter  = 250 * time.Millisecond
	slowMemory = 5 * time.Second
	// Delayed acknowledgements come after at most 200 ms (TCP_DELACK_MAX), give or take a tick.
	delayedAck = 220 * time.Millisecond
	// Two looks this far apart have to find nothing in flight, as a dump is not atomic.
	confirmAfter = 90 * time.Millisecond
	// For this long after clients have ceased to arrive it waits for two such looks; then any instant will
	// do in which nothing is in flight; and then any in which nothing slow is.
	instantAfter = time.Second
	steadyAfter  = 4 * time.Second
)

// memory is what is kept of a connection from one poll to the next.
type connState struct {
	poll       uint32
	last       time.Duration // when it was seen last
	recv, sent uint64
	dataIn     uint32 // segments
	acksIn     uint32 // segments without data
	acksOut    uint32
	since      time.Duration // in flight since
	busy       bool
	equal      bool // ticks
	guess      guess
	answers    uint8         // looks at which it had sent, and received nothing since the look before
	asks       uint8         // looks at which it had been asked again after it had sent something
	slow       time.Duration // until then it is one that carries slow requests
	lastSlow   time.Duration // since when the last of them was in flight
	slows      uint8         // how many there were
}

// guess says what is thought of a connection whose last bytes in and out have the same tick.
type guess uint8

const (
	unsure   guess = iota // the next delayed acknowledgement will tell
	answered              // the answer came last
	asked                 // the request came last
	doubtful              // nothing will tell
)

// activity is what an open connection is doing.
type activity uint8

const (
	idle      activity = iota
	justDone           // it has sent within streamFor, and seems to be done
	streaming          // no request is known to be in flight, but it may not be done
	busy               // a request is in flight
	busyLong           // and it is slow, or may be
)

// tally is what one poll of all connections gives:
//
//	open ┬ idle
//	     ├ recent      justDone
//	     ├ streams     streaming
//	     └ inFlight ┬  busy, and closed by the server but undelivered
//	                └ lasting   busyLong
//
// Every connection is in one leaf, and in each box around that.
type tally struct {
	open     int
	recent   int
	streams  int
	inFlight int
	lasting  int
}

// judge knows the connections of the child's ports from poll to poll. All times are since t0. It is pure:
// what it sees and when is all it knows.
type judge struct {
	known map[uint64]connState
	poll  uint32
	tally tally

	cleanSince time.Duration
	clean      bool
	quietSince time.Duration
	quiet      bool
}

// begin starts a look at all connections.
func (j *judge) begin() {
	if j.known == nil {
		j.known = map[uint64]connState{}
	}
	j.poll++
	j.tally = tally{}
}

// see takes a connection, and reports whether it is a new one.
func (j *judge) observe(s *socket, now time.Duration) (fresh bool) {
	m, seen := j.known[s.cookie]
	if seen && m.poll == j.poll {
		return false // the table moved under the dump, and showed it twice
	}
	m.poll, m.last = j.poll, now
	switch {
	case s.state == stEstablished, s.state == stCloseWait && (!s.info || min(s.ackAgo, s.recvAgo) < halfClosedFor):
		j.tally.open++
		j.look(s, &m, seen, now)
	case undelivered(s):
		j.tally.open++
		j.tally.inFlight++
		j.tally.lasting++ // how long it will take is the client's affair
	}
	j.known[s.cookie] = m
	return !seen
}

// undelivered reports whether the server has closed the connection, and the client hasn't got all of what was
// written before. The FIN counts as a byte.
func undelivered(s *socket) bool {
	switch s.state {
	case stFinWait1, stClosing, stLastAck:
		return s.wqueue > 1 && (!s.info || s.ackAgo < deliverFor)
	}
	return false
}

// gone takes a connection that was destroyed, and reports whether it had never been seen.
func (j *judge) closed(s *socket) (fresh bool) {
	_, seen := j.known[s.cookie]
	delete(j.known, s.cookie)
	return !seen
}

// end finishes a complete look; failed one that was not. What is not there any more is forgotten, but not
// at once: the announcement of its end comes from a work queue, on a busy machine much later, and must not
// pass for an arrival then. A cookie is never used again.
func (j *judge) end(now time.Duration) {
	for k, m := range j.known {
		if m.poll != j.poll && now-m.last > rememberFor {
			delete(j.known, k)
		}
	}
	if j.tally.inFlight+j.tally.streams+j.tally.recent > 0 {
		j.clean = false
	} else if !j.clean {
		j.clean, j.cleanSince = true, now
	}
}

func (j *judge) failed() { j.clean, j.quiet = false, false }

// arriving says whether clients are still arriving.
func (j *judge) arriving(yes bool, now time.Duration) {
	if !yes && !j.quiet {
		j.quietSince = now
	}
	j.quiet = !yes
}

// idle reports whether no request is in flight, as far as it can be told, in this instant.
func (j *judge) idle(now time.Duration) bool {
	switch {
	case !j.quiet:
		return false
	case j.clean && now-j.cleanSince >= confirmAfter:
		return true
	case now-j.quietSince < instantAfter, j.tally.streams > 0:
		return false
	case j.tally.inFlight == 0:
		return true
	}
	return now-j.quietSince >= steadyAfter && j.tally.lasting == 0
}

// hurry reports whether it is time to look for an instant.
func (j *judge) hurry(now time.Duration) bool { return j.quiet && now-j.quietSince >= instantAfter }

// look decides whether a request is in flight on an open connection.
func (j *judge) look(s *socket, m *connState, seen bool, now time.Duration) {
	if !s.info {
		if s.rqueue > 0 || s.wqueue > 0 {
			j.count(busyLong) // the request's age is unknown
		}
		return
	}
	m.update(s, seen, now)
	j.count(m.classify(s, now))
}

// update compares a connection with what it was at the poll before.
func (m *connState) update(s *socket, seen bool, now time.Duration) {
	received, sent := s.recv != m.recv, s.sent != m.sent
	m.guessOrder(s, seen, received || sent)
	if received {
		m.answers = 0
		if seen && m.sent > 0 {
			m.asks = min(m.asks+1, settledAsks)
		}
	}
	if sent || !seen && s.sent > 0 && s.sentAgo < s.recvAgo {
		m.answers = min(m.answers+1, streamPolls)
	}
	was := m.busy
	m.busy = m.inFlight(s)
	if m.busy {
		if !was || received && sent {
			m.since = now - min(s.recvAgo, now)
		}
		m.noteSlow(s, now)
	}
	m.recv, m.sent, m.equal = s.recv, s.sent, s.recvAgo == s.sentAgo
	m.dataIn, m.acksIn, m.acksOut = s.dataIn, s.segsIn-s.dataIn, s.segsOut-s.dataOut
}

// noteSlow notes that the request in flight is a slow one, if it is.
func (m *connState) noteSlow(s *socket, now time.Duration) {
	if !m.old(now) || m.guess != asked && s.recvAgo == s.sentAgo {
		return
	}
	if m.slows == 0 || m.since > m.lastSlow {
		m.slows, m.lastSlow = min(m.slows+1, 10), m.since
	}
	m.slow = now + time.Duration(m.slows)*slowMemory
}

func (m *connState) old(now time.Duration) bool { return now-m.since >= slowAfter }

// classify says what an open connection is doing, from its state after update.
func (m *connState) classify(s *socket, now time.Duration) activity {
	lately := s.sent > 0 && s.sentAgo < streamFor
	switch {
	case s.recv == 0 && s.sent == 0:
		if s.recvAgo < silentFor {
			return busyLong
		}
	case m.busy && (m.old(now) || now < m.slow):
		return busyLong
	case m.busy:
		return busy
	// A connection that goes on sending, poll after poll, and is asked for
	// nothing carries a stream. One that has sent something and has not been
	// asked again yet may.
	case lately && (m.answers >= streamPolls || m.asks < settledAsks):
		return streaming
	// The last bytes sent may have been no answer: TLS 1.3 session tickets go
	// out when the first request has come in, and so may 100 Continue or HTTP/2
	// settings. More than one segment has been received then, and until the next
	// request nothing tells. A request gets as long as a silent connection.
	case m.asks < settledAsks && s.sent > 0 && s.dataIn > 1 && s.recvAgo < silentFor:
		return streaming
	case lately:
		return justDone
	}
	return idle
}

// count enters an open connection in the tally.
func (j *judge) count(a activity) {
	switch a {
	case busyLong:
		j.tally.inFlight++
		j.tally.lasting++
	case busy:
		j.tally.inFlight++
	case streaming:
		j.tally.streams++
	case justDone:
		j.tally.recent++
	}
}

// inFlight is the rule. Equal ticks leave it to the guess.
func (m *connState) inFlight(s *socket) bool {
	unread := s.rqueue
	if s.state == stCloseWait && unread > 0 {
		unread-- // the client's FIN counts as a byte until the server has read it
	}
	switch {
	case unread > 0, s.wqueue > 0 && !delivered(s):
		return true
	case s.recv == 0:
		return false
	case s.dataOut == 0:
		return true
	case s.recvAgo != s.sentAgo:
		return s.recvAgo < s.sentAgo
	}
	return m.guess != answered
}

// delivered reports whether what was sent has reached the client for all that is known, though it isn't
// acknowledged: a client with nothing to say waits 40 ms with that.
func delivered(s *socket) bool {
	return s.unsent == 0 && s.lost == 0 && s.sentAgo > 2*s.rtt+tick
}

// Measured in front of Go, node, uvicorn and gunicorn (one request in twenty of 400 ms, one in ten with an
// answer of 200 KiB), looking every 4 ms: of 10,000 looks at a waiting client at most 15 called it idle, nearly
// all because its answer had been sent and not been read yet; of the looks at a pausing client at most 1.3 %
// called it busy. Looking every 100 ms, at pauses of 60 ms, two thirds did: several requests between two
// looks are more than can be told apart.

// settle guesses, of a connection whose last bytes in and out have the same tick, which came last. That is
// the rule and not the exception with clients that ask again as soon as they are answered: of those without
// a pause nearly every look finds equal ticks.
func (m *connState) guessOrder(s *socket, seen, changed bool) {
	was := m.guess
	m.guess = unsure
	if s.recvAgo != s.sentAgo || s.dataOut == 0 {
		return
	}
	acksIn, acksOut := s.segsIn-s.dataIn, s.segsOut-s.dataOut
	switch {
	case s.wqueue > 0:
		// A request sent after the answer was read would have acknowledged it.
		m.guess = answered
	case s.ackAgo < s.sentAgo:
		// The answer was acknowledged later, and by itself: a further request would have done it.
		m.guess = answered
	case !seen && s.dataIn == 1:
		m.guess = answered // one request, and an answer
	case !seen:
		m.guess = doubtful
	case changed && acksIn == m.acksIn:
		// Whatever was sent has been acknowledged, and by nothing but a request: that came last.
		m.guess = asked
	case changed && s.sent != m.sent && m.unanswered(was)+s.dataIn-m.dataIn == 1:
		m.guess = answered // again one request, and an answer
	case changed && acksOut != m.acksOut:
		m.guess = doubtful
	case changed:
		m.guess = unsure
	case acksOut != m.acksOut:
		// A request not answered at once is acknowledged by itself.
		m.guess = asked
	case was == unsure && s.recvAgo > delayedAck, was == doubtful && s.recvAgo > silentFor:
		m.guess = answered
	default:
		m.guess = was
	}
}

// unanswered is how many requests were unanswered at the last look; many if that wasn't certain.
func (m *connState) unanswered(was guess) uint32 {
	switch {
	case !m.busy:
		return 0
	case m.equal && (was == unsure || was == doubtful):
		return 2
	}
	return 1
}
