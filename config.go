package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/drainit/drainit/sockets"
	"github.com/drainit/drainit/supervisor"
	"github.com/kelseyhightower/envconfig"
	"golang.org/x/sys/unix"
)

// prefix of every variable.
const prefix = "DRAINIT"

// Config is the environment, decoded. Each field has its variable's whole name:
// envconfig, given a prefix, lets the variable without the prefix in too, and
// that one is the wrapped server's. (Its split_words would do, but runs a regular
// expression over each field's name: 0.1 MB that stay with the process.)
//
// The fields' types never fail to decode: they keep what was wrong, so that
// load can report every problem together and in its own words.
type Config struct {
	HealthAddr     text       `envconfig:"DRAINIT_HEALTH_ADDR" default:":8099"`
	GracePeriod    duration   `envconfig:"DRAINIT_GRACE_PERIOD" default:"30s"`
	DrainWindow    duration   `envconfig:"DRAINIT_DRAIN_WINDOW"`
	DrainUntil     text       `envconfig:"DRAINIT_DRAIN_UNTIL" default:"window"`
	StopReserve    duration   `envconfig:"DRAINIT_STOP_RESERVE"`
	KillMargin     duration   `envconfig:"DRAINIT_KILL_MARGIN"`
	UnreadyDelay   duration   `envconfig:"DRAINIT_UNREADY_DELAY" default:"0s"`
	StopOn         signalList `envconfig:"DRAINIT_STOP_ON" default:"SIGTERM,SIGINT"`
	StopSignal     oneSignal  `envconfig:"DRAINIT_STOP_SIGNAL"`
	DrainSignal    oneSignal  `envconfig:"DRAINIT_DRAIN_SIGNAL"`
	SignalScope    text       `envconfig:"DRAINIT_SIGNAL_SCOPE" default:"child"`
	SignalMap      signalMap  `envconfig:"DRAINIT_SIGNAL_MAP"`
	ExitCodes      codeMap    `envconfig:"DRAINIT_EXIT_CODES"`
	OrphanGrace    duration   `envconfig:"DRAINIT_ORPHAN_GRACE" default:"5s"`
	ReadyCheck     text       `envconfig:"DRAINIT_READY_CHECK" default:"listen"`
	ReadyInterval  duration   `envconfig:"DRAINIT_READY_INTERVAL" default:"1s"`
	ReadyTimeout   duration   `envconfig:"DRAINIT_READY_TIMEOUT" default:"1s"`
	Watchdog       duration   `envconfig:"DRAINIT_WATCHDOG" default:"0s"`
	Ports          portList   `envconfig:"DRAINIT_PORTS" default:"auto"`
	LogFormat      text       `envconfig:"DRAINIT_LOG_FORMAT" default:"text"`
	LogLevel       text       `envconfig:"DRAINIT_LOG_LEVEL" default:"info"`
	TerminationLog text       `envconfig:"DRAINIT_TERMINATION_LOG" default:"/dev/termination-log"`
}

// problem is one thing wrong with the configuration.
type problem struct{ variable, value, wrong, mend string }

func (p problem) Error() string {
	return fmt.Sprintf("%s=%q: %s\n  %s", p.variable, p.value, p.wrong, p.mend)
}

// load reads and checks the environment. Its error joins every problem there
// is.
func load() (Config, error) {
	var c Config
	if err := envconfig.Process("", &c); err != nil {
		return c, err // not for any environment: the types keep their errors
	}
	c.fillEmpty()
	problems := unknown(os.Environ())
	decoded := true
	for _, v := range c.variables() {
		if w := v.problem(); w != nil {
			decoded = false
			problems = append(problems, problem{v.name, v.text(), w.wrong, w.mend})
		}
	}
	problems = append(problems, c.checkWords()...)
	if decoded { // sums of what is not there would mislead
		c.derive()
		problems = append(problems, c.checkTimes()...)
	}
	slices.SortStableFunc(problems, func(a, b problem) int { return strings.Compare(a.variable, b.variable) })
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return c, errors.Join(errs...)
}

// field is what each type of a Config field can do.
type field interface {
	text() string    // as it was set, or as a default has it
	problem() *wrong // nil if it was decoded
}

// variable is a field with its variable's name and its default.
type variable struct {
	name, def string
	field
}

// variables lists all of them.
func (c *Config) variables() []variable {
	v := reflect.ValueOf(c).Elem()
	all := make([]variable, v.NumField())
	for i := range all {
		tag := v.Type().Field(i).Tag
		all[i] = variable{tag.Get("envconfig"), tag.Get("default"), v.Field(i).Addr().Interface().(field)}
	}
	return all
}

// fillEmpty gives variables that are set to nothing their defaults, which
// envconfig does for unset ones alone.
func (c *Config) fillEmpty() {
	for _, v := range c.variables() {
		if v.text() == "" && v.def != "" {
			v.field.(envconfig.Decoder).Decode(v.def)
		}
	}
}

// defaultOf is the default of the variable called name.
func defaultOf(name string) string {
	all := new(Config).variables()
	return all[slices.IndexFunc(all, func(v variable) bool { return v.name == name })].def
}

// derive fills in the defaults that depend on the budget.
func (c *Config) derive() {
	budget := c.GracePeriod.Duration
	c.DrainWindow.orElse(min(5*time.Second, part(budget, 3)))
	c.StopReserve.orElse(min(10*time.Second, part(budget, 3)))
	c.KillMargin.orElse(min(2*time.Second, part(budget, 10)))
}

// part is a share of the budget, in milliseconds people can read.
func part(budget, n time.Duration) time.Duration { return (budget / n).Truncate(time.Millisecond) }

// checkWords finds values that can't be, whatever the others are.
func (c *Config) checkWords() (ps []problem) {
	add := func(name string, f field, wrong, mend string) {
		ps = append(ps, problem{prefix + "_" + name, f.text(), wrong, mend})
	}
	oneOf := func(name string, t *text, words ...string) {
		if !slices.Contains(words, t.value) {
			add(name, t, "not one of the words it can be", "write "+strings.Join(words, ", "))
		}
	}
	oneOf("DRAIN_UNTIL", &c.DrainUntil, "window", "quiet", "idle", "closed")
	oneOf("SIGNAL_SCOPE", &c.SignalScope, "child", "group")
	oneOf("LOG_FORMAT", &c.LogFormat, "text", "json")
	oneOf("LOG_LEVEL", &c.LogLevel, "debug", "info", "warn", "error")

	if c.HealthAddr.value != "off" {
		_, port, _ := net.SplitHostPort(c.HealthAddr.value)
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && slices.Contains(c.Ports.ports, uint16(n)) {
			add("PORTS", &c.Ports, port+" is drainit's own (DRAINIT_HEALTH_ADDR)", "leave it out, or move DRAINIT_HEALTH_ADDR: each needs a port of its own")
		}
		if err := checkAddr(c.HealthAddr.value); err != nil {
			add("HEALTH_ADDR", &c.HealthAddr, err.Error(), "write host:port or :port, :8099 for one, or off")
		}
	}
	if err := c.checkReadyCheck(); err != nil {
		add("READY_CHECK", &c.ReadyCheck, err.Error(), "write listen, started, notify, tcp://host:port or http://host:port/path")
	}
	return append(ps, c.checkSignals()...)
}

// checkTimes finds durations that can't be, alone or together.
func (c *Config) checkTimes() (ps []problem) {
	add := func(name string, f field, wrong, mend string) {
		ps = append(ps, problem{prefix + "_" + name, f.text(), wrong, mend})
	}
	for name, d := range map[string]*duration{"READY_INTERVAL": &c.ReadyInterval, "READY_TIMEOUT": &c.ReadyTimeout} {
		if d.Duration < 10*time.Millisecond {
			add(name, d, "too short", "write 10ms or more, 1s for one")
		}
	}
	if c.Watchdog.Duration != 0 && c.Watchdog.Duration < 100*time.Millisecond {
		add("WATCHDOG", &c.Watchdog, "too short", "write 100ms or more, or 0 for none")
	}
	if c.GracePeriod.Duration < time.Second {
		add("GRACE_PERIOD", &c.GracePeriod, "too short to stop anything in", "write 1s or more; copy terminationGracePeriodSeconds")
		return ps
	}
	if sum := c.sum(); sum > c.GracePeriod.Duration {
		add("GRACE_PERIOD", &c.GracePeriod,
			fmt.Sprintf("DRAIN_WINDOW %s + STOP_RESERVE %s + KILL_MARGIN %s = %s does not fit into it",
				c.DrainWindow, c.StopReserve, c.KillMargin, sum), c.mendSum())
	}
	if d := c.UnreadyDelay.Duration; d > 0 && d >= c.DrainWindow.Duration {
		add("UNREADY_DELAY", &c.UnreadyDelay, fmt.Sprintf("ends no sooner than the DRAIN_WINDOW of %s, so nobody would see a 503", c.DrainWindow),
			fmt.Sprintf("write less than %s, or raise DRAINIT_DRAIN_WINDOW", c.DrainWindow))
	}
	return ps
}

// sum is what has to fit into the budget.
func (c *Config) sum() time.Duration {
	return c.DrainWindow.Duration + c.StopReserve.Duration + c.KillMargin.Duration
}

// mendSum names sums that would work, in whole seconds.
func (c *Config) mendSum() string {
	// Defaults grow with the budget, up to a few seconds: look for one that fits.
	larger := *c
	larger.GracePeriod.Duration = c.GracePeriod.Duration.Truncate(time.Second)
	for larger.sum() > larger.GracePeriod.Duration {
		larger.GracePeriod.Duration = max(larger.sum().Truncate(time.Second), larger.GracePeriod.Duration+time.Second)
		larger.derive()
	}
	mend := fmt.Sprintf("set DRAINIT_GRACE_PERIOD (and terminationGracePeriodSeconds) to %s", larger.GracePeriod.Duration)
	for _, d := range []struct {
		name string
		duration
	}{{"DRAIN_WINDOW", c.DrainWindow}, {"STOP_RESERVE", c.StopReserve}, {"KILL_MARGIN", c.KillMargin}} {
		others := c.sum() - d.Duration
		if rest := (c.GracePeriod.Duration - others).Truncate(time.Second); rest > 0 {
			mend += fmt.Sprintf(", or DRAINIT_%s to at most %s", d.name, rest)
		}
	}
	return mend
}

func checkAddr(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return errors.New("not an address with a port")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("%q is not a port from 1 to 65535", port)
	}
	return nil
}

func (c *Config) checkReadyCheck() error {
	switch v := c.ReadyCheck.value; v {
	case "listen", "started", "notify":
		return nil
	default:
		u, err := url.Parse(v)
		switch {
		case err != nil || !strings.HasPrefix(v, "tcp://") && !strings.HasPrefix(v, "http://") || u.Hostname() == "":
			return errors.New("no check of that name")
		case u.User != nil:
			return errors.New("a check carries no user name")
		case u.Scheme == "tcp" && (u.Port() == "" || v != "tcp://"+u.Host):
			return errors.New("a tcp check has a host, a port and no more")
		case u.Port() != "":
			return checkAddr(u.Host)
		}
		return nil
	}
}

// uncatchable signals never reach drainit, or not as signals from somebody. The
// Go runtime keeps SIGPROF, for its profiler, and leaves 32 to 34 alone.
var uncatchable = []unix.Signal{unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, unix.SIGPROF, 32, 33, 34}

// control signals are drainit's own.
var control = []unix.Signal{supervisor.SigPrestop, supervisor.SigDrain, supervisor.SigUndrain, supervisor.SigSkip}

func (c *Config) checkSignals() (ps []problem) {
	for _, s := range c.StopOn.signals {
		if why := unusable(s); why != "" {
			ps = append(ps, problem{"DRAINIT_STOP_ON", c.StopOn.text(), supervisor.SignalName(s) + " " + why, "leave it out"})
		}
	}
	for _, s := range slices.Sorted(maps.Keys(c.SignalMap.signals)) {
		switch why := unusable(s); {
		case why != "":
			ps = append(ps, problem{"DRAINIT_SIGNAL_MAP", c.SignalMap.text(), supervisor.SignalName(s) + " " + why, "leave it out"})
		case slices.Contains(c.StopOn.signals, s):
			ps = append(ps, problem{"DRAINIT_SIGNAL_MAP", c.SignalMap.text(), supervisor.SignalName(s) + " begins a stop (DRAINIT_STOP_ON) and is not forwarded as others are",
				"leave it out here; DRAINIT_STOP_SIGNAL says what the child is sent instead"})
		}
	}
	return ps
}

func unusable(s unix.Signal) string {
	switch {
	case slices.Contains(uncatchable, s):
		return "can't be caught"
	case slices.Contains(control, s):
		return "is one of drainit's own control signals"
	}
	return ""
}

// injected matches the variables Kubernetes sets for Services whose names begin
// with drainit: nobody misspelt those. Theirs is a URL in …_PORT; a number there
// was meant for DRAINIT_PORTS or DRAINIT_HEALTH_ADDR. Compiled when needed: few
// containers have any.
var injected = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^DRAINIT_([A-Z0-9_]+_)?(SERVICE_HOST=|SERVICE_PORT(_[A-Z0-9_]+)?=|PORT=[a-z]+://|PORT_[0-9]+_[A-Z]+(_(PROTO|PORT|ADDR))?=)`)
})

// unknown finds variables with our prefix that mean nothing.
func unknown(environ []string) (ps []problem) {
	var known []string
	for _, v := range new(Config).variables() {
		known = append(known, v.name)
	}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(strings.ToUpper(name), prefix+"_") || slices.Contains(known, name) || injected().MatchString(kv) {
			continue
		}
		mend := "`drainit help` lists them all"
		if near := nearest(known, name); near != "" {
			mend = fmt.Sprintf("did you mean %s? %s", near, mend)
		}
		ps = append(ps, problem{name, value, "no such variable", mend})
	}
	return ps
}

// nearest is the known name that name was most likely meant to be: one it is
// the beginning or the end of, or the one fewest letters away; none if most
// letters differ.
func nearest(known []string, name string) string {
	name = strings.ToUpper(name)
	word := strings.TrimPrefix(name, prefix)
	cost := func(k string) int {
		if strings.HasPrefix(k, name) || strings.HasSuffix(k, word) {
			return 1
		}
		return distance(k, name)
	}
	best := slices.MinFunc(known, func(a, b string) int { return cost(a) - cost(b) })
	if cost(best) > max(1, len(word)/3) {
		return ""
	}
	return best
}

// distance is the number of letters to insert, delete or change (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0]++
		for j := range len(b) {
			change := last
			if a[i] != b[j] {
				change++
			}
			last = row[j+1]
			row[j+1] = min(row[j+1]+1, row[j]+1, change)
		}
	}
	return row[len(b)]
}

// timeline is the part of the configuration that the clock is about.
func (c *Config) timeline() supervisor.Timeline {
	return supervisor.Timeline{
		Grace: c.GracePeriod.Duration, Window: c.DrainWindow.Duration, Reserve: c.StopReserve.Duration,
		Margin: c.KillMargin.Duration, UnreadyDelay: c.UnreadyDelay.Duration, OrphanGrace: c.OrphanGrace.Duration,
	}
}

func (c *Config) until() sockets.Until { return sockets.Until(c.DrainUntil.value) }

// inForce is the configuration with every default filled in, for people.
func (c *Config) inForce() map[string]string {
	all := make(map[string]string)
	for _, v := range c.variables() {
		all[v.name] = v.text()
	}
	return all
}
