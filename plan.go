package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/drainit/drainit/sockets"
	"github.com/drainit/drainit/supervisor"
	"golang.org/x/sys/unix"
)

// printPlan prints what the environment means, for people and for the CI of
// images.
func printPlan(args []string) int {
	if !noArguments("plan", args) {
		return codeError
	}
	c, err := load()
	if err != nil {
		return failUsage(err)
	}
	for _, l := range c.plan() {
		fmt.Println(l)
	}
	for _, hint := range unprefixed() {
		fmt.Fprintln(os.Stderr, "drainit: hint: "+hint)
	}
	return 0
}

// plan returns the timeline of a stop, one step a line, and what else there is
// to know.
func (c *Config) plan() []string {
	p := c.policy()
	if c.Bypass.on {
		return []string{
			"bypassed (DRAINIT_BYPASS): stop signals are forwarded at once, and nothing is killed",
			"ready as soon as the child is started",
			"exits with the child, whatever it leaves behind",
		}
	}
	first := p.StopOn[0]
	lines := []string{"on " + supervisor.SignalName(first)}
	for _, s := range c.steps(p, first) {
		lines = append(lines, fmt.Sprintf("%8s  %s", s.at, s.what))
	}
	for _, s := range p.StopOn[1:] {
		l := "on " + supervisor.SignalName(s) + "  the same"
		if sent := p.ForwardedAs(s); sent != p.ForwardedAs(first) {
			l += ", sending " + supervisor.SignalName(sent)
		}
		lines = append(lines, l)
	}
	return append(lines, c.remarks(p.Timeline)...)
}

// step is what happens at one time after the stop signal.
type step struct {
	at   time.Duration
	what string
}

// steps returns what a stop by the signal received does, and when.
func (c *Config) steps(p supervisor.Policy, received unix.Signal) (steps []step) {
	t := p.Timeline
	to := " to the child"
	if p.Group {
		to = " to the child's process group"
	}
	add := func(at time.Duration, what string) { steps = append(steps, step{at, what}) }
	if p.DrainSignal != 0 {
		add(0, supervisor.SignalName(p.DrainSignal)+to)
	}
	add(t.UnreadyDelay, "not ready (503), still serving")
	sent := supervisor.SignalName(p.ForwardedAs(received))
	if p.Until == sockets.Window || t.ForwardAfter() == t.Window {
		add(t.Window, sent+to)
	} else {
		add(t.Window, "earliest "+sent+to+", when "+conditions[p.Until])
		add(t.ForwardAfter(), "latest "+sent)
	}
	add(t.KillAfter(), "SIGKILL to every process that is left")
	return steps
}

// conditions are what each DRAIN_UNTIL waits for.
var conditions = map[sockets.Until]string{
	sockets.Quiet:  "no new connection or request arrives",
	sockets.Idle:   "no new connection or request arrives and none is in flight",
	sockets.Closed: "no new connection or request arrives and none is open, but for silent ones",
}

// budgetRemark says where the budget comes from, and what it must agree with.
func (c *Config) budgetRemark() string {
	switch budget := c.GracePeriod.Duration; {
	case c.GracePeriod.given:
		return fmt.Sprintf("the budget of %s must be the runtime's: "+
			"terminationGracePeriodSeconds, stop_grace_period, docker stop -t", budget)
	case kubernetes():
		return fmt.Sprintf("the budget of %s is the default in Kubernetes (KUBERNETES_SERVICE_HOST is set); "+
			"if terminationGracePeriodSeconds is not 30, set DRAINIT_GRACE_PERIOD too", budget)
	default:
		return fmt.Sprintf("the budget of %s is the default outside Kubernetes, where Docker, Podman and Compose "+
			"kill after 10s; with a longer stop_grace_period or docker stop -t, "+
			"set DRAINIT_GRACE_PERIOD too", budget)
	}
}

// budgetSource says where the budget comes from, in short.
func (c *Config) budgetSource() string {
	switch {
	case c.GracePeriod.given:
		return "DRAINIT_GRACE_PERIOD"
	case kubernetes():
		return "default in Kubernetes"
	}
	return "default outside Kubernetes"
}

// orphanRemark says how long processes have that outlive the child.
func orphanRemark(t supervisor.Timeline) string {
	if t.OrphanGraceSet {
		return fmt.Sprintf("processes that the child leaves behind get %s more, "+
			"and no longer than until SIGKILL", t.OrphanGrace)
	}
	return fmt.Sprintf("processes that the child leaves behind have until SIGKILL, "+
		"or %s if it ended by itself", t.OrphanGrace)
}

// remarks returns the rest of the plan, a line each.
func (c *Config) remarks(t supervisor.Timeline) []string {
	lines := []string{c.budgetRemark()}
	if c.HealthAddr.off() {
		lines = append(lines, "readiness is not served: DRAINIT_HEALTH_ADDR is off")
	} else {
		lines = append(lines, fmt.Sprintf("ready %s; reported at %s/readyz",
			c.ReadyCheck.condition(), c.HealthAddr))
	}
	if u := c.LiveCheck.url; u != nil {
		lines = append(lines, fmt.Sprintf("not alive (503 at /livez) once %s has not answered %d times in a row, "+
			"asked every %s, until a stop begins", u, c.LiveFailures.n, c.LiveInterval))
	}
	if t.OrphanGrace > 0 {
		lines = append(lines, orphanRemark(t))
	}
	return lines
}

// condition says when the child is ready.
func (c *readyCheck) condition() string {
	switch c.kind {
	case checkListen:
		return "when the child listens on a TCP port"
	case checkStarted:
		return "as soon as the child is started"
	case checkNotify:
		return "when the child sends READY=1"
	}
	return "while " + strings.TrimSpace(c.set) + " answers"
}
