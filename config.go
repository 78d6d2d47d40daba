package main

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
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
// that one is the wrapped server's. (Its split_words would do, but runs a
// regular expression over each field's name: 0.1 MB that stay with the
// process.)
//
// The fields' types never fail to decode: they keep what was wrong, so that
// load can report every problem together and in its own words.
type Config struct {
	HealthAddr     address      `envconfig:"DRAINIT_HEALTH_ADDR" default:":8099"`
	GracePeriod    duration     `envconfig:"DRAINIT_GRACE_PERIOD"`
	DrainWindow    duration     `envconfig:"DRAINIT_DRAIN_WINDOW"`
	DrainUntil     until        `envconfig:"DRAINIT_DRAIN_UNTIL" default:"window"`
	StreamPause    duration     `envconfig:"DRAINIT_STREAM_PAUSE" default:"0s"`
	ClosedIdle     duration     `envconfig:"DRAINIT_CLOSED_IDLE" default:"60s"`
	StopReserve    duration     `envconfig:"DRAINIT_STOP_RESERVE"`
	KillMargin     duration     `envconfig:"DRAINIT_KILL_MARGIN"`
	UnreadyDelay   duration     `envconfig:"DRAINIT_UNREADY_DELAY" default:"0s"`
	StopOn         signalList   `envconfig:"DRAINIT_STOP_ON" default:"SIGTERM,SIGINT"`
	StopSignal     oneSignal    `envconfig:"DRAINIT_STOP_SIGNAL"`
	DrainSignal    oneSignal    `envconfig:"DRAINIT_DRAIN_SIGNAL"`
	SignalScope    scope        `envconfig:"DRAINIT_SIGNAL_SCOPE" default:"child"`
	SignalMap      signalMap    `envconfig:"DRAINIT_SIGNAL_MAP"`
	ExitCodes      codeMap      `envconfig:"DRAINIT_EXIT_CODES"`
	OrphanGrace    duration     `envconfig:"DRAINIT_ORPHAN_GRACE"`
	ReadyCheck     readyCheck   `envconfig:"DRAINIT_READY_CHECK" default:"listen"`
	ReadyInterval  duration     `envconfig:"DRAINIT_READY_INTERVAL" default:"1s"`
	ReadyTimeout   duration     `envconfig:"DRAINIT_READY_TIMEOUT" default:"1s"`
	LiveCheck      liveCheck    `envconfig:"DRAINIT_LIVE_CHECK"`
	LiveInterval   duration     `envconfig:"DRAINIT_LIVE_INTERVAL" default:"10s"`
	LiveTimeout    duration     `envconfig:"DRAINIT_LIVE_TIMEOUT" default:"1s"`
	LiveFailures   count        `envconfig:"DRAINIT_LIVE_FAILURES" default:"3"`
	Watchdog       duration     `envconfig:"DRAINIT_WATCHDOG" default:"0s"`
	Ports          portList     `envconfig:"DRAINIT_PORTS" default:"auto"`
	LogFormat      logFormat    `envconfig:"DRAINIT_LOG_FORMAT" default:"text"`
	LogLevel       logLevel     `envconfig:"DRAINIT_LOG_LEVEL" default:"info"`
	TerminationLog optionalPath `envconfig:"DRAINIT_TERMINATION_LOG" default:"/dev/termination-log"`
	Bypass         toggle       `envconfig:"DRAINIT_BYPASS" default:"0"`
}

// configError is a problem with the value of one variable.
type configError struct {
	name, value string
	problem
}

func (e *configError) Error() string { return e.user().Error() }

// user returns e as it is shown.
func (e *configError) user() *userError {
	return &userError{fmt.Sprintf("%s=%q: %s", e.name, withoutPassword(e.value), e.msg), e.hint}
}

// withoutPassword returns a variable's value as errors show it, without the
// user and password of a URL: logs go to many readers.
func withoutPassword(value string) string {
	scheme, rest, isURL := strings.Cut(value, "://")
	if at := strings.LastIndex(rest, "@"); isURL && at >= 0 {
		return scheme + "://..." + rest[at:]
	}
	return value
}

// load reads and checks the environment. Its error joins every problem there
// is.
func load() (Config, error) {
	var c Config
	if err := envconfig.Process("", &c); err != nil {
		return c, err // never caused by an environment: the types keep their errors
	}
	c.fillEmpty()
	problems := unknown(os.Environ())
	timed := true
	for _, v := range c.variables() {
		if p := v.problem(); p != nil {
			problems = append(problems, &configError{v.name, v.text(), *p})
			_, isDuration := v.field.(*duration)
			timed = timed && !isDuration
		}
	}
	problems = append(problems, c.checkPorts()...)
	problems = append(problems, c.checkSignals()...)
	if timed { // sums with a duration that is missing would mislead
		c.derive()
		problems = append(problems, c.checkTimes()...)
	}
	slices.SortStableFunc(problems, func(a, b *configError) int {
		return strings.Compare(a.name, b.name)
	})
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return c, errors.Join(errs...)
}

// field is what each type of a Config field can do.
type field interface {
	text() string      // as it was set, or as a default has it
	problem() *problem // nil if it was decoded
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

// fillEmpty sets variables that are set to nothing to their defaults, which
// envconfig does for unset ones alone.
func (c *Config) fillEmpty() {
	for _, v := range c.variables() {
		if v.text() == "" {
			v.useDefault()
		}
	}
}

// useDefaults replaces the values that could not be decoded, and those of
// checkPorts and checkSignals. Wrong times stay: a bypass uses none.
func (c *Config) useDefaults() {
	useless := append(c.checkPorts(), c.checkSignals()...)
	for i, v := range c.variables() {
		named := func(e *configError) bool { return e.name == v.name }
		if v.problem() == nil && !slices.ContainsFunc(useless, named) {
			continue
		}
		reflect.ValueOf(c).Elem().Field(i).SetZero()
		v.useDefault()
	}
}

// useDefault sets v to its default, if it has one.
func (v variable) useDefault() {
	if v.def != "" {
		v.field.(envconfig.Decoder).Decode(v.def)
	}
}

// defaultOf returns the default of the variable called name.
func defaultOf(name string) string {
	all := new(Config).variables()
	return all[slices.IndexFunc(all, func(v variable) bool { return v.name == name })].def
}

// kubernetes reports whether drainit runs in a pod.
func kubernetes() bool { return os.Getenv("KUBERNETES_SERVICE_HOST") != "" }

// defaultGrace returns how long the runtime waits before it kills, unless it
// was told otherwise: Docker, Podman and Compose wait for 10 s.
func defaultGrace() time.Duration {
	if kubernetes() {
		return 30 * time.Second
	}
	return 10 * time.Second
}

// derive sets the defaults that depend on the platform and on the budget.
func (c *Config) derive() {
	c.GracePeriod.setDefault(defaultGrace())
	budget := c.GracePeriod.Duration
	c.DrainWindow.setDefault(min(5*time.Second, fraction(budget, 3)))
	c.StopReserve.setDefault(min(10*time.Second, fraction(budget, 3)))
	c.KillMargin.setDefault(min(2*time.Second, fraction(budget, 10)))
	c.OrphanGrace.setDefault(5 * time.Second)
}

// fraction returns an nth of the budget, in milliseconds that people can read.
func fraction(budget, n time.Duration) time.Duration {
	return (budget / n).Truncate(time.Millisecond)
}

// wrong makes a configError of a problem with a field that was decoded.
func wrong(name string, f field, msg, hint string) *configError {
	return &configError{prefix + "_" + name, f.text(), problem{msg, hint}}
}

// checkPorts finds drainit's own port where the child's are meant.
func (c *Config) checkPorts() (errs []*configError) {
	if c.HealthAddr.off() {
		return nil
	}
	own := func(name string, f field, u *url.URL) {
		if c.HealthAddr.reachedBy(u) {
			errs = append(errs, wrong(name, f, "that is drainit's own port (DRAINIT_HEALTH_ADDR)",
				"name the server's, or move DRAINIT_HEALTH_ADDR: each needs a port of its own"))
		}
	}
	own("READY_CHECK", &c.ReadyCheck, c.ReadyCheck.url)
	own("LIVE_CHECK", &c.LiveCheck, c.LiveCheck.url)
	if slices.Contains(c.Ports.ports, c.HealthAddr.port) {
		errs = append(errs, wrong("PORTS", &c.Ports,
			c.HealthAddr.portText()+" is drainit's own (DRAINIT_HEALTH_ADDR)",
			"leave it out, or move DRAINIT_HEALTH_ADDR: each needs a port of its own"))
	}
	return errs
}

// neverEnds are the signals that no process ends on, since it can't catch them
// or is never meant to.
var neverEnds = []unix.Signal{unix.SIGSTOP, unix.SIGCONT, unix.SIGCHLD, unix.SIGURG}

// checkSignals finds signals that are of no use where they are.
func (c *Config) checkSignals() (errs []*configError) {
	for _, s := range c.StopOn.signals {
		if why := unusable(s); why != "" {
			name := supervisor.SignalName(s)
			errs = append(errs, wrong("STOP_ON", &c.StopOn, name+" "+why, "leave it out"))
		}
	}
	if s := c.StopSignal.signal; slices.Contains(neverEnds, s) {
		errs = append(errs, wrong("STOP_SIGNAL", &c.StopSignal,
			supervisor.SignalName(s)+" can't end the child",
			"set the signal that the server stops on, SIGTERM or SIGQUIT for most"))
	}
	if s := c.DrainSignal.signal; s == unix.SIGKILL || slices.Contains(neverEnds, s) {
		errs = append(errs, wrong("DRAIN_SIGNAL", &c.DrainSignal,
			supervisor.SignalName(s)+" can't tell the child to finish its work",
			"set the signal that the server stops taking work on, SIGTSTP or SIGUSR1 for some"))
	}
	for _, s := range slices.Sorted(maps.Keys(c.SignalMap.signals)) {
		name := supervisor.SignalName(s)
		switch why := unusable(s); {
		case why != "":
			errs = append(errs, wrong("SIGNAL_MAP", &c.SignalMap, name+" "+why, "leave it out"))
		case slices.Contains(c.StopOn.signals, s):
			errs = append(errs, wrong("SIGNAL_MAP", &c.SignalMap,
				name+" begins a stop (DRAINIT_STOP_ON) and is not forwarded as others are",
				"leave it out here; DRAINIT_STOP_SIGNAL says what the child is sent instead"))
		}
	}
	return errs
}

// checkTimes finds durations that can't work, alone or together.
func (c *Config) checkTimes() (errs []*configError) {
	add := func(name string, f field, msg, hint string) {
		errs = append(errs, wrong(name, f, msg, hint))
	}
	checks := map[string]*duration{
		"READY_INTERVAL": &c.ReadyInterval,
		"READY_TIMEOUT":  &c.ReadyTimeout,
		"LIVE_INTERVAL":  &c.LiveInterval,
		"LIVE_TIMEOUT":   &c.LiveTimeout,
	}
	for name, d := range checks {
		if d.Duration < 10*time.Millisecond {
			add(name, d, "too short", "write 10ms or more, 1s for one")
		}
	}
	if c.Watchdog.Duration != 0 && c.Watchdog.Duration < 100*time.Millisecond {
		add("WATCHDOG", &c.Watchdog, "too short", "write 100ms or more, or 0 for none")
	}
	if c.GracePeriod.Duration < time.Second {
		add("GRACE_PERIOD", &c.GracePeriod,
			"too short to stop anything in", "write 1s or more; copy terminationGracePeriodSeconds")
		return errs
	}
	if sum := c.sum(); sum > c.GracePeriod.Duration {
		add("GRACE_PERIOD", &c.GracePeriod,
			fmt.Sprintf("DRAIN_WINDOW %s + STOP_RESERVE %s + KILL_MARGIN %s = %s does not fit into it",
				c.DrainWindow, c.StopReserve, c.KillMargin, sum),
			c.suggestBudget())
	}
	if d := c.UnreadyDelay.Duration; d > 0 && d >= c.DrainWindow.Duration {
		add("UNREADY_DELAY", &c.UnreadyDelay,
			fmt.Sprintf("ends no sooner than the DRAIN_WINDOW of %s, so no probe would see a 503",
				c.DrainWindow),
			fmt.Sprintf("write less than %s, or raise DRAINIT_DRAIN_WINDOW", c.DrainWindow))
	}
	return errs
}

// sum returns what has to fit into the budget.
func (c *Config) sum() time.Duration {
	return c.DrainWindow.Duration + c.StopReserve.Duration + c.KillMargin.Duration
}

// suggestBudget names sums that would work, in whole seconds.
func (c *Config) suggestBudget() string {
	// Defaults grow with the budget, up to a few seconds: look for one that
	// fits.
	larger := *c
	larger.GracePeriod.given = true
	larger.GracePeriod.Duration = c.GracePeriod.Duration.Truncate(time.Second)
	for larger.sum() > larger.GracePeriod.Duration {
		larger.GracePeriod.Duration = max(
			larger.sum().Truncate(time.Second), larger.GracePeriod.Duration+time.Second)
		larger.derive()
	}
	runtime := "docker stop -t, stop_grace_period"
	if kubernetes() {
		runtime = "terminationGracePeriodSeconds"
	}
	hint := fmt.Sprintf("set DRAINIT_GRACE_PERIOD (and %s) to %s", runtime, larger.GracePeriod.Duration)
	for _, d := range []struct {
		name string
		duration
	}{
		{"DRAIN_WINDOW", c.DrainWindow},
		{"STOP_RESERVE", c.StopReserve},
		{"KILL_MARGIN", c.KillMargin},
	} {
		others := c.sum() - d.Duration
		if rest := (c.GracePeriod.Duration - others).Truncate(time.Second); rest > 0 {
			hint += fmt.Sprintf(", or DRAINIT_%s to at most %s", d.name, rest)
		}
	}
	return hint
}

// bypassed returns the policy of a plain init: it forwards the stop signal at
// once, kills nothing, and ends with the child. What the configuration says of
// signals and codes stays.
func bypassed(p supervisor.Policy) supervisor.Policy {
	p.Timeline = supervisor.Timeline{Grace: maxDuration, OrphanGraceSet: true}
	p.Until = sockets.Window
	p.DrainSignal = 0
	p.NotifyReady = false
	p.Watchdog = 0
	return p
}

// policy returns what the configuration says about a run.
func (c *Config) policy() supervisor.Policy {
	if c.Bypass.on {
		return bypassed(c.configured())
	}
	return c.configured()
}

// configured returns the policy without a bypass.
func (c *Config) configured() supervisor.Policy {
	return supervisor.Policy{
		Timeline: supervisor.Timeline{
			Grace:          c.GracePeriod.Duration,
			Window:         c.DrainWindow.Duration,
			Reserve:        c.StopReserve.Duration,
			Margin:         c.KillMargin.Duration,
			UnreadyDelay:   c.UnreadyDelay.Duration,
			OrphanGrace:    c.OrphanGrace.Duration,
			OrphanGraceSet: c.OrphanGrace.given,
		},
		Until:       c.DrainUntil.value,
		WindowSet:   c.DrainWindow.given,
		StopOn:      c.StopOn.signals,
		StopSignal:  c.StopSignal.signal,
		DrainSignal: c.DrainSignal.signal,
		Group:       c.SignalScope.group,
		SignalMap:   c.SignalMap.signals,
		ExitCodes:   c.ExitCodes.codes,
		NotifyReady: c.ReadyCheck.kind == checkNotify,
		Watchdog:    c.Watchdog.Duration,
	}
}

// effective returns the configuration with every default filled in, for people.
func (c *Config) effective() map[string]string {
	all := make(map[string]string)
	for _, v := range c.variables() {
		all[v.name] = v.text()
	}
	return all
}
