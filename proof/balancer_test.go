package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestReplicaIsGoneUntilHeardOf: what a balancer is told late is told before the
// replica may start again. Otherwise it would be taken out when it is back.
func TestReplicaIsGoneUntilHeardOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := plan{"follow", 2 * time.Second}.build(backends{ips: []string{"a", "b", "c"}}).(*follow)
		began := time.Now()
		<-f.stopping(t.Context(), 1)
		if took := time.Since(began); took != 2*time.Second || !f.out[1] {
			t.Errorf("heard after %v, out: %v", took, f.out[1])
		}
	})
}

// TestChecksHearNothing: a balancer that is told nothing has nothing to be
// waited for.
func TestChecksHearNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := plan{name: "haproxy-checks"}.build(backends{ips: []string{"a"}})
		began := time.Now()
		<-h.stopping(t.Context(), 0)
		if took := time.Since(began); took != 0 {
			t.Errorf("waited for %v", took)
		}
	})
}
