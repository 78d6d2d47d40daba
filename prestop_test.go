package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/supervisor"
)

// TestPrestopAfterAStepOfTheClock: prestop waits by durations. Where the wall
// clock has been set forward, kill_at is in its past from the beginning.
func TestPrestopAfterAStepOfTheClock(t *testing.T) {
	for name, test := range map[string]struct {
		killIn float64
		after  int32 // looks until the signal may be forwarded
		want   int32 // looks at least
	}{
		"until the signal may be forwarded": {killIn: 3600, after: 4, want: 4},
		"no longer than until kill_at":      {killIn: 0.3, after: 1 << 30, want: 2},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan os.Signal, 1)
			signal.Notify(asked, supervisor.SigPrestop)
			defer signal.Stop(asked)
			var stop *health.Stop
			var looks atomic.Int32
			s, err := health.Listen(health.Options{
				Addr: "127.0.0.1:0", Gate: new(health.Gate),
				Status: func(context.Context) (health.Status, error) {
					select {
					case <-asked:
						stop = &health.Stop{KillAt: time.Now().Add(-time.Hour), KillIn: test.killIn}
					default:
					}
					if stop != nil {
						stop.MayForward = looks.Add(1) >= test.after
					}
					return health.Status{Phase: "draining", PID: os.Getpid(), Stop: stop}, nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			go s.Serve() // ends with Close
			defer s.Close()
			t.Setenv("DRAINIT_HEALTH_ADDR", fmt.Sprintf("127.0.0.1:%d", s.Port()))
			if code := prestop(nil); code != 0 {
				t.Errorf("code %d, want 0", code)
			}
			if n := looks.Load(); n < test.want {
				t.Errorf("prestop returned after %d looks, want at least %d", n, test.want)
			}
		})
	}
}
