package health

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Status is everything drainit knows at one instant: the body of /statusz and
// the source of /metrics. The supervisor's loop, which owns the facts, builds
// it for each request. It never contains the child's environment.
type Status struct {
	Phase    string    `json:"phase"`
	Since    time.Time `json:"since"` // when the phase began
	PID      int       `json:"pid"`   // drainit's own, in its PID namespace
	ChildPID int       `json:"child_pid"`
	Started  time.Time `json:"child_started"`
	Uptime   float64   `json:"uptime_seconds"`

	Ready   bool   `json:"ready"`
	Reason  string `json:"reason,omitempty"`    // why it is not ready
	Drained bool   `json:"drained_by_operator"` // by `drainit drain`, without a stop
	Text    string `json:"status,omitempty"`    // the child's last STATUS=
	Alive   bool   `json:"alive"`

	Stop    *Stop    `json:"stop,omitempty"`    // from t0 on
	Clients *Clients `json:"clients,omitempty"` // from t0 on, if they are counted

	Signals map[string]Count   `json:"signals"`
	Reaped  uint64             `json:"processes_reaped"` // including the child
	Notify  *Notify            `json:"notify,omitempty"`
	Phases  map[string]float64 `json:"phase_seconds"` // in each phase so far
	Dropped uint64             `json:"log_lines_dropped"`
	Config  map[string]string  `json:"config"`

	// Order lists the names of all phases, for drainit_phase.
	Order []string `json:"-"`
}

// Stop is a stop in progress. Its instants are for people. A program uses the
// seconds, which come from the monotonic clock: a step of the wall clock must
// not end a wait.
type Stop struct {
	T0         time.Time  `json:"t0"`
	AskedBy    string     `json:"asked_by"`
	ForwardBy  time.Time  `json:"forward_by"`
	KillAt     time.Time  `json:"kill_at"`
	MayForward bool       `json:"may_forward"` // prestop may return
	Forwarded  *time.Time `json:"forwarded,omitempty"`
	Signal     string     `json:"signal"`          // to the child, sent or to be sent
	Error      string     `json:"error,omitempty"` // why it could not be sent
	Why        string     `json:"why,omitempty"`
	WaitingFor string     `json:"waiting_for,omitempty"`

	Elapsed   float64 `json:"elapsed_seconds"`    // since t0
	ForwardIn float64 `json:"forward_in_seconds"` // until forward_by, negative after it
	KillIn    float64 `json:"kill_in_seconds"`    // until kill_at, negative after it
}

// Clients counts the child's TCP connections, from the kernel's tables.
type Clients struct {
	Known     bool    `json:"known"`
	Open      int     `json:"connections"`
	InFlight  int     `json:"in_flight"` // those that certainly carry a request
	Suspected int     `json:"suspected"` // those that may carry one
	Queued    int     `json:"accept_queue"`
	Arrived   int     `json:"arrivals"`                     // connections since t0
	Requests  int     `json:"requests_on_kept_connections"` // since t0
	Rate      float64 `json:"arrivals_per_second"`          // before t0

	// Evidence is what holds the signal back, certain or ambiguous, by which
	// connection, and for how many seconds it may still do so (0: unknown).
	Evidence string  `json:"evidence,omitempty"`
	Why      string  `json:"why,omitempty"`
	Peer     string  `json:"peer,omitempty"`
	Port     uint16  `json:"port,omitempty"`
	Since    float64 `json:"since_seconds,omitempty"`
	HoldsFor float64 `json:"holds_for_seconds,omitempty"`

	// UDP and Unix are the child's sockets whose clients are not counted.
	UDP  []uint16 `json:"not_counted_udp,omitempty"`
	Unix []string `json:"not_counted_unix,omitempty"`

	// AtForward is nil until the stop signal is forwarded.
	AtForward *AtForward `json:"at_forward,omitempty"`
}

// AtForward counts the clients at the instant at which the stop signal was
// forwarded. All of them zero is a stop that lost none.
type AtForward struct {
	Known    bool `json:"known"` // false if counting had failed
	Open     int  `json:"connections"`
	InFlight int  `json:"in_flight"`
	Queued   int  `json:"accept_queue"`
	Arrived  int  `json:"arrivals"` // connections since t0
	// Quiet is the time since the last arrival, or since t0 without one.
	Quiet float64 `json:"seconds_since_last_arrival"`
}

// Count is how often a signal was received, and how often it was forwarded.
type Count struct {
	Seen      uint64 `json:"seen"`
	Forwarded uint64 `json:"forwarded"`
}

// Notify counts the rejected datagrams of the notify protocol.
type Notify struct {
	Malformed uint64 `json:"malformed"`
	Foreign   uint64 `json:"foreign"`
	Last      string `json:"last,omitempty"` // the sender and the error of the latest
}

// probeCount counts the answers with one code on one path.
type probeCount struct {
	path string
	code int
	n    uint64
}

// json returns s as the body of /statusz.
func (s Status) json() response {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.Encode(s)
	return response{200, "application/json", strings.TrimSuffix(b.String(), "\n")}
}

// metrics returns s in the Prometheus text format, version 0.0.4.
func (s Status) metrics(probes []probeCount) response {
	var b strings.Builder
	m := metricWriter{&b}
	m.head("drainit_phase", "gauge", "1 for the current phase of the container, 0 for the others.")
	for _, p := range s.Order {
		m.sample("drainit_phase", bit(p == s.Phase), "phase", p)
	}
	m.head("drainit_phase_seconds", "gauge", "Time spent in each phase so far, in seconds.")
	for _, p := range s.Order {
		m.sample("drainit_phase_seconds", s.Phases[p], "phase", p)
	}
	m.one("drainit_ready", "gauge", "Whether /readyz answers 200.", bit(s.Ready))
	m.one("drainit_alive", "gauge", "Whether /livez answers 200.", bit(s.Alive))
	m.one("drainit_child_start_time_seconds", "gauge",
		"When the child was started, in seconds since the epoch.", float64(s.Started.UnixMilli())/1000)
	m.one("drainit_processes_reaped_total", "counter",
		"Processes reaped, including the child.", float64(s.Reaped))
	m.one("drainit_log_lines_dropped_total", "counter",
		"Log lines dropped because stderr was blocked.", float64(s.Dropped))
	m.head("drainit_probes_total", "counter", "Requests answered on this port.")
	for _, p := range probes {
		m.sample("drainit_probes_total", float64(p.n), "path", p.path, "code", fmt.Sprint(p.code))
	}
	s.signalMetrics(m)
	if n := s.Notify; n != nil {
		m.head("drainit_notify_refused_total", "counter", "Notify datagrams that were rejected.")
		m.sample("drainit_notify_refused_total", float64(n.Malformed), "reason", "malformed")
		m.sample("drainit_notify_refused_total", float64(n.Foreign), "reason", "foreign")
	}
	s.Clients.metrics(m)
	return response{200, "text/plain; version=0.0.4; charset=utf-8", strings.TrimSuffix(b.String(), "\n")}
}

func (s Status) signalMetrics(m metricWriter) {
	names := slices.Sorted(maps.Keys(s.Signals))
	m.head("drainit_signals_received_total", "counter", "Signals received, by name.")
	for _, n := range names {
		m.sample("drainit_signals_received_total", float64(s.Signals[n].Seen), "signal", n)
	}
	m.head("drainit_signals_forwarded_total", "counter",
		"Signals forwarded to the child, by the name of the signal received.")
	for _, n := range names {
		m.sample("drainit_signals_forwarded_total", float64(s.Signals[n].Forwarded), "signal", n)
	}
}

func (c *Clients) metrics(m metricWriter) {
	if c == nil {
		return
	}
	if c.Known {
		m.one("drainit_client_connections", "gauge",
			"Open TCP connections to the child's ports.", float64(c.Open))
		m.one("drainit_client_requests_in_flight", "gauge",
			"Connections with a request that has not been answered.", float64(c.InFlight))
		m.one("drainit_client_accept_queue", "gauge",
			"Connections waiting to be accepted.", float64(c.Queued))
		m.one("drainit_client_arrivals_per_second", "gauge",
			"New connections per second before the stop began.", c.Rate)
	}
	if f := c.AtForward; f != nil && f.Known {
		m.one("drainit_forwarded_connections", "gauge",
			"Open connections when the stop signal was forwarded.", float64(f.Open))
		m.one("drainit_forwarded_requests_in_flight", "gauge",
			"Requests in flight when the stop signal was forwarded.", float64(f.InFlight))
		m.one("drainit_forwarded_accept_queue", "gauge",
			"Connections waiting to be accepted when the stop signal was forwarded.", float64(f.Queued))
		m.one("drainit_forwarded_arrivals", "gauge",
			"Connections that arrived from the beginning of the stop until its signal was forwarded.",
			float64(f.Arrived))
		m.one("drainit_forwarded_quiet_seconds", "gauge",
			"Time without a new connection before the stop signal was forwarded, in seconds.", f.Quiet)
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

// sample writes one line. labels are pairs of name and value; %q escapes the
// values used here as the format requires.
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

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
