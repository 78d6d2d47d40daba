package sockets

import (
	"net/netip"
	"time"
)

// model is a connection as a kernel would describe it: bytes, segments, and
// times in ticks of 4 ms. Its clock is the test's.
type model struct {
	s                     socket
	recvAt, sentAt, ackAt time.Duration
	ackDue, clientAckDue  time.Duration // delayed acknowledgements; 0: none
	requests, unanswered  int
	askedAt               time.Duration // when the oldest unanswered request came
}

const modelTick = 4 * time.Millisecond

func newModel(cookie uint64, now time.Duration) *model {
	m := &model{s: socket{
		family: 2, state: stEstablished, local: 8080, peerPort: uint16(20000 + cookie),
		peer: netip.MustParseAddr("10.0.0.9"), cookie: cookie, info: true,
		segsIn: 2, segsOut: 1, rtt: 100 * time.Microsecond,
	}}
	m.recvAt, m.sentAt, m.ackAt = now, now, now
	return m
}

// receive is a segment from the client, which acknowledges what was sent.
func (m *model) receive(bytes uint64, now time.Duration) {
	m.settle(now)
	m.s.recv += bytes
	m.s.dataIn++
	m.s.segsIn++
	m.recvAt, m.ackAt = now, now
	m.clientAckDue = 0
	m.ackDue = now + 40*time.Millisecond
}

// ask is a request.
func (m *model) ask(bytes uint64, now time.Duration) {
	m.receive(bytes, now)
	m.requests++
	if m.unanswered == 0 {
		m.askedAt = now
	}
	m.unanswered++
}

// send is so many segments to the client.
func (m *model) send(bytes uint64, segments uint32, now time.Duration) {
	m.settle(now)
	m.s.sent += bytes
	m.s.acked = m.s.sent
	m.s.dataOut += segments
	m.s.segsOut += segments
	m.sentAt = now
	m.ackDue = 0
	m.clientAckDue = now + 40*time.Millisecond
}

// answer is the answer to the oldest request.
func (m *model) answer(bytes uint64, segments uint32, now time.Duration) {
	m.send(bytes, segments, now)
	m.unanswered--
	m.askedAt = now
}

// settle lets delayed acknowledgements happen.
func (m *model) settle(now time.Duration) {
	if m.clientAckDue > 0 && now >= m.clientAckDue {
		m.s.segsIn++
		m.ackAt, m.clientAckDue = m.clientAckDue, 0
	}
	if m.ackDue > 0 && now >= m.ackDue {
		m.s.segsOut++
		m.ackDue = 0
	}
}

// keepalive is a probe of the server, and its acknowledgement.
func (m *model) keepalive(now time.Duration) {
	m.settle(now)
	m.s.segsOut++
	m.s.segsIn++
	m.ackAt = now
}

// at returns what the kernel says at an instant.
func (m *model) at(now time.Duration) *socket {
	m.settle(now)
	s := m.s
	ago := func(t time.Duration) time.Duration {
		return (now/modelTick - t/modelTick) * modelTick
	}
	s.recvAgo, s.sentAgo, s.ackAgo = ago(m.recvAt), ago(m.sentAt), ago(m.ackAt)
	return &s
}
