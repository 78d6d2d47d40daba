package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drainit/drainit/supervisor"
	"golang.org/x/sys/unix"
)

// wrong is why a value could not be decoded, and how to mend it.
type wrong struct{ wrong, mend string }

// raw is what every variable's type has: the text it was set to, and what was
// wrong with it. An empty value is an unset one, as for most programs: compose
// files and charts leave them behind. load fills in its default.
type raw struct {
	set string
	bad *wrong
}

func (r *raw) text() string    { return r.set }
func (r *raw) problem() *wrong { return r.bad }

func (r *raw) refuse(mend, format string, args ...any) error {
	r.bad = &wrong{fmt.Sprintf(format, args...), mend}
	return nil // envconfig would stop at the first
}

// text is a word or an address.
type text struct {
	raw
	value string
}

func (t *text) Decode(s string) error {
	if s == "" {
		return nil
	}
	t.set, t.value = s, s
	return nil
}

// duration is a Go duration, or a bare number of seconds as Kubernetes has it.
type duration struct {
	raw
	time.Duration
	given bool
}

// maxDuration keeps sums of a few of them far from overflow.
const maxDuration = 365 * 24 * time.Hour

func (d *duration) Decode(s string) error {
	if s == "" {
		return nil
	}
	d.set, d.given = s, true
	const mend = "write 30s, 1m30s, or 30 for seconds"
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		if n > uint64(maxDuration/time.Second) {
			return d.refuse("write less than a year", "too long")
		}
		d.Duration = time.Duration(n) * time.Second
		return nil
	}
	parsed, err := time.ParseDuration(s)
	switch {
	case strings.HasPrefix(s, "-"):
		return d.refuse(mend, "negative")
	case err != nil:
		return d.refuse(mend, "not a duration: %s", strings.TrimPrefix(err.Error(), "time: "))
	case parsed > maxDuration:
		return d.refuse("write less than a year", "too long")
	}
	d.Duration = parsed
	return nil
}

// orElse is the default of a duration that was not given.
func (d *duration) orElse(def time.Duration) {
	if !d.given {
		d.Duration, d.set = def, def.String()
	}
}

// parseSignal reads a signal by name, with or without SIG, or by number.
func parseSignal(s string) (unix.Signal, bool) {
	s = strings.ToUpper(strings.TrimSpace(s))
	if n, err := strconv.Atoi(s); err == nil {
		return unix.Signal(n), n >= 1 && n <= 64
	}
	s = "SIG" + strings.TrimPrefix(s, "SIG")
	if n := unix.SignalNum(s); n != 0 {
		return n, true
	}
	// SIGRTMIN is 34 and SIGRTMAX 64 to kill(1) and every C library.
	for base, first := range map[string]int{"SIGRTMIN": 34, "SIGRTMAX": 64} {
		rest, ok := strings.CutPrefix(s, base)
		if !ok {
			continue
		}
		offset, err := strconv.Atoi(rest)
		if rest == "" {
			offset, err = 0, nil
		}
		n := first + offset
		return unix.Signal(n), err == nil && n >= 34 && n <= 64 && (rest == "" || rest[0] == '+' || rest[0] == '-')
	}
	return 0, false
}

const mendSignal = "write a name or number as `kill -l` has them: SIGTERM, QUIT, 15"

// oneSignal is one signal, or none.
type oneSignal struct {
	raw
	signal unix.Signal
}

func (o *oneSignal) Decode(s string) error {
	if s == "" {
		return nil
	}
	o.set = s
	n, ok := parseSignal(s)
	if !ok {
		return o.refuse(mendSignal, "no such signal")
	}
	o.signal = n
	return nil
}

// signalList is a comma-separated list of signals.
type signalList struct {
	raw
	signals []unix.Signal
}

func (l *signalList) Decode(s string) error {
	if s == "" {
		return nil
	}
	l.set = s
	for word := range strings.SplitSeq(s, ",") {
		n, ok := parseSignal(word)
		if !ok {
			return l.refuse(mendSignal+", separated by commas", "no signal is called %q", strings.TrimSpace(word))
		}
		if !slices.Contains(l.signals, n) {
			l.signals = append(l.signals, n)
		}
	}
	return nil
}

// signalMap is a list of FROM=TO; TO may be ignore, kept as 0.
type signalMap struct {
	raw
	signals map[unix.Signal]unix.Signal
}

func (m *signalMap) Decode(s string) error {
	if s == "" {
		return nil
	}
	m.set, m.signals = s, make(map[unix.Signal]unix.Signal)
	const mend = "write FROM=TO pairs separated by commas: SIGHUP=SIGUSR2,SIGUSR1=ignore"
	for pair := range strings.SplitSeq(s, ",") {
		from, to, ok := strings.Cut(pair, "=")
		if !ok {
			return m.refuse(mend, "%q has no =", strings.TrimSpace(pair))
		}
		f, ok := parseSignal(from)
		if !ok {
			return m.refuse(mend, "no signal is called %q", strings.TrimSpace(from))
		}
		var t unix.Signal
		if strings.TrimSpace(to) != "ignore" {
			if t, ok = parseSignal(to); !ok {
				return m.refuse(mend, "no signal is called %q", strings.TrimSpace(to))
			}
		}
		if _, twice := m.signals[f]; twice {
			return m.refuse("name each signal once", "%s is there twice", supervisor.SignalName(f))
		}
		m.signals[f] = t
	}
	return nil
}

// codeMap is a list of FROM=TO exit codes.
type codeMap struct {
	raw
	codes map[int]int
}

func (m *codeMap) Decode(s string) error {
	if s == "" {
		return nil
	}
	m.set, m.codes = s, make(map[int]int)
	const mend = "write FROM=TO pairs from 0 to 255 separated by commas: 143=0,130=0"
	code := func(word string) (int, bool) {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		return n, err == nil && n >= 0 && n <= math.MaxUint8
	}
	for pair := range strings.SplitSeq(s, ",") {
		from, to, ok := strings.Cut(pair, "=")
		f, ok1 := code(from)
		t, ok2 := code(to)
		if !ok || !ok1 || !ok2 {
			return m.refuse(mend, "%q is not a pair of exit codes", strings.TrimSpace(pair))
		}
		if _, twice := m.codes[f]; twice {
			return m.refuse("name each code once", "%d is there twice", f)
		}
		m.codes[f] = t
	}
	return nil
}

// portList is a list of TCP ports, or auto, kept as nil.
type portList struct {
	raw
	ports []uint16
}

func (l *portList) Decode(s string) error {
	if s == "" {
		return nil
	}
	l.set = s
	if s == "auto" {
		return nil
	}
	for word := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(word), 10, 16)
		if err != nil || n == 0 {
			return l.refuse("write auto, or ports from 1 to 65535 separated by commas: 8080,8443", "%q is not a port", strings.TrimSpace(word))
		}
		if !slices.Contains(l.ports, uint16(n)) {
			l.ports = append(l.ports, uint16(n))
		}
	}
	return nil
}
