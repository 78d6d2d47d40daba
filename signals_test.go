package main

import (
	"os"
	"os/signal"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pendingOf returns one with slots for signals, and no connection to real ones.
func pendingOf(signals ...unix.Signal) *pending {
	p := &pending{bell: make(chan os.Signal, 1)}
	for _, s := range signals {
		p.slots = append(p.slots, slot{s, make(chan os.Signal, 1)})
	}
	return p
}

// raise does what package os/signal does with a signal that comes.
func (p *pending) raise(s unix.Signal) {
	for _, c := range append([]chan os.Signal{p.bell}, p.slots[slices.IndexFunc(p.slots, func(o slot) bool { return o.signal == s })].came) {
		select {
		case c <- s:
		default:
		}
	}
}

func TestPendingSignals(t *testing.T) {
	all := []unix.Signal{unix.SIGUSR1, unix.SIGTERM, unix.SIGUSR2, unix.SIGCHLD}
	for _, c := range []struct {
		name     string
		came     []unix.Signal
		want     []unix.Signal
		children int
	}{
		{"one", []unix.Signal{unix.SIGTERM}, []unix.Signal{unix.SIGTERM}, 0},
		{"in the order of the list", []unix.Signal{unix.SIGUSR2, unix.SIGTERM}, []unix.Signal{unix.SIGTERM, unix.SIGUSR2}, 0},
		{"equal ones merge", slices.Repeat([]unix.Signal{unix.SIGTERM}, 3), []unix.Signal{unix.SIGTERM}, 0},
		{"a storm pushes no other out",
			slices.Concat(slices.Repeat([]unix.Signal{unix.SIGUSR1}, 1000), []unix.Signal{unix.SIGTERM}, slices.Repeat([]unix.Signal{unix.SIGUSR1}, 1000)),
			[]unix.Signal{unix.SIGUSR1, unix.SIGTERM}, 0},
		{"children apart", []unix.Signal{unix.SIGCHLD, unix.SIGUSR1, unix.SIGCHLD}, []unix.Signal{unix.SIGUSR1}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := pendingOf(all...)
			for _, s := range c.came {
				p.raise(s)
			}
			signals, children := make(chan unix.Signal, len(all)), make(chan struct{}, 1)
			p.deliver(signals, children)
			close(signals)
			var got []unix.Signal
			for s := range signals {
				got = append(got, s)
			}
			if !slices.Equal(got, c.want) || len(children) != c.children {
				t.Errorf("delivered %v and %d for children, want %v and %d", got, len(children), c.want, c.children)
			}
		})
	}
}

func TestASignalIsDeliveredWithoutAllocating(t *testing.T) {
	signals, _ := notifySignals()
	defer signal.Reset()
	each := func() {
		unix.Kill(os.Getpid(), unix.SIGUSR1)
		select {
		case s := <-signals:
			if s != unix.SIGUSR1 {
				t.Errorf("signal %v, want SIGUSR1", s)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("no signal within 20 s")
		}
	}
	// time.After takes three.
	if n := testing.AllocsPerRun(200, each); n > 3 {
		t.Errorf("%v allocations a signal, want none besides the test's 3", n)
	}
}
