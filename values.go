package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drainit/drainit/sockets"
	"github.com/drainit/drainit/supervisor"
	"golang.org/x/sys/unix"
)

// problem is what is wrong with a value, and how to mend it.
type problem struct{ msg, hint string }

// raw is what every variable's type has: the text it was set to, and what was
// wrong with it. An empty value is an unset one, as for most programs: compose
// files and charts leave them behind. load fills in its default.
type raw struct {
	set string
	bad *problem
}

func (r *raw) text() string      { return r.set }
func (r *raw) problem() *problem { return r.bad }

// take keeps the text that a variable is set to, without the blanks around it,
// and reports whether there is any.
func (r *raw) take(s *string) bool {
	*s = strings.TrimSpace(*s)
	r.set = *s
	return *s != ""
}

// reject keeps what is wrong. It returns nil, since envconfig would stop at the
// first error.
func (r *raw) reject(hint, format string, args ...any) error {
	r.bad = &problem{fmt.Sprintf(format, args...), hint}
	return nil
}

// choose sets r and v to the choice called s.
func choose[T any](r *raw, v *T, s string, choices ...choice[T]) error {
	if !r.take(&s) {
		return nil
	}
	var names []string
	for _, c := range choices {
		if strings.EqualFold(c.name, s) {
			*v = c.value
			return nil
		}
		if c.name != "warning" { // understood, but warn is what it is called
			names = append(names, c.name)
		}
	}
	last := len(names) - 1
	return r.reject("use "+strings.Join(names[:last], ", ")+" or "+names[last], "not a valid value")
}

type choice[T any] struct {
	name  string
	value T
}

// until is DRAIN_UNTIL.
type until struct {
	raw
	value sockets.Until
}

func (u *until) Decode(s string) error {
	return choose(&u.raw, &u.value, s,
		choice[sockets.Until]{"window", sockets.Window},
		choice[sockets.Until]{"quiet", sockets.Quiet},
		choice[sockets.Until]{"idle", sockets.Idle},
		choice[sockets.Until]{"closed", sockets.Closed})
}

// scope is SIGNAL_SCOPE.
type scope struct {
	raw
	group bool // signals go to the child's process group
}

func (c *scope) Decode(s string) error {
	return choose(&c.raw, &c.group, s, choice[bool]{"child", false}, choice[bool]{"group", true})
}

// logFormat is LOG_FORMAT.
type logFormat struct {
	raw
	json bool
}

func (f *logFormat) Decode(s string) error {
	return choose(&f.raw, &f.json, s, choice[bool]{"text", false}, choice[bool]{"json", true})
}

// logLevel is LOG_LEVEL.
type logLevel struct {
	raw
	level slog.Level
}

func (l *logLevel) Decode(s string) error {
	return choose(&l.raw, &l.level, s,
		choice[slog.Level]{"debug", slog.LevelDebug},
		choice[slog.Level]{"info", slog.LevelInfo},
		choice[slog.Level]{"warn", slog.LevelWarn},
		choice[slog.Level]{"warning", slog.LevelWarn},
		choice[slog.Level]{"error", slog.LevelError})
}

// optionalPath is a file, or off, which is kept as "".
type optionalPath struct {
	raw
	path string
}

func (p *optionalPath) Decode(s string) error {
	if !p.take(&s) {
		return nil
	}
	switch {
	case strings.HasPrefix(s, "/"):
		p.path = s
	case !strings.EqualFold(s, "off"):
		p.path = defaultOf("DRAINIT_TERMINATION_LOG") // the error is to be found somewhere
		return p.reject("write the whole path, /dev/termination-log for one, or off", "not a path from /")
	}
	return nil
}

// address is an address to listen on, or off, which is kept as port 0.
type address struct {
	raw
	host string // empty: every address
	port uint16
}

func (a *address) Decode(s string) (err error) {
	if !a.take(&s) {
		return nil
	}
	if strings.EqualFold(s, "off") {
		return nil
	}
	if a.host, a.port, err = splitHostPort(s); err != nil {
		return a.reject("write host:port or :port, :8099 for one, or off", "%v", err)
	}
	return nil
}

func (a address) off() bool        { return a.port == 0 }
func (a address) portText() string { return strconv.Itoa(int(a.port)) }
func (a address) String() string   { return net.JoinHostPort(a.host, a.portText()) }

// reachedBy reports whether the check of u would arrive at a, as far as can be
// told from the names.
func (a address) reachedBy(u *url.URL) bool {
	if u == nil || a.off() {
		return false
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	ip := net.ParseIP(u.Hostname())
	local := u.Hostname() == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
	return port == a.portText() && (local || u.Hostname() == a.host)
}

// splitHostPort takes an address apart, whose port must be a number.
func splitHostPort(addr string) (string, uint16, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, errors.New("not an address with a port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("%q is not a port from 1 to 65535", port)
	}
	return host, uint16(n), nil
}

// checkKind is how the child is checked.
type checkKind int

const (
	checkListen  checkKind = iota // it has a listening TCP socket
	checkStarted                  // it was started
	checkNotify                   // it sent READY=1
	checkTCP                      // its port accepts a connection
	checkHTTP                     // it answers a GET
)

// readyCheck is READY_CHECK.
type readyCheck struct {
	raw
	kind checkKind
	url  *url.URL // of checkTCP and checkHTTP
}

func (c *readyCheck) Decode(s string) error {
	if !c.take(&s) {
		return nil
	}
	switch strings.ToLower(s) {
	case "listen":
		c.kind = checkListen
	case "started":
		c.kind = checkStarted
	case "notify":
		c.kind = checkNotify
	default:
		var err error
		if c.kind, c.url, err = parseCheckURL(s); err != nil {
			return c.reject("use listen, started, notify, tcp://host:port or http://host:port/path",
				"%v", err)
		}
	}
	return nil
}

// liveCheck is LIVE_CHECK; without a URL there is none.
type liveCheck struct {
	raw
	kind checkKind
	url  *url.URL
}

func (c *liveCheck) Decode(s string) (err error) {
	if !c.take(&s) {
		return nil
	}
	if c.kind, c.url, err = parseCheckURL(s); err != nil {
		return c.reject("use tcp://host:port or http://host:port/path", "%v", err)
	}
	return nil
}

// count is a number from 1 on.
type count struct {
	raw
	n int
}

func (c *count) Decode(s string) error {
	if !c.take(&s) {
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return c.reject("write a number from 1 to 65535", "not a number of times")
	}
	c.n = int(n)
	return nil
}

// toggle is 1 or 0.
type toggle struct {
	raw
	on bool
}

func (t *toggle) Decode(s string) error {
	if !t.take(&s) {
		return nil
	}
	on, err := strconv.ParseBool(strings.ToLower(s))
	if err != nil {
		return t.reject("use 1 or 0", "not a valid value")
	}
	t.on = on
	return nil
}

// parseCheckURL reads the URL of a tcp:// or http:// check.
func parseCheckURL(s string) (checkKind, *url.URL, error) {
	u, err := url.Parse(s)
	kind := checkHTTP
	if strings.HasPrefix(s, "tcp://") {
		kind = checkTCP
	}
	switch {
	case err != nil || kind == checkHTTP && !strings.HasPrefix(s, "http://") || u.Hostname() == "":
		return 0, nil, errors.New("not a valid check")
	case u.User != nil:
		return 0, nil, errors.New("a check carries no user name")
	case kind == checkTCP && (u.Port() == "" || s != "tcp://"+u.Host):
		return 0, nil, errors.New("a tcp check has a host, a port and no more")
	case u.Port() != "":
		_, _, err = splitHostPort(u.Host)
	}
	return kind, u, err
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
	if !d.take(&s) {
		return nil
	}
	d.given = true
	const hint = "write 30s, 1m30s, or 30 for seconds"
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		if n > uint64(maxDuration/time.Second) {
			return d.reject("write less than a year", "too long")
		}
		d.Duration = time.Duration(n) * time.Second
		return nil
	}
	parsed, err := time.ParseDuration(s)
	switch {
	case strings.HasPrefix(s, "-"):
		return d.reject(hint, "negative")
	case err != nil:
		return d.reject(hint, "not a duration: %s", strings.TrimPrefix(err.Error(), "time: "))
	case parsed > maxDuration:
		return d.reject("write less than a year", "too long")
	}
	d.Duration = parsed
	return nil
}

// setDefault sets a duration that was not given.
func (d *duration) setDefault(def time.Duration) {
	if !d.given {
		d.Duration, d.set = def, def.String()
	}
}

// parseSignal reads a signal by name, with or without SIG, or by number.
func parseSignal(s string) (unix.Signal, bool) {
	s = strings.ToUpper(strings.TrimSpace(s))
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
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
		signed := rest == "" || rest[0] == '+' || rest[0] == '-'
		return unix.Signal(n), err == nil && signed && n >= 34 && n <= 64
	}
	return 0, false
}

const signalHint = "write a name or number as `kill -l` has them: SIGTERM, QUIT, 15"

// oneSignal is one signal, or none.
type oneSignal struct {
	raw
	signal unix.Signal
}

func (o *oneSignal) Decode(s string) error {
	if !o.take(&s) {
		return nil
	}
	n, ok := parseSignal(s)
	if !ok {
		return o.reject(signalHint, "no such signal")
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
	if !l.take(&s) {
		return nil
	}
	for word := range strings.SplitSeq(s, ",") {
		n, ok := parseSignal(word)
		if !ok {
			return l.reject(signalHint+", separated by commas",
				"no signal is called %q", strings.TrimSpace(word))
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
	if !m.take(&s) {
		return nil
	}
	m.signals = make(map[unix.Signal]unix.Signal)
	const hint = "write FROM=TO pairs separated by commas: SIGHUP=SIGUSR2,SIGUSR1=ignore"
	for pair := range strings.SplitSeq(s, ",") {
		from, to, ok := strings.Cut(pair, "=")
		if !ok {
			return m.reject(hint, "%q has no =", strings.TrimSpace(pair))
		}
		f, ok := parseSignal(from)
		if !ok {
			return m.reject(hint, "no signal is called %q", strings.TrimSpace(from))
		}
		var t unix.Signal
		if strings.TrimSpace(to) != "ignore" {
			if t, ok = parseSignal(to); !ok {
				return m.reject(hint, "no signal is called %q", strings.TrimSpace(to))
			}
		}
		if _, twice := m.signals[f]; twice {
			return m.reject("name each signal once", "%s is there twice", supervisor.SignalName(f))
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
	if !m.take(&s) {
		return nil
	}
	m.codes = make(map[int]int)
	const hint = "write FROM=TO pairs from 0 to 255 separated by commas: 143=0,130=0"
	code := func(word string) (int, bool) {
		n, err := strconv.ParseUint(strings.TrimSpace(word), 10, 8)
		return int(n), err == nil
	}
	for pair := range strings.SplitSeq(s, ",") {
		from, to, ok := strings.Cut(pair, "=")
		f, ok1 := code(from)
		t, ok2 := code(to)
		if !ok || !ok1 || !ok2 {
			return m.reject(hint, "%q is not a pair of exit codes", strings.TrimSpace(pair))
		}
		if _, twice := m.codes[f]; twice {
			return m.reject("name each code once", "%d is there twice", f)
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
	if !l.take(&s) {
		return nil
	}
	if s == "auto" {
		return nil
	}
	for word := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(word), 10, 16)
		if err != nil || n == 0 {
			return l.reject("write auto, or ports from 1 to 65535 separated by commas: 8080,8443",
				"%q is not a port", strings.TrimSpace(word))
		}
		if !slices.Contains(l.ports, uint16(n)) {
			l.ports = append(l.ports, uint16(n))
		}
	}
	return nil
}
