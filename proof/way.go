package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// way is a way to stop a server: what runs in front of it, and what comes
// before the signal.
type way struct {
	name   string
	init   []string
	sleep  time.Duration // between the begin of a stop and the signal, as preStop has it
	until  string        // DRAINIT_DRAIN_UNTIL, if drainit is the init
	longer time.Duration // the budget, if it is not the usual one
	colour string        // in the pictures
}

const recommended = "drainit" // with the value that the README recommends

var ways = []way{
	{name: "none"},
	{name: "tini", init: []string{"/usr/bin/tini", "--"}},
	{name: "dumb-init", init: []string{"/usr/bin/dumb-init", "--"}},
	{name: "catatonit", init: []string{"/usr/bin/catatonit", "--"}},
	{name: "sleep 5", init: []string{"/usr/bin/tini", "--"}, sleep: 5 * time.Second},
	{name: "sleep 15", init: []string{"/usr/bin/tini", "--"}, sleep: 15 * time.Second},
	{name: "sleep 25", init: []string{"/usr/bin/tini", "--"}, sleep: 25 * time.Second},
	{name: "drainit window", init: drainitInit, until: "window"},
	{name: "drainit quiet", init: drainitInit, until: "quiet"},
	{name: "drainit idle", init: drainitInit, until: "idle"},
	{name: "drainit idle, 60 s", init: drainitInit, until: "idle", longer: time.Minute},
	{name: "drainit closed", init: drainitInit, until: "closed"},
}

var drainitInit = []string{"/drainit", "--"}

func wayNamed(name string) way {
	i := slices.IndexFunc(ways, func(w way) bool { return w.name == name })
	if i < 0 {
		panic("no way " + name)
	}
	return ways[i]
}

func (w way) drains() bool { return w.until != "" }

// usualBudget is that of a stop, as Kubernetes gives by default.
const usualBudget = 30 * time.Second

// budget is the time of a stop: SIGKILL comes then.
func (w way) budget() time.Duration { return cmp.Or(w.longer, usualBudget) }

// spec is what a container has to run for this way to stop s.
func (w way) spec(s server) spec {
	c := spec{argv: append(slices.Clone(w.init), s.argv...), env: slices.Clone(s.env), user: s.user, mount: s.mount}
	if !w.drains() {
		return c
	}
	c.env = append(c.env, fmt.Sprintf("DRAINIT_GRACE_PERIOD=%s", w.budget()), "DRAINIT_DRAIN_UNTIL="+w.until)
	if s.signal != "SIGTERM" {
		c.env = append(c.env, "DRAINIT_STOP_SIGNAL="+s.signal, "DRAINIT_STOP_ON=SIGTERM,SIGINT,"+s.signal)
	}
	for _, e := range s.drainit {
		name, _, _ := strings.Cut(e, "=")
		c.env = slices.DeleteFunc(c.env, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
		c.env = append(c.env, e)
	}
	return c
}
