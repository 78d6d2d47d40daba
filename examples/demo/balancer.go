//go:build linux

package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// balancer sends requests to its targets in turn. Like a load balancer it polls
// a target's readiness, and whether it is to be stopped. A change takes effect
// some time later: controllers, kube-proxies and caches stand between a probe
// and the routing of a request.
type balancer struct {
	poll, lag time.Duration
	changed   func(t *target, in bool)

	mu      sync.Mutex
	targets []*target
	turn    int
}

// target is one address that requests may be sent to.
type target struct {
	name  string
	addr  string // of the server
	probe string // host:port/path of its readiness
	// It is to be stopped: that is announced too, as the deletion of a pod is.
	stopping atomic.Bool

	in    bool      // whether it receives requests
	asked time.Time // when the probe that decided so was sent
	idle  []*conn   // keep-alive connections for the next requests
}

// watch polls t's readiness until ctx ends. t receives requests from the start.
func (b *balancer) watch(ctx context.Context, t *target) {
	tick := time.NewTicker(b.poll)
	defer tick.Stop()
	for {
		asked := time.Now()
		ready := !t.stopping.Load() && probe(ctx, t.probe) == nil
		time.AfterFunc(b.lag, func() { b.apply(t, ready, asked) })
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (b *balancer) apply(t *target, in bool, asked time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.asked = asked; t.in == in {
		return
	}
	t.in = in
	for _, c := range t.idle {
		c.Close()
	}
	t.idle = nil
	b.changed(t, in)
}

// next returns the target whose turn it is, or nil if none receives requests.
func (b *balancer) next() *target {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.targets {
		b.turn = (b.turn + 1) % len(b.targets)
		if t := b.targets[b.turn]; t.in {
			return t
		}
	}
	return nil
}

// settle waits until t receives requests because of a probe sent from now on.
func (b *balancer) settle(ctx context.Context, t *target) {
	for since := time.Now(); ctx.Err() == nil; pause(ctx, 10*time.Millisecond) {
		b.mu.Lock()
		done := t.in && t.asked.After(since)
		b.mu.Unlock()
		if done {
			return
		}
	}
}

// take returns an idle connection to t, or nil if none is still open.
func (b *balancer) take(t *target) *conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(t.idle) > 0 {
		c := t.idle[len(t.idle)-1]
		t.idle = t.idle[:len(t.idle)-1]
		if c.alive() {
			return c
		}
		c.Close()
	}
	return nil
}

// keep stores c for a later request to t.
func (b *balancer) keep(t *target, c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !t.in {
		c.Close()
		return
	}
	t.idle = append(t.idle, c)
}
