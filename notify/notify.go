// Package notify implements both ends of systemd's notify protocol. A Listener
// is the socket a child finds in NOTIFY_SOCKET; an Upstream is the one drainit
// itself may have been given.
//
// The one invariant: a datagram can cost its sender the notification, and never
// harms drainit. Its size is bounded before it is read, its sender is checked
// before it is parsed, descriptors that come with it are always closed, and
// nothing in it ends the reader.
//
// The package decides nothing: what READY=1 or a missed WATCHDOG=1 means is up
// to the reader of the messages. It keeps no descriptors (FDSTORE=1), opens no
// pidfds (MAINPIDFD=1), and does not verify that MAINPID names a process.
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

	// MaxStatus is the length Message.Status is truncated to, in bytes.
	MaxStatus = 256

	// MaxDuration is what longer durations are reduced to (systemd's
	// "infinity" is the largest number of microseconds): long enough to mean
	// forever, short enough to be added to any time without overflow.
	MaxDuration = 100 * 365 * 24 * time.Hour
)

var (
	errEmpty     = errors.New("empty datagram")
	errOversized = fmt.Errorf("datagram longer than %d bytes", MaxDatagram)
	errNUL       = errors.New("datagram contains a NUL byte")
)

// Message is one decoded datagram. The zero Message is an empty one.
type Message struct {
	// PID is the sender's, in this PID namespace, according to the kernel.
	// Parse leaves it zero; a Listener never does.
	PID int

	Ready           bool // READY=1
	Reloading       bool // RELOADING=1
	Stopping        bool // STOPPING=1
	Watchdog        bool // WATCHDOG=1
	WatchdogTrigger bool // WATCHDOG=trigger: the sender reports a failure

	// Status is one printable line of valid UTF-8, at most MaxStatus bytes.
	// An empty one with HasStatus set withdraws the one before it.
	Status    string
	HasStatus bool

	// ExtendTimeout requests that much more time from now on; zero if absent.
	ExtendTimeout time.Duration

	// WatchdogEvery replaces the watchdog's period if HasWatchdogEvery is
	// set; zero then means that no more pings will follow.
	WatchdogEvery    time.Duration
	HasWatchdogEvery bool

	// MainPID is what the sender calls the main process, in the sender's own
	// PID namespace. Zero if absent. Nothing here checks that the process
	// exists or belongs to the container: do so before signalling it.
	MainPID int

	// Barrier is BARRIER=1: the sender waits until the descriptor it sent
	// along is closed, which the Listener does.
	Barrier bool
}

// Empty reports whether m contains nothing that a Listener's reader could act
// on.
func (m Message) Empty() bool {
	m.PID, m.Barrier = 0, false
	return m == Message{}
}

// Parse decodes a datagram. It keeps no reference to it.
//
// Unknown fields and lines without "=" are ignored, as in systemd: a status of
// two lines must not cost its sender READY=1. For the same reason an invalid
// value of a known field does not affect the others: Parse then returns both
// the Message without that field and an error that names it. If a field with a
// value is repeated, the first one counts. Datagrams that are empty, longer
// than MaxDatagram or contain a NUL byte (other than one at the end, which C
// programs send) are rejected as a whole: the Message is then zero.
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

	var d decoder
	var errs []error
	for line := range bytes.SplitSeq(datagram, []byte{'\n'}) {
		key, value, found := bytes.Cut(line, []byte{'='})
		if !found {
			continue
		}
		// A few are enough to find the mistake, and a page of bad lines
		// must stay cheap.
		if err := d.field(key, value); err != nil && len(errs) < 4 {
			errs = append(errs, fmt.Errorf("%s=%.40q: %w", key, value, err))
		}
	}
	return d.Message, errors.Join(errs...)
}

// decoder builds a Message field by field.
type decoder struct {
	Message
	seenExtend, seenEvery, seenMainPID bool
}

// field decodes one field. It ignores those it does not know.
func (d *decoder) field(key, value []byte) (err error) {
	switch string(key) {
	case "READY":
		return flag(value, &d.Ready)
	case "RELOADING":
		return flag(value, &d.Reloading)
	case "STOPPING":
		return flag(value, &d.Stopping)
	case "BARRIER":
		return flag(value, &d.Barrier)
	case "WATCHDOG":
		if string(value) == "trigger" {
			d.WatchdogTrigger = true
		} else if flag(value, &d.Watchdog) != nil {
			return errors.New(`want 1 or "trigger"`)
		}
	case "STATUS":
		if !d.HasStatus {
			d.Status, d.HasStatus = cleanStatus(value), true
		}
	case "EXTEND_TIMEOUT_USEC":
		if !d.seenExtend {
			d.seenExtend = true
			d.ExtendTimeout, err = microseconds(value)
		}
	case "WATCHDOG_USEC":
		if !d.seenEvery {
			d.seenEvery = true
			d.WatchdogEvery, err = microseconds(value)
			d.HasWatchdogEvery = err == nil
		}
	case "MAINPID":
		if !d.seenMainPID {
			d.seenMainPID = true
			d.MainPID, err = parsePID(value)
		}
	}
	return err
}

// flag sets *set if value is 1, the only value the protocol defines.
func flag(value []byte, set *bool) error {
	if string(value) != "1" {
		return errors.New("want 1")
	}
	*set = true
	return nil
}

// microseconds parses an unsigned decimal number of microseconds. A number too
// large for a duration becomes MaxDuration; one too large for 64 bits is an
// error.
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

// cleanStatus returns value as one printable line, which is shown as plain
// text, in JSON and on terminals. Invalid UTF-8 becomes U+FFFD, any white space
// a space, and invisible characters (escapes, direction marks, joiners) are
// removed.
func cleanStatus(value []byte) string {
	s := strings.Map(func(r rune) rune {
		switch {
		case r == ' ' || r == '\t' || r == '\n' || r == '\r':
			return ' '
		case strconv.IsPrint(r): // includes U+FFFD, Map's rune for invalid bytes
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
