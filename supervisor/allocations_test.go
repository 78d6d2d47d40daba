package supervisor

import (
	"log/slog"
	"testing"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/reaper"
	"golang.org/x/sys/unix"
)

// quiet is a System in which nothing happens but the exits it is given.
type quiet struct {
	System // what the test doesn't need
	exits  []reaper.Exit
}

func (q *quiet) PID() int                 { return 2 }
func (q *quiet) FirstPID() int            { return 2 }
func (q *quiet) Terminal() bool           { return false }
func (q *quiet) Signal(unix.Signal) error { return nil }
func (q *quiet) Reap(exits []reaper.Exit) ([]reaper.Exit, reaper.State) {
	return append(exits, q.exits...), reaper.Waiting
}

func TestAnEventDoesNotAllocate(t *testing.T) {
	system := &quiet{}
	signals, children := make(chan unix.Signal, 1), make(chan struct{}, 1)
	l := newLoop(Options{
		Policy: Policy{Timeline: budget, StopOn: []unix.Signal{unix.SIGTERM}},
		Inputs: Inputs{Signals: signals, Children: children},
		System: system, Gate: new(health.Gate), Log: slog.New(slog.DiscardHandler),
	})
	defer l.close()
	l.step() // looks once unasked
	for _, c := range []struct {
		name  string
		event func()
	}{
		{"a forwarded signal", func() { signals <- unix.SIGUSR1 }},
		{"a reaped process", func() {
			system.exits = append(system.exits[:0], reaper.Exit{PID: 77, Status: exitedWith(1)})
			children <- struct{}{}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := testing.AllocsPerRun(100, func() {
				c.event()
				l.step()
			})
			if n > 0 {
				t.Errorf("%v allocations, want none", n)
			}
		})
	}
	if got := l.counts[unix.SIGUSR1].Forwarded; got < 100 {
		t.Errorf("%d signals forwarded, want at least 100", got)
	}
	if l.reaped < 100 {
		t.Errorf("%d processes reaped, want at least 100", l.reaped)
	}
}
