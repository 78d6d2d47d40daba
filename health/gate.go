// Package health answers the questions others ask about the container over
// HTTP: is it ready, is it alive, what is it doing.
//
// The supervisor's loop is the only writer of the answers and tells them
// through a Gate; nothing that comes in over HTTP changes anything. The
// package knows neither the child nor the phases beyond their names.
package health

import "sync/atomic"

// Answer is what the probes are told, all of it at one instant.
type Answer struct {
	Ready    bool   // /readyz
	Started  bool   // /startupz: the child has been ready once
	Reason   string // one line: the phase, and why it is not ready
	NotAlive string // /livez: one line why it fails; empty while alive
}

// Gate holds the current Answer. Its zero value is not ready, not started and
// alive. It may be read and written by any goroutine.
type Gate struct{ answer atomic.Pointer[Answer] }

// Set replaces the answer.
func (g *Gate) Set(a Answer) { g.answer.Store(&a) }

// Get returns the answer last set.
func (g *Gate) Get() Answer {
	if a := g.answer.Load(); a != nil {
		return *a
	}
	return Answer{Reason: "starting"}
}
