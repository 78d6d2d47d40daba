package main

import (
	"strings"
	"testing"
	"time"

	"github.com/drainit/drainit/health"
)

func TestStatusIsOneScreen(t *testing.T) {
	at := time.Now()
	for _, c := range []struct {
		name string
		s    health.Status
		want []string
	}{
		{"ready", health.Status{Phase: "ready", PID: 1, ChildPID: 7, Ready: true, Uptime: 7205, Phases: map[string]float64{"ready": 7200}},
			[]string{"ready     for 2h0m0s; drainit is pid 1, the server pid 7, up 2h0m5s", "ready     yes"}},
		{"drained", health.Status{Phase: "unready", Reason: "unready: drained by an operator", Text: "busy"},
			[]string{"unready   for 0s", "ready     no: unready: drained by an operator", "server    busy"}},
		{"draining", health.Status{Phase: "draining", Reason: "draining: stop asked for by SIGTERM",
			Stop: &health.Stop{AskedBy: "SIGTERM", Signal: "SIGTERM", Elapsed: 3.21, ForwardIn: 14.79, KillIn: 24.79},
			Clients: &health.Clients{Known: true, Open: 12, InFlight: 1, Suspected: 3, Queued: 2, Arrived: 40, Requests: 5,
				Evidence: "certain", Why: "request", Peer: "10.0.0.3:4711", Port: 8080, Since: 12.3}},
			[]string{"stop      asked for by SIGTERM 3.2s ago; SIGTERM in 14.8s at the latest, SIGKILL in 24.8s",
				"clients   12 connected, 1 in flight, 3 perhaps in flight, 2 waiting to be accepted",
				"          40 connections and 5 requests on kept ones since the stop began",
				"held by   certain evidence: request, 10.0.0.3:4711 to port 8080, for 12.3s"}},
		{"ambiguous", health.Status{Phase: "draining", Stop: &health.Stop{MayForward: true, Signal: "SIGTERM"},
			Clients: &health.Clients{Known: true, Evidence: "ambiguous", HoldsFor: 4, UDP: []uint16{53}}},
			[]string{"drained: SIGTERM is forwarded as soon as it comes", "held by   ambiguous evidence; for 4s more at most", "not seen  clients of UDP [53], Unix []"}},
		{"stopping", health.Status{Phase: "stopping", Stop: &health.Stop{Forwarded: &at, Signal: "SIGQUIT", Why: "idle", KillIn: -1}, Clients: &health.Clients{}},
			[]string{"SIGQUIT forwarded (idle); SIGKILL in 0s", "clients   unknown"}},
		{"denied", health.Status{Phase: "stopping", Stop: &health.Stop{Error: "operation not permitted", MayForward: true, Signal: "SIGTERM", KillIn: 3}},
			[]string{"SIGTERM could not be sent: operation not permitted; SIGKILL in 3s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(statusLines(&c.s), "\n")
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in\n%s", want, got)
				}
			}
		})
	}
}
