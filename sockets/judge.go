package sockets

import "time"

const (
	// A connection on which nothing was ever received may be about to ask, or be a browser's spare: Go's
	// Shutdown waits 5 s for such, too.
	silentFor = 5 * time.Second
	// A half-closed client may still read its answer; after this long the server has forgotten to close.
	halfClosedFor = 30 * time.Second
	// A server that pushes is busy for this long after it last sent something.
	streamFor = time.Second
	// A request older than this is slow, and so is a connection that has ever carried one.
	slowAfter = 250 * time.Millisecond
	// Delayed acknowledgements come after at most 200 ms (TCP_DELACK_MAX), give or take a tick.
	delayedAck = 220 * time.Millisecond
	// Two looks this far apart have to find nothing in flight, as a dump is not atomic.
	settle = 90 * time.Millisecond
	// For this long after clients have ceased to arrive it waits for two such looks; then any instant will
	// do in which nothing is in flight; and then any in which nothing slow is.
	instantAfter = time.Second
	steadyAfter  = 4 * time.Second
)

// memory is what is kept of a connection from one poll to the next.
type memory struct {
	poll       uint32
	recv, sent uint64
	acksIn     uint32 // segments without data
	acksOut    uint32
	since      time.Duration // in flight since
	busy       bool
	guess      guess
	answers    uint8 // looks at which it had sent, and received nothing since the look before
	slow       bool
}

// guess says what is thought of a connection whose last bytes in and out have the same tick.
type guess uint8

const (
	unsure   guess = iota // the next delayed acknowledgement will tell
	answered              // the answer came last
	asked                 // the request came last
	doubtful              // nothing will tell
)

// tally is what one look at all connections gives.
type tally struct {
	open, inFlight int
	recent         int // not in flight, but sent something within streamFor
	lasting        int // in flight: streams, slow requests, connections that have carried slow ones, silent ones
}

// judge knows the connections of the child's ports from poll to poll. All times are since t0. It is pure:
// what it sees and when is all it knows.
type judge struct {
	known map[uint64]memory
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
		j.known = map[uint64]memory{}
	}
	j.poll++
	j.tally = tally{}
}

// see takes a connection, and reports whether it is a new one.
func (j *judge) see(s *socket, now time.Duration) (fresh bool) {
	m, seen := j.known[s.cookie]
	if seen && m.poll == j.poll {
		return false // the table moved under the dump, and showed it twice
	}
	m.poll = j.poll
	if s.state == stEstablished || s.state == stCloseWait && (!s.info || min(s.ackAgo, s.recvAgo) < halfClosedFor) {
		j.tally.open++
		j.look(s, &m, seen, now)
	}
	j.known[s.cookie] = m
	return !seen
}

// gone takes a connection that was destroyed, and reports whether it had never been seen.
func (j *judge) gone(s *socket) (fresh bool) {
	_, seen := j.known[s.cookie]
	delete(j.known, s.cookie)
	return !seen
}

// end finishes a complete look; failed one that was not. What is not there any more is forgotten.
func (j *judge) end(now time.Duration) {
	for k, m := range j.known {
		if m.poll != j.poll {
			delete(j.known, k)
		}
	}
	if j.tally.inFlight+j.tally.recent > 0 {
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
	case j.clean && now-j.cleanSince >= settle:
		return true
	case now-j.quietSince < instantAfter:
		return false
	case j.tally.inFlight == 0:
		return true
	}
	return now-j.quietSince >= steadyAfter && j.tally.lasting == 0
}

// hurry reports whether it is time to look for an instant.
func (j *judge) hurry(now time.Duration) bool { return j.quiet && now-j.quietSince >= instantAfter }

// look decides whether a request is in flight on a connection.
func (j *judge) look(s *socket, m *memory, seen bool, now time.Duration) {
	if !s.info {
		if s.rqueue > 0 || s.wqueue > 0 {
			j.tally.inFlight++
			j.tally.lasting++ // its age can't be known
		}
		return
	}
	received, sent := s.recv != m.recv, s.sent != m.sent
	j.settleGuess(s, m, seen, received || sent)
	if received {
		m.answers = 0
	}
	if sent || !seen && s.sent > 0 && s.sentAgo < s.recvAgo {
		m.answers = min(m.answers+1, 3)
	}
	silent := s.recv == 0 && s.sent == 0
	// An answer is sent at once, or after some time, and then it is done: at two looks in a row at most, if
	// it is large. What goes on sending is a stream.
	stream := m.answers >= 3 && s.sentAgo < streamFor

	busy := m.inFlight(s)
	was := m.busy
	m.busy = busy
	if busy {
		if !was || received && sent {
			m.since = now - min(s.recvAgo, now)
		}
		if now-m.since >= slowAfter {
			m.slow = true
		}
	}
	m.recv, m.sent = s.recv, s.sent
	m.acksIn, m.acksOut = s.segsIn-s.dataIn, s.segsOut-s.dataOut

	switch {
	case silent:
		if s.recvAgo < silentFor {
			j.tally.inFlight++
			j.tally.lasting++
		}
	case busy || stream:
		j.tally.inFlight++
		if m.slow || stream {
			j.tally.lasting++
		}
	case s.sentAgo < streamFor && s.sent > 0:
		j.tally.recent++
	}
}

// inFlight is the rule. Equal ticks leave it to the guess.
func (m *memory) inFlight(s *socket) bool {
	unread := s.rqueue
	if s.state == stCloseWait && unread > 0 {
		unread-- // the client's FIN counts as a byte until the server has read it
	}
	switch {
	case unread > 0, s.wqueue > 0:
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

// settleGuess tells, of a connection whose last bytes in and out have the same tick, which came last.
func (j *judge) settleGuess(s *socket, m *memory, seen, changed bool) {
	if s.recvAgo != s.sentAgo || s.dataOut == 0 || s.wqueue > 0 {
		m.guess = unsure
		return
	}
	acksIn, acksOut := s.segsIn-s.dataIn, s.segsOut-s.dataOut
	switch {
	case s.ackAgo < s.sentAgo:
		// The answer was acknowledged later, and by itself: a further request would have done it.
		m.guess = answered
	case !seen && s.dataIn == 1:
		m.guess = answered // one request, and an answer
	case changed && seen && acksIn == m.acksIn:
		// Whatever was sent has been acknowledged, and by nothing but a request: that came last.
		m.guess = asked
	case changed && seen && acksOut == m.acksOut:
		m.guess = unsure
	case changed:
		m.guess = doubtful
	case acksOut != m.acksOut:
		// A request not answered at once is acknowledged by itself.
		m.guess = asked
	case m.guess == unsure && s.recvAgo > delayedAck, m.guess == doubtful && s.recvAgo > silentFor:
		m.guess = answered
	}
}
