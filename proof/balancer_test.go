package main

import (
	"os"
	"strings"
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

// TestNoPoolWhereServersClose: nginx may send a request on a connection from its
// pool that the server is about to close. Without any restart PHP-FPM lost 3 of
// 550 requests so.
func TestNoPoolWhereServersClose(t *testing.T) {
	for _, fcgi := range []bool{false, true} {
		n := plan{name: "nginx"}.build(backends{ips: []string{"127.0.0.1"}, port: 9000, fcgi: fcgi, dir: t.TempDir()}).(*nginx)
		if err := n.write(); err != nil {
			t.Fatal(err)
		}
		config, err := os.ReadFile(n.config())
		if err != nil {
			t.Fatal(err)
		}
		if pools := strings.Contains(string(config), "keepalive "); pools == fcgi {
			t.Errorf("FastCGI is %v, pools is %v:\n%s", fcgi, pools, config)
		}
	}
}
