package health

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Status is all that drainit knows at one instant: the body of /statusz and
// the source of /metrics. It is made anew for each request, by the loop that
// owns the facts; it never holds the child's environment.
type Status struct {
	Phase    string    `json:"phase"`
	Since    time.Time `json:"since"` // of the phase
	PID      int       `json:"pid"`   // drainit's own, in its PID namespace
	ChildPID int       `json:"child_pid"`
	Started  time.Time `json:"child_started"`
	Uptime   float64   `json:"uptime_seconds"`

	Ready   bool   `json:"ready"`
	Reason  string `json:"reason,omitempty"`    // why it is not ready
	Drained bool   `json:"drained_by_operator"` // drained by `drainit drain`, without a stop
	Text    string `json:"status,omitempty"`    // the child's last STATUS=
	Alive   bool   `json:"alive"`

	Stop    *Stop    `json:"stop,omitempty"`    // from t0 on
	Clients *Clients `json:"clients,omitempty"` // from t0 on, where they are counted

	Signals map[string]Count   `json:"signals"`
	Reaped  uint64             `json:"processes_reaped"` // orphans and the child
	Notify  *Notify            `json:"notify,omitempty"`
	Phases  map[string]float64 `json:"phase_seconds"` // spent in each so far
	Dropped uint64             `json:"log_lines_dropped"`
	Config  map[string]string  `json:"config"`

	// Order is every phase's name, for the state set.
	Order []string `json:"-"`
}

// Stop is a stop under way.
type Stop struct {
	T0         time.Time  `json:"t0"`
	AskedBy    string     `json:"asked_by"`
	ForwardBy  time.Time  `json:"forward_by"`
	KillAt     time.Time  `json:"kill_at"`
	MayForward bool       `json:"may_forward"` // prestop may return
	Forwarded  *time.Time `json:"forwarded,omitempty"`
	Signal     string     `json:"signal"` // what the child is or was sent
	Why        string     `json:"why,omitempty"`
	WaitingFor string     `json:"waiting_for,omitempty"`
}

// Clients is what the kernel's tables say of the child's TCP connections.
type Clients struct {
	Known    bool    `json:"known"`
	Open     int     `json:"connections"`
	InFlight int     `json:"in_flight"`
	Queued   int     `json:"accept_queue"`
	Rate     float64 `json:"arrivals_per_second"` // before t0
}

// Count is how often a signal came, and how often one was sent on for it.
type Count struct {
	Seen      uint64 `json:"seen"`
	Forwarded uint64 `json:"forwarded"`
}

// Notify counts the readiness protocol's datagrams that were not taken.
type Notify struct {
	Malformed uint64 `json:"malformed"`
	Foreign   uint64 `json:"foreign"`
	Last      string `json:"last,omitempty"` // whose the latest of them was, and what was wrong
}

// probeCount is how often one path was answered with one code.
type probeCount struct {
	path string
	code int
	n    uint64
}

// metrics writes s in the Prometheus text format, version 0.0.4.
func (s Status) metrics(w io.Writer, probes []probeCount) {
	m := metricWriter{w}
	m.head("drainit_phase", "gauge", "The phase the container is in: 1 for that one, 0 for the others.")
	for _, p := range s.Order {
		m.sample("drainit_phase", number(p == s.Phase), "phase", p)
	}
	m.head("drainit_phase_seconds", "gauge", "Time spent in each phase so far, in seconds.")
	for _, p := range s.Order {
		m.sample("drainit_phase_seconds", s.Phases[p], "phase", p)
	}
	m.one("drainit_ready", "gauge", "Whether /readyz answers 200.", number(s.Ready))
	m.one("drainit_alive", "gauge", "Whether /livez answers 200.", number(s.Alive))
	m.one("drainit_child_start_time_seconds", "gauge", "When the child was started, in seconds since the epoch.",
		float64(s.Started.UnixMilli())/1000)
	m.one("drainit_processes_reaped_total", "counter", "Exits collected, the child's own included.", float64(s.Reaped))
	m.one("drainit_log_lines_dropped_total", "counter", "Log lines that stderr did not take in time.", float64(s.Dropped))

	m.head("drainit_probes_total", "counter", "Requests answered on this port.")
	for _, p := range probes {
		m.sample("drainit_probes_total", float64(p.n), "path", p.path, "code", fmt.Sprint(p.code))
	}
	names := slices.Sorted(maps.Keys(s.Signals))
	m.head("drainit_signals_received_total", "counter", "Signals received, by name.")
	for _, n := range names {
		m.sample("drainit_signals_received_total", float64(s.Signals[n].Seen), "signal", n)
	}
	m.head("drainit_signals_forwarded_total", "counter", "Signals received that were sent on to the child, by the name they came under.")
	for _, n := range names {
		m.sample("drainit_signals_forwarded_total", float64(s.Signals[n].Forwarded), "signal", n)
	}
	if s.Notify != nil {
		m.head("drainit_notify_refused_total", "counter", "Notify datagrams that were not taken.")
		m.sample("drainit_notify_refused_total", float64(s.Notify.Malformed), "reason", "malformed")
		m.sample("drainit_notify_refused_total", float64(s.Notify.Foreign), "reason", "foreign")
	}
	if c := s.Clients; c != nil && c.Known {
		m.one("drainit_client_connections", "gauge", "Open TCP connections of the child's ports.", float64(c.Open))
		m.one("drainit_client_requests_in_flight", "gauge", "Connections with a request that is not answered yet.", float64(c.InFlight))
		m.one("drainit_client_accept_queue", "gauge", "Connections waiting to be accepted.", float64(c.Queued))
		m.one("drainit_client_arrivals_per_second", "gauge", "Connections that arrived per second before the stop began.", c.Rate)
	}
}

type metricWriter struct{ w io.Writer }

func (m metricWriter) head(name, kind, help string) {
	fmt.Fprintf(m.w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (m metricWriter) one(name, kind, help string, v float64) {
	m.head(name, kind, help)
	m.sample(name, v)
}

// sample writes one line; labels are name, value pairs, and %q escapes as the
// format wants for the words used here.
func (m metricWriter) sample(name string, v float64, labels ...string) {
	var pairs []string
	for i := 0; i+1 < len(labels); i += 2 {
		pairs = append(pairs, fmt.Sprintf("%s=%q", labels[i], labels[i+1]))
	}
	if len(pairs) > 0 {
		name += "{" + strings.Join(pairs, ",") + "}"
	}
	fmt.Fprintf(m.w, "%s %v\n", name, v)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
