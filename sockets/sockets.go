// Package sockets reports from the kernel's own tables whether clients of the
// child still arrive, wait, or are being served. It needs neither privilege nor
// the child's help, makes no connection, and before a stop begins reads nothing
// but one small file, when drainit is awake anyway.
//
//	                     every 100 ms after t0
//	sock_diag ── listeners ──► accept queue ─────────┐
//	          ── connections ─► judge ► evidence ────┼──► Verdict
//	          ── ends of them ┐                      │
//	snmp ──── PassiveOpens ───┴► arrivals ► evidence ┘
//
// # Evidence
//
// A condition is met when no evidence is against it. There are three kinds, and
// a Verdict says which holds, for which peer, and for how long it still may:
//
//   - Certain evidence holds for as long as it lasts: the accept queue, unread
//     bytes, unacknowledged bytes that make progress, a request that came after
//     the last answer, clients that connect more often than probers do.
//   - Ambiguous evidence may be a client or nothing, and holds for the patience:
//     23 s after t0, or Options.Patience. It is the order of bytes within a
//     kernel's tick (4 or 10 ms), several requests on one connection (HTTP/2,
//     gRPC), TLS before its first answer, an answer that pauses or may be an
//     interim one, requests too small for HTTP, connections at regular
//     intervals, requests that go on arriving on kept connections, and a
//     connection of which only the age is known.
//   - Stale is no evidence: a peer that has acknowledged nothing for 15 s, a
//     minute without a byte in either direction, pings and their answers.
//
// Quiet means that no new work arrives: neither connections nor requests on
// kept ones. Probes from this machine's addresses and the default gateway's (a
// kubelet's, Docker's) say nothing about clients. Others may be a balancer's
// that has not moved on, or a client that polls.
//
// What can't be known: that a segment held two requests, once it has been read
// and one of them answered; that a regular client goes on after the patience;
// what a connection carries where netlink is denied, for longer than 15 s; that
// a request as large as one of HTTP's will never be answered, such as a BLPOP
// of redis' on a port that has said nothing else, before a minute has passed.
//
// The rules are in evidence.go, each with its cause and its number.
//
// # Invariants
//
// A failed or possibly incomplete count is unknown, never zero. Certain
// evidence is never outweighed, ambiguous evidence never outlasts the patience:
// random histories are checked against both.
//
// Decoding (diag.go, proc.go) and judging (judge.go, conn.go, evidence.go,
// arrivals.go, probes.go) are pure: they are told what was seen, and when. The
// rest reads. The netlink framing is written out, since it is a few dozen lines
// here, where mdlayher/netlink, framing alone, adds 0.19 MB to a binary (this
// package, all of it: 0.17) and allocates for each message.
//
// It does not see UDP, QUIC and Unix sockets, which Serving names; nor what is
// inside a connection: requests in flight are deduced from bytes, queues and
// times.
package sockets

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drainit/drainit/internal/proc"
	"golang.org/x/sys/unix"
)

// Until is what to wait for. Each value includes the one before it.
type Until string

const (
	Window Until = "window" // nothing
	Quiet  Until = "quiet"  // no work has arrived for a while, and none waits to be accepted
	Idle   Until = "idle"   // and no request is in flight
	Closed Until = "closed" // and no connection is open
)

// Options says what belongs to the child. With the zero value that is every
// listener in the network namespace that is not known to be a neighbour's.
type Options struct {
	// Ports are the child's; nil to find them.
	Ports []uint16
	// OwnPort is where drainit itself listens; 0 for nowhere.
	OwnPort uint16
	// OwnAccepts returns how many connections drainit itself has accepted. It
	// may be nil.
	OwnAccepts func() uint64
	// Dials returns how many connections drainit itself has made to the child's
	// ports, counted before each is begun. It may be nil.
	Dials func() uint64
	// Patience is how long ambiguous evidence holds after t0, up to the longest
	// that measurements have shown to be of use, which 0 stands for. It has to
	// end some seconds before the signal is forwarded in any case: then an
	// instant is looked for in which nothing is in flight.
	Patience time.Duration
	// StreamPause is how long the pauses of the child's streams are, at most; 0
	// if that is unknown. Each call of HTTP/2 is a stream, and the wait for its
	// answer a pause.
	StreamPause time.Duration
	// ClosedIdle is how long a connection is silent before it no longer counts
	// for Closed; 0 for a minute.
	ClosedIdle time.Duration
	// Log may be nil.
	Log *slog.Logger
}

// Counter counts the child's clients. Its methods may be called from several
// goroutines.
type Counter struct {
	options Options
	log     *slog.Logger

	born time.Time
	slow atomic.Bool

	mu       sync.Mutex
	owner    owner
	ports    []uint16 // all that have ever been the child's, sorted
	families families // of their listeners
	readings []reading
	fellBack bool // to /proc
	snmp     []byte

	// Tests inject faults here.
	openNetlink func() (*netlink, error)
	openEvents  func() (*events, error)
	tables      func(buf []byte, visit func(*socket)) ([]byte, error)
	opens       func(buf []byte) (uint64, []byte, error)
}

// New returns a Counter. It reads PassiveOpens and nothing else.
func New(o Options) *Counter {
	c := &Counter{
		options:     o,
		born:        time.Now(),
		log:         o.Log,
		owner:       owner{ports: o.Ports, own: o.OwnPort},
		openNetlink: openNetlink,
		openEvents:  openEvents,
		tables:      tables,
		opens:       readOpens,
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	for _, p := range o.Ports {
		c.keep(p) // their connections count even if no listener has been seen
	}
	c.SampleArrivals()
	return c
}

func readOpens(buf []byte) (uint64, []byte, error) {
	buf, err := proc.ReadFile("/proc/net/snmp", buf)
	if err != nil {
		return 0, buf, err
	}
	n, err := passiveOpens(buf)
	return n, buf, err
}

// Listening returns the ports the child listens on now, sorted. The child
// closes them later: a port seen once is remembered for Watch.
func (c *Counter) Listening() ([]uint16, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.view()
	defer v.close()
	mine, _, err := v.listeners()
	if err != nil {
		return nil, err
	}
	ports := make([]uint16, 0, len(mine))
	for _, l := range mine {
		ports = append(ports, l.port)
		c.remember(l)
	}
	slices.Sort(ports)
	return slices.Compact(ports), nil
}

func (c *Counter) remember(l listener) {
	c.families.add(l.family)
	c.keep(l.port)
}

func (c *Counter) keep(port uint16) {
	if i, found := slices.BinarySearch(c.ports, port); !found {
		c.ports = slices.Insert(c.ports, i, port)
	}
}

// reading is a value of PassiveOpens, without drainit's own connections.
type reading struct {
	at    time.Time
	opens uint64
}

const (
	// Readings are taken at most at this pace at first, so that a short life
	// has a rate too, and then less often: the file costs the kernel some 40
	// µs, and a minute of idling may cost 1 ms.
	firstPace, firstReadings = time.Second, 8
	laterPace                = 5 * time.Second
	// Over a shorter history, zero arrivals say nothing about the rate.
	shortHistory = 10 * time.Second
	// The rate at t0 is counted over this long before it.
	history = time.Minute
)

// SampleArrivals takes a reading of PassiveOpens, if one is due. It is meant to
// be called whenever drainit is awake anyway, as for a readiness probe.
func (c *Counter) SampleArrivals() {
	if !c.mu.TryLock() {
		return // a probe's answer does not wait for the tables to be read
	}
	defer c.mu.Unlock()
	pace := laterPace
	if len(c.readings) < firstReadings {
		pace = firstPace
	}
	now := time.Now()
	if n := len(c.readings); n > 0 && now.Sub(c.readings[n-1].at) < pace {
		return
	}
	c.read(now)
}

func (c *Counter) read(now time.Time) (reading, error) {
	own := c.own()
	opens, buf, err := c.opens(c.snmp)
	c.snmp = buf
	if err != nil {
		return reading{}, err
	}
	r := reading{now, opens - min(own, opens)}
	c.readings = append(c.readings, r)
	// One reading older than the history is kept: it may be the only one.
	for len(c.readings) > 2 && now.Sub(c.readings[1].at) > history {
		c.readings = slices.Delete(c.readings, 0, 1)
	}
	return r, nil
}

// own returns how many connections were drainit's.
func (c *Counter) own() (n uint64) {
	if c.options.OwnAccepts != nil {
		n += c.options.OwnAccepts()
	}
	if c.options.Dials != nil {
		n += c.options.Dials()
	}
	return n
}

// rate returns the arrival rate before now, and the time it was counted over; 0
// without two readings.
func (c *Counter) rate(now time.Time) (float64, time.Duration) {
	last, err := c.read(now)
	if err != nil || len(c.readings) < 2 {
		return 0, 0
	}
	first := c.readings[0]
	span := last.at.Sub(first.at)
	if span < firstPace || last.opens < first.opens || last.opens == first.opens && span < shortHistory {
		return 0, 0
	}
	return float64(last.opens-first.opens) / span.Seconds(), span
}

// burstGap returns the longest time for which no connection arrived between two
// readings before t0, if the rate between others does not explain it: clients
// come in bursts. Where readings are further apart than bursts it sees none.
func (c *Counter) burstGap() (gap time.Duration) {
	if len(c.readings) < 4 {
		return 0
	}
	first, last := c.readings[0], c.readings[len(c.readings)-1]
	n := last.opens - min(first.opens, last.opens)
	if n < burstLeast {
		return 0
	}
	usual := quietTime(float64(n) / last.at.Sub(first.at).Seconds())
	var empty time.Duration
	for i := 1; i < len(c.readings); i++ {
		before, r := c.readings[i-1], c.readings[i]
		if r.opens == before.opens {
			empty += r.at.Sub(before.at)
			continue
		}
		if empty > usual {
			gap = max(gap, empty+r.at.Sub(before.at)) // readings may have missed that much
		}
		empty = 0
	}
	return gap
}

// age returns how long arrivals could have been counted, at least the pace of
// readings.
func (c *Counter) age(now time.Time) time.Duration {
	return max(firstPace, now.Sub(c.born))
}

// Relax drops Watch to one poll per second, for when there is nothing left to
// decide.
func (c *Counter) Relax() { c.slow.Store(true) }

func (c *Counter) slowed() bool { return c.slow.Load() }

// view reads the tables, by netlink or if that is denied from /proc. It is used
// under the lock.
type view struct {
	c   *Counter
	nl  *netlink
	buf []byte
	all []listener
	// ownQueue is how many connections drainit itself has not accepted yet.
	ownQueue uint32
}

func (c *Counter) view() *view { return &view{c: c} }

func (v *view) close() {
	v.nl.close()
	v.nl = nil
}

// denied reports whether an error means that netlink can't be used here, rather
// than that it failed.
func denied(err error) bool {
	for _, e := range [...]error{
		unix.EPERM, unix.EACCES, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT,
		unix.ESOCKTNOSUPPORT, unix.ENOSYS, unix.ENOENT, unix.EOPNOTSUPP,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// forEachSocket passes every socket in the states of the mask to visit.
func (v *view) forEachSocket(f families, states uint32, port uint16, info bool, visit func(*socket)) error {
	if !v.c.fellBack {
		err := v.queryNetlink(f, states, port, info, visit)
		if err == nil || !denied(err) {
			return err
		}
		v.c.fellBack = true
		v.close()
		v.c.log.Warn("sockets can't be listed by netlink; reading /proc/net/tcp instead, which tells less: "+
			"a connection may carry a request until it is 15 s old", "error", err)
	}
	var err error
	v.buf, err = v.c.tables(v.buf, func(s *socket) {
		if states&(1<<s.state) != 0 && (port == 0 || s.local == port) {
			visit(s)
		}
	})
	return err
}

func (v *view) queryNetlink(f families, states uint32, port uint16, info bool, visit func(*socket)) error {
	if v.nl == nil {
		nl, err := v.c.openNetlink()
		if err != nil {
			return err
		}
		v.nl = nl
	}
	err := v.nl.dump(f, states, port, info, visit)
	if err != nil {
		// An abandoned dump may still have datagrams under way; a new socket
		// has none.
		v.close()
	}
	return err
}

// listeners returns the child's listeners, and reports whether there are
// others.
func (v *view) listeners() (mine []listener, foreign bool, err error) {
	v.all, v.ownQueue = v.all[:0], 0
	err = v.forEachSocket(bothFamilies, maskListen, 0, false, func(s *socket) {
		if v.c.options.OwnPort != 0 && s.local == v.c.options.OwnPort && !v.c.owner.asked && s.cgroup != 0 {
			v.c.owner.cgroup, v.c.owner.asked = s.cgroup, true
		}
		if v.c.options.OwnPort != 0 && s.local == v.c.options.OwnPort {
			v.ownQueue += s.rqueue
		}
		v.all = append(v.all, listener{s.family, s.local, s.rqueue, s.inode, s.cgroup})
	})
	if err != nil {
		return nil, false, err
	}
	var self func() uint64
	if v.nl != nil {
		self = func() uint64 { return ownCgroup(v.nl) }
	}
	mine, foreign = v.c.owner.split(v.all, self)
	return mine, foreign, nil
}
