package health

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// deadline is for what should happen soon; no test passes only because
// something was quick.
const deadline = 30 * time.Second

// The columns of the contract's table, as the supervisor sets the gate in them.
var phases = map[string]Answer{
	"starting":                {Reason: "starting: no listening TCP socket yet"},
	"ready":                   {Ready: true, Started: true, Reason: "ready: listening on 80"},
	"unready":                 {Started: true, Reason: "unready: it does not answer"},
	"draining":                {Started: true, Reason: "draining: stop asked for by SIGTERM"},
	"draining, UNREADY_DELAY": {Ready: true, Started: true, Reason: "draining: stop asked for by SIGTERM"},
	"stopping":                {Started: true, Reason: "stopping: stop asked for by SIGTERM"},
	"watchdog missed":         {Ready: true, Started: true, Reason: "ready", NotAlive: "a watchdog was missed"},
}

func TestAnswers(t *testing.T) {
	const ok, no = http.StatusOK, http.StatusServiceUnavailable
	for state, want := range map[string][3]int{ // readyz, livez, startupz
		"starting":                {no, ok, no},
		"ready":                   {ok, ok, ok},
		"unready":                 {no, ok, ok},
		"draining":                {no, ok, ok},
		"draining, UNREADY_DELAY": {ok, ok, ok},
		"stopping":                {no, ok, ok},
		"watchdog missed":         {ok, no, ok},
	} {
		s := &Server{Options: Options{Gate: new(Gate)}}
		s.Gate.Set(phases[state])
		for path, code := range map[string]int{
			"/readyz": want[0], "/healthz": want[0], "/readiness": want[0], "/livez": want[1], "/startupz": want[2],
			"/statusz": ok, "/metrics": ok,
			"/readyz/": want[0], "/livez/": want[1], "/statusz/": ok,
			"/": 404, "/readyz//": 404, "/ready": 404, "/READYZ": 404, "//readyz": 404, "/debug/pprof/": 404,
		} {
			for method, code := range map[string]int{"GET": code, "HEAD": code, "POST": 405, "PUT": 405, "DELETE": 405, "OPTIONS": code, "BREW": 405} {
				t.Run(state+" "+method+" "+path, func(t *testing.T) {
					got, body := ask(t, s, method, path)
					if got.StatusCode != code {
						t.Errorf("code %d, want %d; %q", got.StatusCode, code, body)
					}
					if c := got.Header.Get("Cache-Control"); c != "no-store" {
						t.Errorf("Cache-Control %q, want no-store", c)
					}
					if allow := got.Header.Get("Allow"); (allow == "GET, HEAD, OPTIONS") != (code == 405) {
						t.Errorf("Allow is %q with %d", allow, code)
					}
					if method == "HEAD" {
						if len(body) > 0 {
							t.Errorf("a body to HEAD: %q", body)
						}
						return
					}
					path := strings.TrimSuffix(path, "/")
					if path == "/statusz" || path == "/metrics" {
						return
					}
					if strings.Count(body, "\n") != 1 || !strings.HasSuffix(body, "\n") || len(body) < 2 {
						t.Errorf("body %q, want one line", body)
					}
					why := phases[state].Reason
					if path == "/livez" {
						why = map[int]string{ok: "alive", no: "a watchdog was missed"}[code]
					}
					if (code == ok || code == no) && body != why+"\n" {
						t.Errorf("body %q, want %q: it says why", body, why)
					}
				})
			}
		}
	}
}

func TestAQueryChangesNothing(t *testing.T) {
	s := &Server{Options: Options{Gate: new(Gate)}}
	if got, _ := ask(t, s, "GET", "/readyz?ready=1"); got.StatusCode != 503 {
		t.Errorf("code %d, want 503", got.StatusCode)
	}
}

func TestZeroGateIsNotReadyAndAlive(t *testing.T) {
	got := new(Gate).Get()
	if got.Ready || got.Started || got.NotAlive != "" || got.Reason == "" {
		t.Errorf("got %+v", got)
	}
}

// listen serves on a port of this machine's choice.
func listen(t *testing.T) (*Server, string) {
	t.Helper()
	return listenAnd(t, nil)
}

// listenAnd also calls probed at each request.
func listenAnd(t *testing.T, probed func()) (*Server, string) {
	t.Helper()
	return listenWith(t, Options{Probed: probed})
}

// listenWith serves on a loopback port with o.
func listenWith(t *testing.T, o Options) (*Server, string) {
	t.Helper()
	o.Addr, o.Gate = "127.0.0.1:0", new(Gate)
	s, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		s.Close()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("Serve ended with %v, want nil", err)
			}
		case <-time.After(deadline):
			t.Error("Serve goes on after Close")
		}
	})
	return s, fmt.Sprintf("127.0.0.1:%d", s.Port())
}

func dialed(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(deadline))
	return c
}

// ask has s answer a request as net/http writes it, and returns the answer as
// net/http reads it.
func ask(t *testing.T, s *Server, method, path string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://drainit"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	var head bytes.Buffer
	if err := r.Write(&head); err != nil {
		t.Fatal(err)
	}
	q, answer := parseRequest(head.Bytes())
	if answer.code == 0 {
		answer = s.answer(q)
	}
	if answer.code == 0 {
		answer = s.report()(q)
	}
	got, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer.appendTo(nil, method == "HEAD"))), r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(got.Body)
	if err != nil {
		t.Error(err)
	}
	if !got.Close {
		t.Error("the answer does not say that the connection ends")
	}
	if _, err := http.ParseTime(got.Header.Get("Date")); err != nil {
		t.Error(err)
	}
	return got, string(body)
}

// say sends text and returns the answer's code, or 0 if there was none.
func say(t *testing.T, c net.Conn, text string) int {
	t.Helper()
	go io.WriteString(c, text) // may be cut off
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	io.Copy(io.Discard, answer.Body)
	return answer.StatusCode
}

const probe = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"

func TestListenerCountsAndAnswers(t *testing.T) {
	probes := make(chan struct{}, 100)
	s, addr := listenAnd(t, func() { probes <- struct{}{} })
	const n = 20
	for range n {
		c := dialed(t, addr)
		if code := say(t, c, probe); code != 200 {
			t.Errorf("code %d, want 200", code)
		}
		// One request each: an idle connection would hold a place.
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("after the answer: %v, want EOF", err)
		}
	}
	if got := s.Accepted(); got != n {
		t.Errorf("%d accepted, want %d", got, n)
	}
	if got := len(probes); got != n {
		t.Errorf("Probed was called %d times, want %d", got, n)
	}
}

// TestPanicsAreLogged: a bug costs one probe, and is logged with its stack.
func TestPanicsAreLogged(t *testing.T) {
	logged := make(logLines, 1)
	var calls atomic.Int64
	_, addr := listenWith(t, Options{
		Log: slog.New(slog.NewTextHandler(logged, nil)),
		Probed: func() {
			if calls.Add(1) == 1 {
				panic("a bug")
			}
		},
	})
	if code := say(t, dialed(t, addr), probe); code != 0 {
		t.Errorf("code %d, want none from a handler that panics", code)
	}
	if code := say(t, dialed(t, addr), probe); code != 200 {
		t.Errorf("the next probe: code %d, want 200", code)
	}
	line := <-logged
	for _, want := range []string{"a bug", "server_test.go", "in=health"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is missing in the log:\n%s", want, line)
		}
	}
}

// logLines receives each line written to it.
type logLines chan string

func (l logLines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

func TestAPortThatIsTaken(t *testing.T) {
	_, addr := listen(t)
	if s, err := Listen(Options{Addr: addr}); err == nil {
		s.Close()
		t.Errorf("%s could be bound twice", addr)
	}
}

var full = Status{
	Phase: "draining", PID: 1, ChildPID: 7, Started: time.Unix(1_700_000_000, 5e8), Uptime: 12.5, Ready: true, Alive: true,
	Reason: "draining", Text: `it says "hi"`, Order: []string{"starting", "ready", "draining"},
	Phases:  map[string]float64{"starting": 0.25, "ready": 1e7, "draining": 3},
	Signals: map[string]Count{"SIGTERM": {2, 1}, "SIGRTMIN+3": {1, 0}},
	Reaped:  20000, Dropped: 3, Notify: &Notify{4, 5, "pid 7: empty datagram"}, Clients: &Clients{Known: true, Open: 3, InFlight: 2, Queued: 1, Rate: 0.5,
		AtForward: &AtForward{Known: true, Open: 7, InFlight: 6, Queued: 5, Arrived: 4, Quiet: 0.25}},
	Stop:   &Stop{T0: time.Unix(1_700_000_010, 0), AskedBy: "SIGTERM", Signal: "SIGTERM"},
	Config: map[string]string{"DRAINIT_GRACE_PERIOD": "30s"},
}

// reportOf asks for path and returns the body.
func reportOf(t *testing.T, s *Server, path, kind string) string {
	t.Helper()
	got, body := ask(t, s, "GET", path)
	if got.StatusCode != 200 || got.Header.Get("Content-Type") != kind {
		t.Errorf("code %d, Content-Type %q; want 200, %q", got.StatusCode, got.Header.Get("Content-Type"), kind)
	}
	return body
}

const metricsKind = "text/plain; version=0.0.4; charset=utf-8"

func statusOf(st Status) func(context.Context) (Status, error) {
	return func(context.Context) (Status, error) { return st, nil }
}

func serverWith(st Status) *Server {
	return &Server{Options: Options{Gate: new(Gate), Status: statusOf(st)}}
}

func TestMetrics(t *testing.T) {
	s := serverWith(full)
	for _, path := range []string{"/readyz", "/readyz", "/livez", "/nothing", "/nothing2"} {
		ask(t, s, "GET", path)
	}
	got := reportOf(t, s, "/metrics", metricsKind)
	for _, want := range []string{
		`drainit_phase{phase="draining"} 1`, `drainit_phase{phase="ready"} 0`, `drainit_phase_seconds{phase="starting"} 0.25`,
		`drainit_ready 1`, `drainit_alive 1`, `drainit_child_start_time_seconds 1.7000000005e+09`,
		`drainit_processes_reaped_total 20000`, `drainit_log_lines_dropped_total 3`,
		`drainit_probes_total{path="/readyz",code="503"} 2`, `drainit_probes_total{path="/livez",code="200"} 1`,
		`drainit_signals_received_total{signal="SIGTERM"} 2`, `drainit_signals_forwarded_total{signal="SIGTERM"} 1`,
		`drainit_signals_received_total{signal="SIGRTMIN+3"} 1`,
		`drainit_notify_refused_total{reason="malformed"} 4`, `drainit_notify_refused_total{reason="foreign"} 5`,
		`drainit_client_connections 3`, `drainit_client_requests_in_flight 2`, `drainit_client_accept_queue 1`,
		`drainit_client_arrivals_per_second 0.5`,
		`drainit_forwarded_connections 7`, `drainit_forwarded_requests_in_flight 6`, `drainit_forwarded_accept_queue 5`,
		`drainit_forwarded_arrivals 4`, `drainit_forwarded_quiet_seconds 0.25`,
	} {
		if !strings.Contains("\n"+got, "\n"+want+"\n") {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	// A client could make up paths, each of them a time series.
	if strings.Contains(got, "nothing") {
		t.Errorf("unknown paths are counted by name:\n%s", got)
	}
}

func TestMetricsAreToPrometheussTaste(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is not installed; Debian has it in prometheus")
		}
		t.Skip("promtool is not installed; Debian has it in prometheus")
	}
	for name, st := range map[string]Status{"everything": full, "little": {Phase: "starting", Order: full.Order}, "nothing": {}} {
		t.Run(name, func(t *testing.T) {
			s := serverWith(st)
			reportOf(t, s, "/metrics", metricsKind) // so that one was counted
			text := reportOf(t, s, "/metrics", metricsKind)
			cmd := exec.Command(promtool, "check", "metrics")
			cmd.Stdin = strings.NewReader(text)
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("promtool check metrics: %v\n%s\n%s", err, out, text)
			}
		})
	}
}

func TestStatusz(t *testing.T) {
	t.Setenv("SECRET_OF_THE_CHILD", "hunter2")
	body := reportOf(t, serverWith(full), "/statusz", "application/json")
	if strings.Contains(body, "SECRET") || strings.Contains(body, "hunter2") {
		t.Errorf("the environment is in it:\n%s", body)
	}
	var got Status
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%v in\n%s", err, body)
	}
	if got.Phase != "draining" || got.PID != 1 || got.ChildPID != 7 || got.Stop == nil || got.Stop.AskedBy != "SIGTERM" ||
		got.Signals["SIGTERM"] != full.Signals["SIGTERM"] || got.Text != full.Text || got.Config["DRAINIT_GRACE_PERIOD"] != "30s" {
		t.Errorf("got %+v, want %+v", got, full)
	}
	for _, key := range []string{"phase", "since", "pid", "child_pid", "uptime_seconds", "ready", "signals", "processes_reaped", "config"} {
		var all map[string]any
		json.Unmarshal([]byte(body), &all)
		if _, ok := all[key]; !ok {
			t.Errorf("%q is missing in\n%s", key, body)
		}
	}
}

// TestAReportWithoutTheLoop: it is 200 also while the loop is too busy.
func TestAReportWithoutTheLoop(t *testing.T) {
	s := &Server{Options: Options{Gate: new(Gate), Status: func(context.Context) (Status, error) { return full, errors.New("busy") }}}
	if body := reportOf(t, s, "/statusz", "application/json"); !strings.Contains(body, `"phase": "unknown"`) {
		t.Errorf("got %s, want an unknown phase", body)
	}
	reportOf(t, s, "/metrics", metricsKind)
	s.Status = nil
	reportOf(t, s, "/statusz", "application/json")
}
