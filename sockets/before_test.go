package sockets

import (
	"slices"
	"strconv"
	"testing"
	"time"
)

// On DRAIN_SIGNAL, which follows at once, the child may close its listeners.
// What Watch knows of its ports it knows when it returns.
func TestWatchKnowsThePortsBeforeTheChildClosesThem(t *testing.T) {
	port, err := strconv.ParseUint(start(t, "listen", 0), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	c := New(Options{})
	done := make(chan struct{})
	defer close(done)
	c.Watch(done, Idle)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.ports, uint16(port)) {
		t.Errorf("the ports are %v, want %d among them", c.ports, port)
	}
}

func TestABugInCountingEndsTheWatchAlone(t *testing.T) {
	c := New(Options{})
	verdicts := c.Watch(make(chan struct{}), Idle)
	c.mu.Lock()
	c.openNetlink = func() (*netlink, error) { panic("a bug in a look") }
	c.opens = func([]byte) (uint64, []byte, error) { panic("a bug in a look") }
	c.mu.Unlock()
	for deadline := time.After(30 * time.Second); ; {
		select {
		case _, ok := <-verdicts:
			if !ok {
				return // the caller takes that for blind: the window decides
			}
		case <-deadline:
			t.Fatal("the watch goes on")
		}
	}
}
