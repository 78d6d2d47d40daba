package supervisor

import "testing"

// TestNext is the state machine as a table: a row for each phase, a column for
// each event.
func TestNext(t *testing.T) {
	events := [...]string{"becameReady", "becameUnready", "stopAsked", "forwardDue", "childExited", "killDue"}
	table := map[Phase][len(events)]Phase{
		Starting: {Ready, Unready, Draining, Stopping, Stopping, Killing},
		Ready:    {Ready, Unready, Draining, Stopping, Stopping, Killing},
		Unready:  {Ready, Unready, Draining, Stopping, Stopping, Killing},
		Draining: {Draining, Draining, Draining, Stopping, Stopping, Killing},
		Stopping: {Stopping, Stopping, Stopping, Stopping, Stopping, Killing},
		Killing:  {Killing, Killing, Killing, Killing, Killing, Killing},
	}
	if len(table) != len(Phases) || int(killDue)+1 != len(events) {
		t.Fatalf("the table has %d phases and %d events, want %d and %d", len(table), len(events), len(Phases), killDue+1)
	}
	for _, p := range Phases {
		for e, want := range table[p] {
			t.Run(p.String()+" "+events[e], func(t *testing.T) {
				if got := p.next(event(e)); got != want {
					t.Errorf("next is %s, want %s", got, want)
				}
			})
		}
	}
}

func TestPhasesAreNamedAsInTheContract(t *testing.T) {
	want := []string{"starting", "ready", "unready", "draining", "stopping", "killing"}
	for i, p := range Phases {
		if int(p) != i || p.String() != want[i] {
			t.Errorf("phase %d is %d, %q; want %q", i, p, p, want[i])
		}
	}
}
