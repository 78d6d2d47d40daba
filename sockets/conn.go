package sockets

import "time"

const (
	// Delayed acknowledgements come after at most 200 ms (TCP_DELACK_MAX), give
	// or take a tick. What comes later acknowledges a keepalive.
	delayedAck = 220 * time.Millisecond
	// After being asked again this often a connection is known for one of
	// requests and answers: in a TLS handshake both sides speak twice.
	settledAsks = 3
	// So many growths of an answer, asked for by nothing, make a stream.
	streamPieces = 2
	// A growth of more than this in one poll is a download's, not a stream's.
	pieceMost = 16 << 10
	// A WebSocket's ping has 2 bytes and what it carries: nothing in node's ws,
	// 4 bytes in uvicorn, 1 in socket.io. Its pong has 4 more for the mask, and
	// TLS adds up to 29. It may carry 125 bytes, but from about 64 on it may be
	// an answer of HTTP, and a request as long that follows at once.
	pingMost = 64
	// A TLS 1.3 client ends its handshake with 64 or 80 bytes. More at once
	// carry a request.
	handshakeEnd = 100
)

// connState is what is remembered of a connection from one poll to the next.
// Times are since t0.
type connState struct {
	seen     time.Duration // last
	since    time.Duration // the request in flight, or the last, arrived then
	lastReal time.Duration // the last data that was no control frame
	doubt    time.Duration // the last bytes of a control frame's size
	progress time.Duration // the client has last acknowledged something
	slow     time.Duration // until then it is expected to carry slow requests
	lastSlow time.Duration // when the last of them arrived

	recv, sent, acked   uint64
	answer              uint64 // bytes sent since the last request
	poll                uint32
	dataIn, dataOut     uint32 // segments
	acksIn, acksOut     uint32 // those without data
	pushed              uint32 // bytes of the last growth, if asked for by nothing and small
	order               order
	asks, pieces, slows uint8
	perAnswer           uint8 // segments, of the last answer that was alone; 0: unknown
	busy                bool  // a request seems to be in flight
	equal               bool  // the last bytes in and out have the same tick
	frozen              bool  // the last bytes were a control frame: the order before them counts
	multiplexed, realIn bool
	born                bool // it was not there at t0
	session             bool // the server has sent something unasked, or a WebSocket's ping
	smallAnswers        bool // small answers have been final
	frame               bool // they had the size of a control frame
	spoke               bool // the last bytes received were more than a handshake ends with
}

// order says which of a connection's last bytes came last, where both have the
// same tick.
type order uint8

const (
	unsure   order = iota // the next delayed acknowledgement will tell
	answered              // the answer came last
	asked                 // the request came last
	doubtful              // nothing will tell
)

// unsettled reports whether a connection has not been asked often enough to be
// known for one of requests and answers.
func (c *connState) unsettled() bool { return c.asks < settledAsks }

// lasting reports whether the request in flight is slow, or likely to be.
func (c *connState) lasting(now time.Duration) bool {
	return now-c.since >= slowAfter || now < c.slow
}

// meet takes a connection at its first poll.
func (c *connState) meet(s *socket, now time.Duration) {
	c.order = firstOrder(s)
	c.busy = c.awaits(s)
	c.since = now - s.recvAgo
	c.lastReal = now - min(s.recvAgo, s.sentAgo)
	c.realIn = s.dataIn > 1 // if it is multiplexed: what is in flight on it is unknown
	c.answer = s.sent
	c.pieces = uint8(min(s.dataOut, 1)) // an answer has begun, or is complete
	c.progress = now
	if answeredByCounts(s) && s.dataOut/s.dataIn < 255 {
		c.perAnswer = uint8(s.dataOut / s.dataIn)
	}
	// Three segments for each request, and small: they did not come at once.
	if s.dataIn > 0 && s.dataOut >= 3*s.dataIn && s.sent/uint64(s.dataOut) < 512 && s.dataIn <= 2 {
		c.pieces = streamPieces
	}
	c.keep(s)
}

// update compares a connection with what it was at the poll before, and reports
// whether a further request has arrived on it. final is as receiving has it.
func (c *connState) update(s *socket, now time.Duration) (work bool, final uint64) {
	in, out := s.recv-c.recv, s.sent-c.sent
	if s.acked != c.acked || s.wqueue == 0 {
		c.progress = now
	}
	switch {
	case in == 0 && out == 0:
		c.guess(s, false)
	case c.isPing(s, in, out):
		c.ping(in, out)
	case out > 0 && in == 0:
		c.sending(s, out, now)
	case in > 0 && c.busy && isControl(in) && (out == 0 || isControl(out)):
		// A client that awaits an answer has no other reason to send so little.
		c.multiplexed, c.frozen, c.doubt, c.pushed = true, true, now, 0
	case in > 0:
		frame := isControl(in) && (out == 0 || isControl(out))
		work, final = c.receiving(s, in, out, now)
		work = work && !frame
		c.frame = frame
	}
	if !c.frozen {
		c.busy = c.awaits(s)
	}
	c.noteSlow(s, now)
	c.keep(s)
	return work, final
}

func (c *connState) keep(s *socket) {
	c.recv, c.sent, c.acked, c.equal = s.recv, s.sent, s.acked, s.recvAgo == s.sentAgo
	c.dataIn, c.dataOut = s.dataIn, s.dataOut
	c.acksIn, c.acksOut = s.segsIn-s.dataIn, s.segsOut-s.dataOut
}

// isPing reports whether growth is a ping and its answer, which comes at once:
// HTTP/2's have the same size, a WebSocket's client adds a mask of 4 bytes.
// They may split over two polls.
func (c *connState) isPing(s *socket, in, out uint64) bool {
	if out == 0 {
		out = uint64(c.pushed)
	}
	if (s.sentAgo - s.recvAgo).Abs() > 2*s.rtt+2*tick {
		return false
	}
	return in > 0 && out > 0 && in <= pingMost && (in == out || in == out+4)
}

// ping takes a ping and its answer. They are no work, and the order before them
// counts; a WebSocket has no other requests in flight beside it.
func (c *connState) ping(in, out uint64) {
	if out == 0 {
		out = uint64(c.pushed)
		c.pieces -= min(c.pieces, 1)
	}
	c.frozen, c.pushed = true, 0
	if in == out {
		c.multiplexed = c.multiplexed || isControl(in)
	} else if c.session = true; c.unsettled() {
		c.busy = false // what was taken for a request was a pong
	}
}

// sending takes growth of the answer, asked for by nothing new.
func (c *connState) sending(s *socket, out uint64, now time.Duration) {
	c.guess(s, true)
	c.pushed = 0
	if c.busy {
		c.answer, c.pieces = 0, 0
	} else if out <= pingMost {
		c.pushed = uint32(out)
	}
	paused := now-s.sentAgo-c.lastReal >= streamFor
	c.session = c.session || !c.busy && paused
	c.answer += out
	if out < pieceMost {
		c.pieces = min(c.pieces+1, streamPieces)
	}
	c.frozen = false
	c.lastReal, c.realIn = now-s.sentAgo, false
}

// receiving takes growth from the client, and maybe an answer with it. It
// reports whether that is a further request, and how many bytes the answer had
// if it is as small as an interim one and turns out to be final; otherwise 0.
func (c *connState) receiving(s *socket, in, out uint64, now time.Duration) (work bool, final uint64) {
	was := c.busy
	c.guess(s, true)
	c.frozen = false
	// A connection made since t0 was counted when it came, and a TLS handshake
	// is no further request.
	c.spoke = in >= handshakeEnd
	work = (!was || out > 0) && (!c.born || !c.unsettled())
	if c.sent > 0 {
		c.asks = min(c.asks+1, settledAsks)
		if interim(c.answer) && !was {
			c.smallAnswers = true
			// Answers that differ may be an interim one's end and what comes
			// after it. A FIN counts as a byte.
			if out == c.answer && in > 1 {
				final = out
			}
		}
	}
	c.answer, c.pieces, c.pushed = out, 0, 0
	if out > 0 {
		c.pieces = 1
	}
	if !was || out > 0 {
		c.since = now - s.recvAgo
	}
	c.lastReal, c.realIn = now-min(s.recvAgo, s.sentAgo), c.awaits(s)
	return work, final
}

// noteSlow notes that the request in flight is a slow one, if it is.
func (c *connState) noteSlow(s *socket, now time.Duration) {
	if !c.busy || now-c.since < slowAfter || c.order != asked && s.recvAgo == s.sentAgo {
		return
	}
	if c.slows == 0 || c.since > c.lastSlow {
		c.slows, c.lastSlow = min(c.slows+1, 10), c.since
	}
	c.slow = now + time.Duration(c.slows)*slowMemory
}

// awaits reports whether the client's bytes came last, by the kernel's ticks;
// within one of them the guess decides.
func (c *connState) awaits(s *socket) bool {
	switch {
	case s.recv == 0:
		return false
	case s.dataOut == 0:
		return true
	case s.recvAgo != s.sentAgo:
		return s.recvAgo < s.sentAgo
	}
	return c.order != answered
}

// acknowledged reports whether the client has acknowledged the answer by
// itself, which a further request would have done. An acknowledgement that
// comes later than a delayed one answers a keepalive.
func acknowledged(s *socket) bool {
	return s.ackAgo < s.sentAgo && s.sentAgo-s.ackAgo <= delayedAck+2*s.rtt
}

// firstOrder guesses the order within a tick of a connection not seen before.
func firstOrder(s *socket) order {
	switch {
	case s.wqueue > 0, acknowledged(s), s.dataIn == 1, answeredByCounts(s):
		return answered
	case askedByCounts(s):
		return asked
	}
	return doubtful
}

// Measured in front of Go, node, uvicorn and gunicorn (one request in twenty of
// 400 ms, one in ten with an answer of 200 KiB), polling every 4 ms: of 10,000
// polls of a waiting client at most 15 called it idle, nearly all because its
// answer had been sent and not been read yet; of the polls of a pausing client
// at most 1.3 % called it busy. Polling every 100 ms, at pauses of 60 ms, two
// thirds did: several requests between two polls can't be told apart.

// guess guesses the order within a tick from what has changed since the poll
// before. Equal ticks are the rule with clients that ask again as soon as they
// are answered.
func (c *connState) guess(s *socket, changed bool) {
	was := c.order
	if s.recvAgo != s.sentAgo || s.dataOut == 0 {
		c.order = unsure
		return
	}
	acksIn, acksOut := s.segsIn-s.dataIn, s.segsOut-s.dataOut
	soon := s.recvAgo <= delayedAck
	switch {
	case s.wqueue > 0:
		// A request sent after the answer was read would have acknowledged it.
		c.order = answered
	case acknowledged(s):
		c.order = answered
	case changed && acksIn == c.acksIn:
		// Whatever was sent has been acknowledged, and by nothing but a
		// request.
		c.order = asked
	case changed && s.sent != c.sent && c.unanswered()+s.dataIn-c.dataIn == 1:
		c.order = answered // one request, and an answer
		c.perAnswer = uint8(min(s.dataOut-c.dataOut, 255))
	case changed && c.counted(s) != unsure:
		c.order = c.counted(s)
	case changed && acksOut != c.acksOut:
		c.order = doubtful
	case changed:
		c.order = unsure
	case acksOut != c.acksOut && soon && was != answered:
		// A request not answered at once is acknowledged by itself.
		c.order = asked
	case was == unsure && !soon:
		c.order = answered
	}
}

// counted returns what segments say of several requests since the poll before:
// as many answers have come, or one less, if all have as many segments as the
// last that was alone.
func (c *connState) counted(s *socket) order {
	requests, segments := c.unanswered()+s.dataIn-c.dataIn, s.dataOut-c.dataOut
	if c.perAnswer == 0 || segments%uint32(c.perAnswer) != 0 {
		return unsure
	}
	switch answers := segments / uint32(c.perAnswer); answers {
	case requests:
		return answered
	case requests - 1:
		return asked
	}
	return unsure
}

// unanswered returns how many requests were unanswered at the poll before; many
// if that was not certain.
func (c *connState) unanswered() uint32 {
	switch {
	case !c.busy:
		return 0
	case c.equal && (c.order == unsure || c.order == doubtful):
		return 2
	}
	return 1
}

// isControl reports whether so many bytes are one or two of HTTP/2's control
// frames: the acknowledgement of SETTINGS (9), WINDOW_UPDATE (13), PING (17),
// in clear or in a record of TLS 1.3 (22 more). Requests may be as small, so
// this makes evidence ambiguous and never none.
func isControl(n uint64) bool {
	switch n {
	case 9, 13, 17, 22, 26, 30, 9 + 22, 13 + 22, 17 + 22, 22 + 22, 26 + 22, 30 + 22:
		return true
	}
	return false
}
