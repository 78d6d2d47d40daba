package health

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatchLiveness: the instants at which a result is sent, with a check every
// 10 s. In checks, each character is the outcome of one check: + passes, x and
// y fail for different reasons.
func TestWatchLiveness(t *testing.T) {
	for _, c := range []struct {
		name     string
		failures int
		checks   string
		want     []string
	}{
		{"alive all the time", 3, "++++++", nil},
		{"fewer failures than the limit", 3, "++xx+xx+", nil},
		{"as many as the limit", 3, "+xxx", []string{"30s not alive: the liveness check failed 3 times in a row: x"}},
		{"and alive again", 3, "+xxx+", []string{"30s not alive: the liveness check failed 3 times in a row: x", "40s alive: +"}},
		{"again and again", 2, "+xx+xx+", []string{
			"20s not alive: the liveness check failed 2 times in a row: x", "30s alive: +",
			"50s not alive: the liveness check failed 2 times in a row: x", "1m0s alive: +"}},
		{"sent once", 2, "+xxxxxxxxx", []string{"20s not alive: the liveness check failed 2 times in a row: x"}},
		{"another reason", 2, "+xxyyx", []string{
			"20s not alive: the liveness check failed 2 times in a row: x",
			"30s not alive: the liveness check failed 2 times in a row: y",
			"50s not alive: the liveness check failed 2 times in a row: x"}},
		{"a limit of one", 1, "+x+", []string{"10s not alive: the liveness check failed once: x", "20s alive: +"}},
		{"a limit of zero is one", 0, "+x", []string{"10s not alive: the liveness check failed once: x"}},
		{"failures before the first pass do not count", 2, "xxxxxx+x", nil},
		{"and those after it do", 2, "xxxxxx+xx", []string{"1m20s not alive: the liveness check failed 2 times in a row: x"}},
		{"never alive", 1, "xxxxxxxxx", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const interval = 10 * time.Second
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(len(c.checks))*interval-1)
				defer cancel()
				check := func(context.Context) Result {
					outcome := c.checks[time.Since(began)/interval]
					return Result{OK: outcome == '+', Reason: string(outcome)}
				}
				out, ended := make(chan Result), make(chan struct{})
				go func() {
					defer close(ended)
					WatchLiveness(ctx, Liveness{check, interval, c.failures}, out)
				}()
				var got []string
				for done := false; !done; {
					select {
					case r := <-out:
						state := map[bool]string{true: "alive", false: "not alive"}[r.OK]
						got = append(got, fmt.Sprintf("%s %s: %s", time.Since(began), state, r.Reason))
					case <-ended:
						done = true
					}
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		})
	}
}

func TestWatchLivenessEndsWhileItsResultIsNotReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		passed := false
		check := func(context.Context) Result {
			defer func() { passed = true }()
			return Result{OK: !passed}
		}
		WatchLiveness(ctx, Liveness{check, time.Second, 1}, make(chan Result)) // or the bubble deadlocks
	})
}

// TestChecksEndWithTheirContext: at t0 a check of a server that hangs does not
// go on until its timeout.
func TestChecksEndWithTheirContext(t *testing.T) {
	asked := make(chan struct{})
	addr, _ := serve(t, func(c net.Conn) {
		c.Read(make([]byte, 4096))
		close(asked)
		c.Read(make([]byte, 1)) // until the client closes
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	u, _ := url.Parse("http://" + addr)
	if r := HTTP(u, time.Hour, "", func() {})(ctx); r.OK || !strings.Contains(r.Reason, "timeout") {
		t.Errorf("got %+v, want a failure", r)
	}
}
