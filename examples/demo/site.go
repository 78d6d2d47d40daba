//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

// site is a pair of replicas with their balancer: one way to run the server.
type site struct {
	name, about string
	display     *display
	balancer    *balancer
	replicas    []*replica
	tally       tally
	took        time.Duration // both restarts
	watching    sync.WaitGroup
}

func newSite(name, about string, d *display) *site {
	return &site{name: name, about: about, display: d, tally: tally{failed: make(map[string]int)}}
}

func (s *site) say(format string, args ...any) { s.display.say(s.name, format, args...) }

// place assigns programs and ports to the replicas; it starts nothing.
func (s *site) place(dir string, o options) error {
	s.balancer = &balancer{poll: o.poll, lag: o.lag, changed: func(t *target, in bool) {
		s.say("%s: %s", t.name, map[bool]string{true: "the balancer sends requests again", false: "the balancer sends no more"}[in])
	}}
	for _, name := range []string{"a", "b"} {
		ports, err := freePorts(2)
		if err != nil {
			return err
		}
		addr := fmt.Sprintf("127.0.0.1:%d", ports[0])
		t, d := &target{name: name, addr: addr, probe: addr + "/healthz", in: true}, s.display
		r := &replica{target: t, log: func(line string) { d.log(s.name, name, line) }, argv: []string{filepath.Join(dir, "server"), "-addr", addr, "-start-delay", o.startDelay.String()}}
		switch s.name {
		case "sleep":
			r.sleep = o.sleep
		case "graceful":
			r.argv = append(r.argv, "-on-term", "graceful")
		case "drainit":
			health := fmt.Sprintf("127.0.0.1:%d", ports[1])
			t.probe = health + "/readyz"
			r.argv = append([]string{filepath.Join(dir, "drainit"), "--"}, r.argv...)
			r.env = drainitEnv(health, addr, ports[0], o)
		}
		s.balancer.targets = append(s.balancer.targets, t)
		s.replicas = append(s.replicas, r)
	}
	return nil
}

// drainitEnv returns the configuration of drainit. A container would need only
// DRAINIT_DRAIN_WINDOW: there the address is the default, and the only
// listening socket is the server's.
func drainitEnv(health, addr string, port int, o options) []string {
	const reserve, margin, spare = 2 * time.Second, time.Second, 5 * time.Second
	return []string{
		"DRAINIT_HEALTH_ADDR=" + health,
		"DRAINIT_READY_CHECK=http://" + addr + "/healthz",
		fmt.Sprintf("DRAINIT_PORTS=%d", port),
		"DRAINIT_DRAIN_WINDOW=" + o.window.String(),
		"DRAINIT_DRAIN_UNTIL=" + o.until,
		"DRAINIT_STOP_RESERVE=" + reserve.String(),
		"DRAINIT_KILL_MARGIN=" + margin.String(),
		"DRAINIT_GRACE_PERIOD=" + (o.window + reserve + margin + spare).String(),
	}
}

// up starts both replicas, and watches them once they are ready.
func (s *site) up(ctx context.Context) error {
	for _, r := range s.replicas {
		if err := r.start(); err != nil {
			return err
		}
	}
	for _, r := range s.replicas {
		if err := r.wait(ctx); err != nil {
			return err
		}
		s.watching.Go(func() { s.balancer.watch(ctx, r.target) })
	}
	return nil
}

// roll restarts the replicas one after the other, the second when the first
// receives its share of the requests again.
func (s *site) roll(ctx context.Context) error {
	began := time.Now()
	for i, r := range s.replicas {
		if err := r.restart(ctx, s.say); err != nil {
			return err
		}
		s.say("%s: ready", r.target.name)
		if i < len(s.replicas)-1 {
			s.balancer.settle(ctx, r.target)
		}
	}
	s.took = time.Since(began)
	s.say("done")
	return nil
}

// end stops everything that was started.
func (s *site) end() {
	var ended sync.WaitGroup
	for _, r := range s.replicas {
		ended.Go(r.end)
	}
	ended.Wait()
	s.watching.Wait()
}
