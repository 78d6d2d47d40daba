// Package health serves the probes on the health port, and checks the child's
// own readiness.
//
// The supervisor's loop is the only writer of the answers: it sets them in a
// Gate, from which the Server reads. No request changes anything. The package
// knows neither the child nor the phases beyond their names.
package health

import "sync/atomic"

// Answer is what the probes answer, all of it true of one instant.
type Answer struct {
	Ready    bool   // /readyz
	Started  bool   // /startupz: the child has been ready once
	Reason   string // one line: the phase, and why it is not ready
	NotAlive string // one line: why /livez fails; empty while alive
}

// Gate holds the current Answer. The zero value is not ready, not started and
// alive. It is safe for concurrent use.
type Gate struct{ answer atomic.Pointer[Answer] }

// Set replaces the answer.
func (g *Gate) Set(a Answer) { g.answer.Store(&a) }

// Get returns the answer that was last set.
func (g *Gate) Get() Answer {
	if a := g.answer.Load(); a != nil {
		return *a
	}
	return Answer{Reason: "starting"}
}
