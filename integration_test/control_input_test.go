package integration_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestStatusAndMetricsInEveryPhase(t *testing.T) {
	t.Parallel()
	promtool := program(t, "/usr/bin/promtool", "prometheus")
	const secret = "hunter2-of-the-child"
	w := work(t, setup{env: []string{"READY_CHECK=notify", "DATABASE_PASSWORD=" + secret, "GRACE_PERIOD=10m", "DRAIN_WINDOW=5m", "DRAIN_UNTIL=idle"}}, "onterm -1")
	began := time.Now()
	look := func(phase string, ready bool) {
		t.Helper()
		s := w.status()
		if s.Phase != phase || s.Ready != ready || !s.Alive || s.Uptime <= 0 || s.ChildPID == 0 || s.PID != 1 {
			t.Errorf("want phase %s, ready %v: %+v", phase, ready, s)
		}
		if (s.Reason == "") != ready {
			t.Errorf("%s: reason %q", phase, s.Reason)
		}
		if s.Since.Before(began.Add(-time.Minute)) || s.Since.After(time.Now().Add(time.Second)) || s.Started.After(time.Now().Add(time.Second)) {
			t.Errorf("%s since %s, started %s", phase, s.Since, s.Started)
		}
		if stop := phase == "draining" || phase == "stopping"; stop != (s.Stop != nil) {
			t.Errorf("%s: stop %+v", phase, s.Stop)
		} else if stop {
			if d := s.Stop.KillAt.Sub(s.Stop.T0); d != 10*time.Minute-2*time.Second {
				t.Errorf("kill_at is %s after t0", d)
			}
			if d := s.Stop.KillAt.Sub(s.Stop.ForwardBy); d != 10*time.Second {
				t.Errorf("forward_by is %s before kill_at", d)
			}
			if s.Stop.AskedBy != "SIGTERM" || (s.Stop.Forwarded != nil) != (phase == "stopping") {
				t.Errorf("%s: %+v", phase, s.Stop)
			}
		}
		if got := s.Config["DRAINIT_DRAIN_UNTIL"]; got != "idle" || s.Config["DRAINIT_STOP_RESERVE"] != "10s" {
			t.Errorf("configuration in force: %v", s.Config)
		}
		code, metrics := get(w.url + "/metrics")
		if code != 200 {
			t.Fatalf("/metrics answers %d", code)
		}
		for _, line := range []string{
			fmt.Sprintf("drainit_phase{phase=%q} 1\n", phase), fmt.Sprintf("drainit_ready %d\n", map[bool]int{true: 1}[ready]), "drainit_alive 1\n",
		} {
			if !strings.Contains(metrics, line) {
				t.Errorf("%s: no %q in\n%s", phase, line, metrics)
			}
		}
		if n := len(regexp.MustCompile(`(?m)^drainit_phase\{.*\} 1$`).FindAllString(metrics, -1)); n != 1 {
			t.Errorf("%s: in %d phases at once", phase, n)
		}
		check := exec.Command(promtool, "check", "metrics")
		check.Stdin = strings.NewReader(metrics)
		if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: promtool check metrics: %v: %s", phase, err, out)
		}
		for _, path := range []string{"/statusz", "/metrics", "/readyz", "/livez", "/startupz"} {
			if _, body := get(w.url + path); strings.Contains(body, secret) || strings.Contains(body, "DATABASE") {
				t.Errorf("%s tells the child's environment: %s", path, body)
			}
		}
	}
	w.notify("STATUS=\"quoted\"\\ and läuft")
	eventually(t, "STATUS is shown", func() bool { return w.status().Text != "" })
	look("starting", false)
	w.notify("READY=1")
	w.becomes(200, "")
	look("ready", true)
	w.notify("RELOADING=1")
	w.becomes(503, "")
	look("unready", false)
	w.notify("READY=1")
	w.becomes(200, "")
	w.deliver(1) // SIGHUP
	w.says("got 1")
	w.deliver(term)
	w.logs("stop asked for")
	look("draining", false)
	if code, out := w.run(nil, "skip"); code != 0 {
		t.Fatalf("skip: %s", out)
	}
	w.says("got 15")
	look("stopping", false)
	s := w.status()
	if h, x := s.Signals["SIGHUP"], s.Signals["SIGTERM"]; h.Seen != 1 || h.Forwarded != 1 || x.Seen != 1 || x.Forwarded != 1 {
		t.Errorf("signals: %+v", s.Signals)
	}
	for _, line := range []string{`drainit_signals_received_total{signal="SIGHUP"} 1`, `drainit_signals_forwarded_total{signal="SIGTERM"} 1`,
		`drainit_probes_total{path="/readyz",code="503"} `, `drainit_child_start_time_seconds 1`, `drainit_processes_reaped_total 0`} {
		w.asks("/metrics", 200, line)
	}
	w.stop(0)
}

// raw sends bytes to the port and returns what comes back until it is closed.
func (w *worker) raw(request string) string {
	w.t.Helper()
	c, err := net.DialTimeout("tcp", strings.TrimPrefix(w.url, "http://"), patience)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	go io.WriteString(c, request) // ends with the connection
	b, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Errorf("%.60q: the connection stays open, with %q", request, b)
	}
	return string(b)
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	w := work(t, setup{env: []string{"GRACE_PERIOD=20s", "DRAIN_WINDOW=0"}}, "onterm 4")
	w.becomes(200, "")
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "get", "BREW", strings.Repeat("X", 3000)} {
		for _, path := range []string{"/readyz", "/statusz", "/metrics", "/drain", "*"} {
			got := w.raw(method + " " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
			if !regexp.MustCompile(`^HTTP/1\.1 4\d\d `).MatchString(got) {
				t.Errorf("%.20s %s: %.200q", method, path, got)
			}
			if strings.HasPrefix(path, "/") && method != "CONNECT" && !strings.Contains(got, "Allow: GET, HEAD, OPTIONS") {
				t.Errorf("%.20s %s does not say what is allowed: %.300q", method, path, got)
			}
		}
	}
	for _, path := range []string{"/", "//readyz", "/READYZ", "/readyz/../statusz", "/%72eadyz%00", "/debug/pprof/", "/drain", "/.env", "/" + strings.Repeat("x", 2000)} {
		got := w.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 404 ") || !strings.Contains(got, "no such path; the paths are /readyz") {
			t.Errorf("GET %.40s: %.200q", path, got)
		}
	}
	for name, request := range map[string]string{
		"a huge header":       "GET /readyz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
		"many headers":        "GET /readyz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 100_000) + "\r\n",
		"a huge path":         "GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"no protocol":         "GET /readyz\r\n\r\n",
		"another protocol":    "GET /readyz HTTP/9.9\r\nHost: x\r\n\r\n",
		"HTTP/2":              "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"TLS":                 "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00\r\n", 200),
		"NUL bytes":           strings.Repeat("\x00", 3000) + "\r\n\r\n",
		"noise":               strings.Repeat("\xff\xfe\n", 3000) + "\n\n",
		"a negative length":   "GET /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
		"two lengths":         "GET /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"an unknown encoding": "GET /readyz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: rot13\r\n\r\n",
	} {
		got := w.raw(request)
		if got != "" && !regexp.MustCompile(`^HTTP/1\.[01] [45]\d\d `).MatchString(got) {
			t.Errorf("%s: %.200q", name, got)
		}
		t.Logf("%s: %.60q", name, got)
	}
	for name, request := range map[string]string{
		"HTTP/1.0":             "GET /readyz HTTP/1.0\r\n\r\n",
		"no Host":              "GET /readyz HTTP/1.1\r\n\r\n",
		"a trailing slash":     "GET /readyz/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"OPTIONS":              "OPTIONS /readyz HTTP/1.0\r\n\r\n",
		"a query":              "GET /readyz?verbose=1 HTTP/1.1\r\nHost: x\r\n\r\n",
		"an absolute URI":      "GET http://elsewhere/readyz HTTP/1.1\r\nHost: x\r\n\r\n",
		"a body never sent":    "GET /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
		"a chunked body":       "GET /readyz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"an expected 100":      "GET /readyz HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
		"keep-alive asked":     "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
		"two, one after other": "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		got := w.raw(request)
		if !regexp.MustCompile(`^HTTP/1\.[01] 200 `).MatchString(got) || !strings.Contains(got, "Cache-Control: no-store") {
			t.Errorf("%s: %.300q", name, got)
		}
	}
	for _, path := range []string{"/readyz", "/statusz", "/metrics", "/nowhere"} {
		c := w.raw("HEAD " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(c)), &http.Request{Method: "HEAD"})
		if err != nil || r.ContentLength <= 0 || !strings.HasSuffix(c, "\r\n\r\n") {
			t.Errorf("HEAD %s: %v: %q", path, err, c)
		}
	}
	// None of it has changed anything, was logged, or blocks the stop.
	w.becomes(200, "")
	if s := w.status(); s.Phase != "ready" || s.Drained || s.Stop != nil || len(s.Signals) != 0 {
		t.Errorf("changed: %+v", s)
	}
	if _, metrics := get(w.url + "/metrics"); strings.Contains(metrics, "/.env") || strings.Contains(metrics, "xxxx") {
		t.Error("unknown paths make series of their own")
	}
	w.onlyStarted()
	w.deliver(term)
	w.exits(4)
}

func TestSlowConnectionsDoNotStopProbesForLong(t *testing.T) {
	t.Parallel()
	w := work(t, setup{env: []string{"GRACE_PERIOD=20s", "DRAIN_WINDOW=0"}}, "onterm 4")
	w.becomes(200, "")
	addr := strings.TrimPrefix(w.url, "http://")
	idle := func(n int, send string) {
		for range n {
			c, err := net.DialTimeout("tcp", addr, patience)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			io.WriteString(c, send)
		}
	}
	idle(50, "")
	idle(50, "GET /readyz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
	began := time.Now()
	w.asks("/readyz", 200, "") // within 10 s
	d := time.Since(began)
	t.Logf("behind 100 idle connections a probe is answered after %s", d.Round(time.Millisecond))
	if d > 8*time.Second {
		t.Errorf("a probe took %s, want 5 s", d)
	}
	// A stop does not wait for any of them.
	idle(64, "GET")
	began = time.Now()
	w.deliver(term)
	w.exits(4)
	about(t, "the stop took", time.Since(began), 0)
}

func TestEveryVariableRefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	bad := map[string][]string{
		"HEALTH_ADDR":    {"8099", "nonsense", ":0", ":65536", ":http", "on"},
		"GRACE_PERIOD":   {"30x", "-5s", "0", "999ms", "1y", "infinity", "99999999999999999999", "1e9s"},
		"DRAIN_WINDOW":   {"-1", "5 s", "31s", "five"},
		"DRAIN_UNTIL":    {"idler", "forever", "quiet,idle"},
		"STOP_RESERVE":   {"-1s", "10sec", "60s"},
		"KILL_MARGIN":    {"1,5s", "30s", "-2"},
		"UNREADY_DELAY":  {"5s", "x", "-1s"},
		"STOP_ON":        {"SIGFOO", "SIGKILL", "65", "TERM;INT", "0", ",", "61"},
		"STOP_SIGNAL":    {"SIGQUITE", "0", "-9", "TERM,INT"},
		"DRAIN_SIGNAL":   {"SIGNOTHING", "99"},
		"SIGNAL_SCOPE":   {"all", "groups"},
		"SIGNAL_MAP":     {"SIGHUP", "SIGHUP=", "=SIGHUP", "HUP=USR1,HUP=USR2", "SIGTERM=SIGQUIT", "SIGKILL=SIGTERM", "HUP:USR1"},
		"EXIT_CODES":     {"143", "143=256", "-1=0", "143=0,143=1", "a=b", "143=0;130=0"},
		"ORPHAN_GRACE":   {"-1", "soon"},
		"READY_CHECK":    {"listening", "tcp://", "tcp://host", "https://x/", "http://", "tcp://h:1/path", "http://u:p@h/", "exec:/bin/true"},
		"READY_INTERVAL": {"0", "1ms", "-1s", "x"},
		"READY_TIMEOUT":  {"0", "5ms", "x"},
		"WATCHDOG":       {"1ms", "-1", "x"},
		"PORTS":          {"0", "65536", "80;443", "http", "80,auto"},
		"LOG_FORMAT":     {"xml", "jsonl"},
		"LOG_LEVEL":      {"trace", "0"},
	}
	for name, values := range bad {
		for _, v := range values {
			c := exec.Command(drainit, "plan")
			c.Env = append(environment(nil), "DRAINIT_"+name+"="+v)
			var out, stderr bytes.Buffer
			c.Stdout, c.Stderr = &out, &stderr
			c.Run()
			lines := strings.Split(strings.TrimRight(stderr.String(), "\n"), "\n")
			if c.ProcessState.ExitCode() != 125 || out.Len() > 0 {
				t.Errorf("%s=%q is taken: %d, %s", name, v, c.ProcessState.ExitCode(), out.Bytes())
				continue
			}
			shown := v
			if name == "READY_CHECK" {
				shown = strings.Replace(v, "u:p@", "...@", 1) // a password
			}
			// A sum that does not fit is reported for the budget, and names the
			// others.
			if len(lines) < 2 || !strings.Contains(lines[0], fmt.Sprintf("DRAINIT_%s=%q: ", name, shown)) && !strings.Contains(lines[0], name+" ") || !strings.HasPrefix(lines[1], "drainit: hint: ") {
				t.Errorf("%s=%q: want the variable, the value and the fix:\n%s", name, v, stderr.Bytes())
			}
		}
	}
	// All at once: all are reported together, and nothing starts.
	var env []string
	for name, values := range bad {
		env = append(env, name+"="+values[0])
	}
	env = append(env, "DRAINIT_GRACE_PEROID=30")
	p := start(t, setup{env: env}, "--", testchild, "print", "started")
	p.exits(125)
	for name, values := range bad {
		if name == "UNREADY_DELAY" {
			continue // its limit depends on the window, which isn't parsed here
		}
		if name == "READY_INTERVAL" || name == "READY_TIMEOUT" || name == "WATCHDOG" {
			continue
		}
		if !strings.Contains(p.err.String(), fmt.Sprintf("DRAINIT_%s=%q: ", name, values[0])) {
			t.Errorf("no word about %s=%q:\n%s", name, values[0], p.err)
		}
	}
	p.logs("DRAINIT_GRACE_PEROID")
	p.logs("did you mean DRAINIT_GRACE_PERIOD?")
	if p.out.String() != "" {
		t.Error("the child was started")
	}
}
