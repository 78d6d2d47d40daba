package sockets

import (
	"cmp"
	"time"
)

// This file is the rules by which one connection holds the signal back, each
// with its cause and its number. conn.go says how a connection came to be what
// it is; judge.go adds the connections up.

// Evidence is how sure it is that a client is still there, and so how long that
// may hold the signal.
type Evidence string

const (
	// None does not hold: nothing is there, or it is stale.
	None Evidence = ""
	// Ambiguous may be a client or nothing, and holds for the patience.
	Ambiguous Evidence = "ambiguous"
	// Certain holds for as long as it lasts.
	Certain Evidence = "certain"
)

const (
	// patience is how long after t0 ambiguous evidence holds. Requests take up
	// to 20 s, and balancers move on within 20 s (HAProxy's checks of 6 s × 3:
	// 18 s): gRPC channels that were moved after 20 s lost 685 of 1,348 calls
	// without it. Clients that never leave cost as much. Where the budget has
	// less, Options.Patience is shorter.
	patience = 23 * time.Second
	// Clients that never pause leave no instant without a request: after the
	// patience one without a slow request is looked for, for this long.
	instantFor = 5 * time.Second
	// A request that is merely suspected is suspected for no longer than this
	// after the last byte: connections idle since before never hold.
	suspectFor = 30 * time.Second

	// A connection with no byte in either direction for this long is stale,
	// even with a request in flight: balancers give up after as long (nginx,
	// ALB).
	staleAfter = time.Minute
	// Unacknowledged bytes of which the peer has acknowledged none for this
	// long are a dead peer's, or one's that has stopped reading.
	stalledAfter = 15 * time.Second
	// A half-closed client may still read its answer. After this long the
	// server has forgotten to close.
	halfClosedFor = 30 * time.Second
	// A connection on which nothing was ever received may be about to ask, or
	// be a browser's spare. Go's Shutdown waits 5 s for such, too.
	silentFor = 5 * time.Second

	// An answer that comes in pieces is being sent while the pauses between
	// them are shorter than this.
	streamFor = time.Second
	// And it may be a paused one for this long, unless DRAINIT_STREAM_PAUSE
	// says how long pauses are.
	defaultStreamPause = 10 * time.Second

	// A multiplexed connection (HTTP/2, gRPC) may carry a request for this long
	// after its last frame of data, unless DRAINIT_STREAM_PAUSE says how long
	// one is silent: neither the direction nor the size of its last bytes says
	// that all streams have ended.
	multiplexedFor = 10 * time.Second
	// A connection that has only exchanged HTTP/2's greeting is idle, but may
	// carry a request as small; it counts for this long after its last byte.
	greetedFor = 10 * time.Second

	// An answer of so few bytes may be 103 Early Hints (70 bytes with a link),
	// or 100 Continue (25). Whole answers of common servers have more: 121
	// bytes in Go for "hello".
	interimLeast, interimMost = 25, 110
	// HTTP/2's frames are small: an average segment of a whole answer is not.
	// Before an answer they are also few for each segment received: grpc-go
	// sends 18 to 27 bytes, Go 20 to 30. Java answers 80, uvicorn 138 in two.
	frameSegment, framesEach = 75, 64
	// A haproxy that pools HTTP/2 sends 20 to 50 bytes a segment and is sent 60
	// to 90, of redis' protocol it is less. With gRPC it sends 76, and is sent
	// 27 for each: HTTP/1.1 has no whole answer as small.
	terseRequest, terseAnswer, terseEach = 64, 100, 30
	// The shortest request of HTTP/1.0 ("GET / HTTP/1.0", and an empty line)
	// has as many bytes, and no answer has less. HTTP/2's greeting has as many,
	// too.
	leastHTTP = 18
	// What a server has sent when a TLS 1.3 handshake is complete, and what it
	// has received with the request: Go 769 bytes, node 1,215; a chain of
	// certificates up to 6,000. Before the first answer session tickets are the
	// last bytes sent, which look like one.
	handshakeSentLeast, handshakeSentMost = 500, 8 << 10
	handshakeRecvLeast, handshakeRecvMost = 250, 4 << 10
	// Go's, nginx's and most clients' limit to a handshake, or less than that.
	handshakeTimeout = 15 * time.Second
	// A protocol that never answers (statsd, syslog) sends small segments; an
	// upload sends full ones.
	uploadSegment = 512

	// A request older than slowAfter is slow. A connection that carried one is
	// expected to carry more, for slowMemory times the number seen so far; a
	// single slow one may just be a busy machine.
	slowAfter  = 250 * time.Millisecond
	slowMemory = 5 * time.Second

	// An open connection stops counting for `closed` when it has been silent
	// for this long: a pool's, a browser's.
	closedIdle = time.Minute
	// One that has carried requests and answers since t0, and nothing that the
	// server sent unasked, does so earlier, and as soon as it is answered once
	// the patience has ended: a balancer's pool, a scraper's.
	closedAnswered = 10 * time.Second
)

// never is the end of a claim that has none.
const never = time.Duration(1<<63 - 1)

// claim is what a connection says for itself: that it holds the signal, on what
// evidence, and until when (since t0) if nothing further happens.
type claim struct {
	evidence Evidence
	why      string
	until    time.Duration
	since    time.Duration // when the request arrived, or the last byte
	lasting  bool          // no instant between two requests is to be looked for
	recent   bool          // it holds nothing, but has just sent something
}

// claimOf applies the rules, the surest first, to an open connection.
func (r *rules) claimOf(c *connState, s *socket, now time.Duration) claim {
	in, out := now-s.recvAgo, now-s.sentAgo
	last := max(in, out)
	certain := func(why string) claim {
		return claim{evidence: Certain, why: why, until: never, since: c.since, lasting: c.lasting(now)}
	}
	// suspect is ambiguous for the patience at most.
	suspect := func(why string, until time.Duration) claim {
		if until = min(until, r.limit()); now >= until {
			return claim{}
		}
		return claim{evidence: Ambiguous, why: why, until: until, since: last}
	}

	switch {
	// Nothing was said yet.
	case s.recv == 0 && s.sent == 0:
		return suspect("new connection", in+silentFor)

	// Bytes that have not arrived. They outlast no dead peer.
	case unread(s) && now-last < staleAfter:
		return certain("unread request")
	case s.wqueue > 0 && !delivered(s):
		if now-c.progress >= stalledAfter {
			return claim{}
		}
		return certain("unsent answer")

	// Nothing moves, whatever was last.
	case now-last >= staleAfter:
		return claim{}

	// An answer in pieces, told by bytes that nothing asked for.
	case c.pieces >= streamPieces && now-out < r.streaming():
		return claim{evidence: Certain, why: "stream", until: never, since: out, lasting: true}
	case c.pieces >= streamPieces && now-out < r.pause(defaultStreamPause):
		return suspect("paused stream", out+r.pause(defaultStreamPause))

	// Several requests at once: order says nothing, so the last frame of data
	// counts. An unanswered one counts for longer.
	case c.multiplexed && c.realIn:
		return suspect("multiplexed connection", c.lastReal+r.pause(suspectFor))
	case c.multiplexed:
		return suspect("multiplexed connection", max(c.lastReal, c.doubt)+r.pause(multiplexedFor))

	case c.busy:
		return r.awaitingAnswer(c, s, now, certain, suspect)
	}
	return r.answered(c, s, now, suspect)
}

// awaitingAnswer applies the rules to a connection whose last bytes came from
// the client.
func (r *rules) awaitingAnswer(c *connState, s *socket, now time.Duration, certain func(string) claim,
	suspect func(string, time.Duration) claim) claim {
	last := now - min(s.recvAgo, s.sentAgo)
	switch {
	// Requests that go on arriving on kept connections are waited for until the
	// patience ends; those that began later are not, or clients that never
	// pause would hold for ever.
	case c.asks > 0 && c.since >= r.limit():
		return claim{}

	// It was never answered: a first request, an upload, one-way traffic, or a
	// blocking command of redis, which may never end.
	case s.dataOut == 0 && (oneWay(s) || r.terse(s)):
		return suspect("connection that was never answered", r.limit())
	case s.dataOut == 0:
		return certain("first request")

	case c.unsettled() && greeted(s):
		return suspect("connection that has only greeted", last+greetedFor)
	// Control frames follow data in either direction: the last of them says
	// nothing. Blocking commands of redis are as small.
	case c.frame, r.terse(s):
		return suspect("request or control frame", last+suspectFor)
	case s.recvAgo == s.sentAgo && c.order != asked:
		held := suspect("request or answer within a tick", last+suspectFor)
		// It holds no longer than the patience, but if it is one it is slow: an
		// instant is looked for without it.
		held.lasting = held.evidence == None && now < r.limit()+instantFor && now-c.since >= slowAfter
		return held
	// Before the first look the client replied at once. That may be a request,
	// the acknowledgement of HTTP/2's settings, a WebSocket's pong or the end
	// of a TLS handshake.
	case c.unsettled() && replied(s) && !askedByCounts(s) && !c.spoke:
		return suspect("request or reply", last+suspectFor)
	// A TLS connection that is not used yet, and whose client took its time.
	case c.unsettled() && !r.cleartext[s.local] && handshaken(s) && !c.spoke:
		return suspect("request or TLS handshake", last+suspectFor)
	}
	return certain("request")
}

// answered applies the rules to a connection whose last bytes came from the
// server.
func (r *rules) answered(c *connState, s *socket, now time.Duration,
	suspect func(string, time.Duration) claim) claim {
	last := now - min(s.recvAgo, s.sentAgo)
	var held claim
	switch {
	case c.frozen, c.pieces >= streamPieces: // a pong, or the end of a stream
	case c.unsettled() && greeted(s):
		held = suspect("connection that has only greeted", last+greetedFor)
	case interim(c.answer) && !c.smallAnswers && !r.final[answerOf{s.local, c.answer}]:
		held = suspect("answer that may be an interim one", last+suspectFor)
	case c.unsettled() && framed(s):
		held = suspect("connection that speaks in frames", last+suspectFor)
	case c.unsettled() && !r.cleartext[s.local] && handshaken(s) && s.recvAgo-s.sentAgo <= s.rtt+2*tick:
		held = suspect("TLS connection before its first answer", last+suspectFor)
	// The child is known for streams, and this answer may be one that has
	// begun.
	case r.streamPause > 0 && s.sentAgo < r.streamPause:
		held = suspect("answer that may pause", now-s.sentAgo+r.streamPause)
	// An answer may come in pieces, until it is known that they don't.
	case c.unsettled():
		held = suspect("answer that may go on", now-s.sentAgo+streamFor)
	}
	held.recent = s.sentAgo < streamFor
	return held
}

// rules are the settings and what was learnt of ports.
type rules struct {
	streamPause time.Duration   // 0: unknown
	patience    time.Duration   // 0: the longest there is
	cleartext   map[uint16]bool // ports that have answered a single segment
	brief       map[uint16]bool // ports that have answered less than HTTP does
	final       map[answerOf]bool
}

// answerOf is a port and the size of an answer that was final though it is as
// small as an interim one: a further request and an equal answer have followed.
type answerOf struct {
	port  uint16
	bytes uint64
}

// limit returns how long ambiguous evidence holds after t0.
func (r *rules) limit() time.Duration { return atMostPatience(r.patience) }

// atMostPatience returns what Options.Patience comes to: that is bounded, and 0
// is the bound.
func atMostPatience(set time.Duration) time.Duration { return min(cmp.Or(set, patience), patience) }

// streaming is how long a stream may pause and be certain.
func (r *rules) streaming() time.Duration { return max(streamFor, r.streamPause) }

// pause is how long it may pause at all, and unknown if that was not said.
func (r *rules) pause(unknown time.Duration) time.Duration {
	if r.streamPause > 0 {
		return r.streaming()
	}
	return unknown
}

// learn notes what an open connection, or one that has ended, says of its port.
// It reports whether that is new.
func (r *rules) learn(s *socket) bool {
	return isCleartext(s) && learn(&r.cleartext, s.local) || isBrief(s) && learn(&r.brief, s.local)
}

// learn enters what was learnt, and reports whether it is new.
func learn[K comparable](known *map[K]bool, what K) bool {
	if (*known)[what] {
		return false
	}
	if *known == nil {
		*known = map[K]bool{}
	}
	(*known)[what] = true
	return true
}

// interim reports whether an answer is as small as an interim one.
func interim(bytes uint64) bool { return bytes >= interimLeast && bytes <= interimMost }

// isCleartext reports whether a connection shows that its port speaks no TLS:
// it was answered fewer bytes than a TLS client's first message has, or a
// single segment so long ago that a handshake would have gone on or timed out.
// (After a second a busy client's had not.)
func isCleartext(s *socket) bool {
	small := s.recv > 0 && s.recv < 180
	single := s.dataIn == 1 && s.sentAgo >= handshakeTimeout
	return s.sent > interimMost && (small || single)
}

// isBrief reports whether a connection shows that its port speaks no HTTP: it
// was answered less than that does, as redis does ("+OK", in 5 bytes), and
// stayed open.
func isBrief(s *socket) bool {
	return s.sent > 0 && s.sent < leastHTTP && s.recv > 0 && s.sentAgo >= streamFor && isOpen(s)
}

// unread reports whether the server has bytes to read. The client's FIN counts
// as a byte until the server has read it.
func unread(s *socket) bool {
	if s.state == stCloseWait {
		return s.rqueue > 1
	}
	return s.rqueue > 0
}

// delivered reports whether what was sent has most likely reached the client,
// though it is not acknowledged: a client with nothing to say waits 40 ms with
// that.
func delivered(s *socket) bool {
	return s.unsent == 0 && s.lost == 0 && s.sentAgo > 2*s.rtt+tick
}

// undelivered reports whether the server has closed the connection, and the
// client has not received all of what was written before. The FIN counts as a
// byte.
func undelivered(s *socket) bool {
	switch s.state {
	case stFinWait1, stClosing, stLastAck:
		return s.wqueue > 1
	}
	return false
}

// oneWay reports whether a connection that was never answered has sent as
// statsd and syslog do: several small segments.
func oneWay(s *socket) bool { return s.dataIn >= 3 && s.recv/uint64(s.dataIn) < uploadSegment }

// greeted reports whether a connection has exchanged no more than HTTP/2's
// preface and settings: grpc-go receives 42 bytes and sends 24, Go's own h2c 79
// and 61; with a first request grpc-go has received 174, Go 128.
func greeted(s *socket) bool {
	return s.dataIn >= 2 && s.dataIn <= 3 && s.dataOut >= 1 && s.dataOut <= 3 &&
		s.recv >= 42 && s.recv <= 110 && s.sent >= 18 && s.sent <= 100
}

// terse reports whether both sides have sent small segments only, or the server
// next to nothing for each segment that it answered, as HTTP/2 without large
// answers and redis do, and HTTP/1.1 does not. On a port that speaks no HTTP
// small requests are enough; where there was no answer yet, one that is too
// small for HTTP.
func (r *rules) terse(s *socket) bool {
	in := uint64(s.dataIn)
	small := in > 0 && s.recv/in <= terseRequest
	if s.dataOut == 0 {
		return s.recv < leastHTTP || small && r.brief[s.local]
	}
	answers := 3*uint64(s.dataOut) >= in // it is no upload in small segments
	return small && (r.brief[s.local] || s.sent/uint64(s.dataOut) <= terseAnswer) ||
		answers && s.sent <= in*terseEach
}

// replied reports whether the client's last bytes came as soon after the
// server's as a machine sends them.
func replied(s *socket) bool { return s.sentAgo-s.recvAgo <= 2*s.rtt+2*tick }

// framed reports whether a young connection was sent small segments only, as
// HTTP/2's frames without an answer are. Its client has acknowledged the
// server's settings, in a segment of its own.
func framed(s *socket) bool {
	return s.dataIn >= 2 && s.dataOut >= 2 && s.dataOut <= 6 &&
		s.sent/uint64(s.dataOut) <= frameSegment && s.sent < uint64(s.dataIn)*framesEach
}

// handshaken reports whether a connection may have got no further than a TLS
// handshake and a request: the sizes fit, and are no repetition of one request
// and one answer.
func handshaken(s *socket) bool {
	repeated := s.recv%uint64(max(s.dataIn, 1)) == 0 && s.sent%uint64(max(s.dataOut, 1)) == 0
	return s.dataIn >= 2 && s.dataIn <= 5 && s.dataOut >= 1 && !repeated &&
		s.sent >= handshakeSentLeast && s.sent <= handshakeSentMost &&
		s.recv >= handshakeRecvLeast && s.recv <= handshakeRecvMost
}

// askedByCounts reports whether segments say that the last request is not
// answered: each one before it was, with an answer of the same size.
func askedByCounts(s *socket) bool {
	if s.dataIn < 3 {
		return false
	}
	n := s.dataIn - 1
	return s.dataOut > 0 && s.dataOut%n == 0 && s.sent%uint64(n) == 0 && s.sent/uint64(s.dataOut) >= 100
}

// answeredByCounts reports whether segments say that each request was answered.
// Of two in and two out one may be unanswered, and the other's answer in two.
func answeredByCounts(s *socket) bool {
	if s.dataIn == 0 || s.dataOut < s.dataIn || s.dataIn == 2 && s.dataOut == 2 {
		return false
	}
	return s.dataOut%s.dataIn == 0 && s.sent/uint64(s.dataOut) >= 100
}
