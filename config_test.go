package main

import (
	"maps"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drainit/drainit/internal/catch"
	"golang.org/x/sys/unix"
)

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]unix.Signal{
		"SIGTERM": 15, "TERM": 15, "term": 15, "sigTerm": 15, " QUIT ": 3, "15": 15, "1": 1, "64": 64,
		"RTMIN": 34, "SIGRTMIN": 34, "SIGRTMIN+0": 34, "SIGRTMIN+3": 37, "SIGRTMAX": 64, "RTMAX-1": 63, "SIGRTMIN+30": 64,
		// None:
		"": 0, "0": 0, "65": 0, "-1": 0, "SIG": 0, "SIGSIGTERM": 0, "SIG15": 0, "FOO": 0, "SIGRTMIN-1": 0, "SIGRTMAX+1": 0, "SIGRTMIN3": 0,
		"SIGRTMIN+31": 0, "SIGRTMIN+x": 0, "TERM KILL": 0,
	} {
		got, ok := parseSignal(s)
		if ok != (want != 0) || ok && got != want {
			t.Errorf("%q is %d, %t; want %d", s, got, ok, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"DRAINIT_DRAIN_UNTIL", "DRAINIT_DRAIN_WINDOW", "DRAINIT_GRACE_PERIOD", "DRAINIT_PORTS",
		"DRAINIT_READY_TIMEOUT", "DRAINIT_LIVE_TIMEOUT"}
	for name, want := range map[string]string{
		"DRAINIT_DRAIN_UNTL": "DRAINIT_DRAIN_UNTIL", "DRAINIT_WINDOW": "DRAINIT_DRAIN_WINDOW", "drainit_ports": "DRAINIT_PORTS",
		"DRAINIT_GRACE": "DRAINIT_GRACE_PERIOD", "DRAINIT_GRACEPERIOD": "DRAINIT_GRACE_PERIOD",
		"DRAINIT_TIMEOUT": "DRAINIT_READY_TIMEOUT DRAINIT_LIVE_TIMEOUT",
		"DRAINIT_":        "", "DRAINIT_D": "", "DRAINIT_XYZ": "",
	} {
		if got := strings.Join(nearest(known, name), " "); got != want {
			t.Errorf("nearest to %s is %s, want %s", name, got, want)
		}
	}
}

// TestDefaultsReplaceWhatIsWrong has values that can't be decoded, and signals
// that can and are of no use: STOP_SIGNAL=STOP would freeze a bypassed child.
func TestDefaultsReplaceWhatIsWrong(t *testing.T) {
	clearEnv(t)
	want, err := load()
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"STOP_ON": "KILL", "STOP_SIGNAL": "STOP", "SIGNAL_MAP": "KILL=HUP",
		"EXIT_CODES": "1=2,x", "LOG_LEVEL": "loud", "HEALTH_ADDR": "8099x"} {
		t.Setenv(prefix+"_"+name, value)
	}
	got, err := load()
	if err == nil {
		t.Fatal("no error")
	}
	got.useDefaults()
	if got, want := got.effective(), want.effective(); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if g, w := got.configured(), want.configured(); !reflect.DeepEqual(g, w) {
		t.Errorf("got %+v, want %+v", g, w)
	}
}

// TestUnprefixedVariablesAreTheServers guards against envconfig's fallback to
// them, for a field with a tag, if it is given a prefix.
func TestUnprefixedVariablesAreTheServers(t *testing.T) {
	clearEnv(t)
	for _, v := range new(Config).variables() {
		t.Setenv(strings.TrimPrefix(v.name, prefix+"_"), "nonsense")
	}
	if _, err := load(); err != nil {
		t.Error(err)
	}
}

// FuzzConfig checks that every environment gives an error with hints, or a
// configuration that works.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		"GRACE_PERIOD=30s", "GRACE_PERIOD=6\nDRAIN_WINDOW=1\nUNREADY_DELAY=900ms", "DRAIN_WINDOW=25", "STOP_ON=TERM,QUIT,37\nSTOP_SIGNAL=WINCH",
		"SIGNAL_MAP=HUP=USR1,USR2=ignore\nEXIT_CODES=143=0", "READY_CHECK=http://[::1]:80/x?y#z", "READY_CHECK=tcp://h:80", "PORTS=80,443",
		"HEALTH_ADDR=[::]:80", "HEALTH_ADDR=off", "WATCHDOG=1s", "DRAIN_UNTL=idle", "PORT=tcp://10.0.0.1:80", "LOG_LEVEL=debug\nLOG_FORMAT=json",
		"GRACE_PERIOD=99999999999999999999", "STOP_RESERVE=8760h", "GRACE_PERIOD=1e9s", "TERMINATION_LOG=off", "ORPHAN_GRACE=0",
		"GRACE_PERIOD=\nPORTS=", "STOP_ON=,", "SIGNAL_MAP==", "EXIT_CODES==,=", "READY_CHECK=http://%zz", "READY_INTERVAL=9ms",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		clearEnv(t)
		for line := range strings.SplitSeq(lines, "\n") {
			name, value, _ := strings.Cut(line, "=")
			if name = prefix + "_" + name; os.Setenv(name, value) == nil {
				defer os.Unsetenv(name)
			}
		}
		c, err := load()
		if err != nil {
			checkHints(t, err)
			return
		}
		checkWorks(t, &c)
	})
}

func checkHints(t *testing.T, err error) {
	t.Helper()
	all := strings.Split(err.Error(), "\n")
	for i, l := range all {
		if i%2 == 0 && !strings.HasPrefix(strings.ToUpper(l), prefix+"_") || i%2 == 1 && !strings.HasPrefix(l, "hint: ") || len(l) < 10 {
			t.Fatalf("line %d of an error is %q:\n%v", i, l, err)
		}
	}
	if len(all)%2 != 0 {
		t.Fatalf("a problem without its hint:\n%v", err)
	}
}

func checkWorks(t *testing.T, c *Config) {
	t.Helper()
	policy := c.policy()
	line := policy.Timeline
	for name, d := range map[string]time.Duration{"grace": line.Grace, "window": line.Window, "reserve": line.Reserve, "margin": line.Margin,
		"unready delay": line.UnreadyDelay, "orphan grace": line.OrphanGrace, "watchdog": c.Watchdog.Duration} {
		if d < 0 || d > maxDuration {
			t.Errorf("%s is %s", name, d)
		}
	}
	if line.Grace < time.Second || line.Window > line.ForwardAfter() || line.ForwardAfter() > line.KillAfter() || line.KillAfter() > line.Grace {
		t.Errorf("the timeline is not in order: %+v, forward by %s, kill at %s", line, line.ForwardAfter(), line.KillAfter())
	}
	if line.UnreadyDelay > 0 && line.UnreadyDelay >= line.Window {
		t.Errorf("not ready after %s in a window of %s", line.UnreadyDelay, line.Window)
	}
	if len(c.StopOn.signals) == 0 {
		t.Error("no signal begins a stop")
	}
	for _, s := range c.StopOn.signals {
		_, mapped := c.SignalMap.signals[s]
		if s < 1 || s > 64 || !catch.Caught(s) || slices.Contains(control, s) || mapped {
			t.Errorf("%v begins a stop", s)
		}
	}
	for from, to := range c.SignalMap.signals {
		if from < 1 || from > 64 || to < 0 || to > 64 || slices.Contains(control, from) {
			t.Errorf("%v is mapped to %v", from, to)
		}
	}
	for from, to := range c.ExitCodes.codes {
		if from < 0 || from > 255 || to < 0 || to > 255 {
			t.Errorf("code %d is mapped to %d", from, to)
		}
	}
	if slices.Contains(c.Ports.ports, 0) {
		t.Errorf("ports %v", c.Ports.ports)
	}
	if c.ReadyInterval.Duration <= 0 || c.ReadyTimeout.Duration <= 0 {
		t.Errorf("ready every %s within %s", c.ReadyInterval, c.ReadyTimeout)
	}
	if _, _, err := net.SplitHostPort(c.HealthAddr.String()); err != nil || c.HealthAddr.off() != (c.HealthAddr.set == "off") {
		t.Errorf("health on %q: %v", c.HealthAddr.set, err)
	}
	if c.ReadyCheck.kind == checkTCP {
		if _, _, err := net.SplitHostPort(c.ReadyCheck.url.Host); err != nil {
			t.Errorf("ready when %q: %v", c.ReadyCheck.url, err)
		}
	}
	plan := strings.Join(c.plan(), "\n")
	if strings.Contains(plan, "%!") || len(strings.Split(plan, "\n")) < 3 {
		t.Errorf("the plan is %q", plan)
	}
	effective := c.effective()
	for _, v := range c.variables() {
		if value := effective[v.name]; value != v.text() || value == "" && os.Getenv(v.name) != "" {
			t.Errorf("%s is %q in force, %q was set", v.name, value, os.Getenv(v.name))
		}
	}
}
