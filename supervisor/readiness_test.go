package supervisor

import (
	"strings"
	"testing"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/notify"
)

func TestReadinessState(t *testing.T) {
	ok, bad := health.Result{OK: true, Reason: "it listens"}, health.Result{Reason: "it does not listen"}
	for _, c := range []struct {
		name  string
		r     readiness
		ready bool
		child bool
		why   string
	}{
		{"nothing is known yet", readiness{}, false, false, ""},
		{"the check passes", readiness{check: ok}, true, true, "it listens"},
		{"the check fails", readiness{check: bad}, false, false, "it does not listen"},
		{"the check passes where READY=1 decides", readiness{byNotify: true, check: ok}, false, false, "no READY=1"},
		{"READY=1 where it decides", readiness{byNotify: true, check: bad, notified: true}, true, true, "it does not listen"},
		{"READY=1 where the check decides", readiness{check: bad, notified: true}, false, false, "it does not listen"},
		{"an operator has drained it", readiness{check: ok, declinedByOperator: true}, false, true, "drainit undrain"},
		{"the child declines", readiness{check: ok, declined: "the child is reloading"}, false, true, "reloading"},
		{"the operator comes first", readiness{check: ok, declined: "the child is reloading", declinedByOperator: true}, false, true, "drainit undrain"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ready, why := c.r.state()
			if ready != c.ready || !strings.Contains(why, c.why) {
				t.Errorf("state is %v, %q; want %v, %q", ready, why, c.ready, c.why)
			}
			if got := c.r.childReady(); got != c.child {
				t.Errorf("childReady is %v, want %v", got, c.child)
			}
		})
	}
}

func TestReadinessUpdate(t *testing.T) {
	for _, c := range []struct {
		name     string
		messages []notify.Message
		notified bool
		declined string
	}{
		{"READY=1", []notify.Message{{Ready: true}}, true, ""},
		{"RELOADING=1", []notify.Message{{Ready: true}, {Reloading: true}}, true, "the child is reloading"},
		{"RELOADING=1, then READY=1", []notify.Message{{Reloading: true}, {Ready: true}}, true, ""},
		{"both in one message decline", []notify.Message{{Ready: true, Reloading: true}}, true, "the child is reloading"},
		{"STOPPING=1", []notify.Message{{Ready: true}, {Stopping: true}}, true, "the child is stopping"},
		{"a status alone", []notify.Message{{HasStatus: true, Status: "x"}}, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r readiness
			for _, m := range c.messages {
				r.update(m)
			}
			if r.notified != c.notified || r.declined != c.declined {
				t.Errorf("notified %v, declined %q; want %v, %q", r.notified, r.declined, c.notified, c.declined)
			}
		})
	}
}
