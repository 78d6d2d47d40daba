// Package notify speaks systemd's readiness protocol, both ends of it: a
// Listener is the socket a child finds in NOTIFY_SOCKET, an Upstream is the one
// drainit itself may have been given.
//
// The one invariant: what a child sends can cost that child its notification,
// never drainit anything. A datagram is bounded before it is read, its sender
// is checked before it is parsed, descriptors that come with it are closed
// whatever it says, and nothing it says ends the reader.
//
// The package decides nothing: what READY=1 or a missed WATCHDOG=1 means is for
// whoever reads the messages. It keeps no descriptors (FDSTORE=1), opens no
// processes' pidfds (MAINPIDFD=1), and takes nobody's word for the main PID.
package notify

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// MaxDatagram is the longest datagram accepted: a page, as in systemd.
	MaxDatagram = 4096

	// MaxStatus is the length Message.Status is cut to, in bytes.
	MaxStatus = 256

	// MaxDuration is what longer durations are cut to (systemd's "infinity"
	// is the largest number of microseconds): long enough to mean for ever,
	// short enough to be added to any time without overflow.
	MaxDuration = 100 * 365 * 24 * time.Hour
)

var (
	errEmpty     = errors.New("empty datagram")
	errOversized = fmt.Errorf("datagram longer than %d bytes", MaxDatagram)
	errNUL       = errors.New("datagram with a NUL byte in it")
)

// Message is one datagram, decoded. The zero Message says nothing.
type Message struct {
	// PID is the sender, as the kernel names it in this PID namespace. Parse
	// leaves it zero; from a Listener it is never zero.
	PID int

	Ready           bool // READY=1
	Reloading       bool // RELOADING=1
	Stopping        bool // STOPPING=1
	Watchdog        bool // WATCHDOG=1
	WatchdogTrigger bool // WATCHDOG=trigger: the sender says it is broken

	// Status is one printable line of valid UTF-8, at most MaxStatus bytes.
	// An empty one with HasStatus set withdraws the one before it.
	Status    string
	HasStatus bool

	// ExtendTimeout asks for that much more time from now on; zero if absent.
	ExtendTimeout time.Duration

	// WatchdogEvery replaces the watchdog's period if HasWatchdogEvery is
	// set; zero then means that no more pings will come.
	WatchdogEvery    time.Duration
	HasWatchdogEvery bool

	// MainPID is what the sender calls the main process, in its own PID
	// namespace: to be shown, not to be signalled. Zero if absent.
	MainPID int

	// Barrier is BARRIER=1: the sender waits until the descriptor it sent
	// along is closed. The Listener sees to that.
	Barrier bool
}

// Empty reports whether m says nothing that a Listener's reader could act on.
func (m Message) Empty() bool {
	m.PID, m.Barrier = 0, false
	return m == Message{}
}

// Parse decodes a datagram. It keeps no reference to it.
//
// Fields it does not know and lines without "=" are ignored, as systemd does:
// a status of two lines must not cost its sender READY=1. For the same reason a
// known field with an impossible value does not spoil the others: Parse then
// returns both the Message without it and an error that names it. Where a field
// with a value is repeated, the first counts. Datagrams that are empty, longer
// than MaxDatagram or have a NUL byte in them (but for one at the end, which
// C programs send) are refused as a whole: the Message is then zero.
func Parse(datagram []byte) (Message, error) {
	if len(datagram) > MaxDatagram {
		return Message{}, errOversized
	}
	datagram = bytes.TrimSuffix(datagram, []byte{0})
	if len(datagram) == 0 {
		return Message{}, errEmpty
	}
	if bytes.IndexByte(datagram, 0) >= 0 {
		return Message{}, errNUL
	}

	var (
		m                              Message
		errs                           []error
		seenExtend, seenEvery, seenPID bool
	)
	for line := range bytes.SplitSeq(datagram, []byte{'\n'}) {
		key, value, found := bytes.Cut(line, []byte{'='})
		if !found {
			continue
		}
		var err error
		switch string(key) {
		case "READY":
			err = flag(value, &m.Ready)
		case "RELOADING":
			err = flag(value, &m.Reloading)
		case "STOPPING":
			err = flag(value, &m.Stopping)
		case "BARRIER":
			err = flag(value, &m.Barrier)
		case "WATCHDOG":
			if string(value) == "trigger" {
				m.WatchdogTrigger = true
			} else if flag(value, &m.Watchdog) != nil {
				err = errors.New(`want 1 or "trigger"`)
			}
		case "STATUS":
			if !m.HasStatus {
				m.Status, m.HasStatus = cleanStatus(value), true
			}
		case "EXTEND_TIMEOUT_USEC":
			if !seenExtend {
				seenExtend = true
				m.ExtendTimeout, err = microseconds(value)
			}
		case "WATCHDOG_USEC":
			if !seenEvery {
				seenEvery = true
				m.WatchdogEvery, err = microseconds(value)
				m.HasWatchdogEvery = err == nil
			}
		case "MAINPID":
			if !seenPID {
				seenPID = true
				m.MainPID, err = parsePID(value)
			}
		}
		// A handful is enough to mend a sender by, and a page of bad lines
		// must stay cheap.
		if err != nil && len(errs) < 4 {
			errs = append(errs, fmt.Errorf("%s=%.40q: %w", key, value, err))
		}
	}
	return m, errors.Join(errs...)
}

// flag sets *set if value is 1, the only one the protocol defines.
func flag(value []byte, set *bool) error {
	if string(value) != "1" {
		return errors.New("want 1")
	}
	*set = true
	return nil
}

// microseconds reads an unsigned decimal number of them. A number too large for
// a duration is cut to MaxDuration; one too large for 64 bits is an error.
func microseconds(value []byte) (time.Duration, error) {
	n, err := strconv.ParseUint(string(value), 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, errors.New("out of range")
	case err != nil:
		return 0, errors.New("want microseconds, as a decimal number")
	case n > uint64(MaxDuration/time.Microsecond):
		return MaxDuration, nil
	}
	return time.Duration(n) * time.Microsecond, nil
}

func parsePID(value []byte) (int, error) {
	n, err := strconv.ParseUint(string(value), 10, 31)
	if err != nil || n == 0 {
		return 0, errors.New("want a process id")
	}
	return int(n), nil
}

// cleanStatus makes one printable line of what a process calls its status: it
// is shown on plain-text pages, in JSON and on terminals. What is not UTF-8
// becomes U+FFFD, any white space a space, and characters that don't show
// (escapes, direction marks, joiners) go.
func cleanStatus(value []byte) string {
	s := strings.Map(func(r rune) rune {
		switch {
		case r == ' ' || r == '\t' || r == '\n' || r == '\r':
			return ' '
		case strconv.IsPrint(r): // also true of U+FFFD, which Map gives for invalid bytes
			return r
		case strconv.IsGraphic(r): // graphic, but not printable: the other spaces
			return ' '
		}
		return -1
	}, string(value))
	s = strings.Trim(s, " ")
	if len(s) <= MaxStatus {
		return s
	}
	const ellipsis = "…"
	cut := MaxStatus - len(ellipsis)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strings.TrimRight(s[:cut], " ") + ellipsis
}
