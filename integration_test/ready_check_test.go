package integration_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// runs starts a worker in a PID namespace or in Docker. PORT in the environment
// stands for a port that is free there.
var runs = map[string]func(t *testing.T, env []string, commands ...string) *worker{
	"as PID 1": func(t *testing.T, env []string, commands ...string) *worker {
		port := fmt.Sprint(freePort(t))
		return work(t, setup{env: withPort(port, env)}, withPort(port, commands)...)
	},
	"in Docker": func(t *testing.T, env []string, commands ...string) *worker {
		return box(t, []string{"--read-only", "--user", "65534", "--cap-drop", "ALL"}, withPort("8080", env), withPort("8080", commands)...)
	},
}

func withPort(port string, all []string) (replaced []string) {
	for _, s := range all {
		replaced = append(replaced, strings.ReplaceAll(s, "PORT", port))
	}
	return replaced
}

// A pod that is called ready before its server listens loses requests.
func TestNotReadyBeforeTheServerListens(t *testing.T) {
	const soon = 3 * time.Second // promised within 1 s; this machine may be busy
	const delay = 5 * time.Second
	for check, then := range map[string]string{
		"listen":                      "",
		"tcp://127.0.0.1:PORT":        "",
		"http://127.0.0.1:PORT/ready": "",
		"notify":                      `notify "READY=1"`,
	} {
		for where, run := range runs {
			kind, _, _ := strings.Cut(check, ":")
			t.Run(kind+" "+where, func(t *testing.T) {
				t.Parallel()
				commands := []string{"wait " + delay.String(), "listen 127.0.0.1:PORT"}
				if then != "" {
					commands = append(commands, then)
				}
				w := run(t, []string{"READY_CHECK=" + check}, commands...)
				eventually(t, "the readiness port answers", func() bool { code, _ := get(w.url + "/livez"); return code == 200 })
				for path, want := range map[string]int{"/readyz": 503, "/healthz": 503, "/readiness": 503, "/startupz": 503, "/livez": 200} {
					w.asks(path, want, map[bool]string{true: "alive", false: "starting"}[path == "/livez"])
				}
				if s := w.status(); s.Phase != "starting" || s.Ready || s.Reason == "" {
					t.Errorf("phase %s, ready %v, reason %q", s.Phase, s.Ready, s.Reason)
				}
				var asked, first time.Time
				for end := time.Now().Add(delay + patience); first.IsZero(); time.Sleep(5 * time.Millisecond) {
					asked = time.Now()
					switch code, body := get(w.url + "/readyz"); {
					case code == 200:
						first = time.Now()
					case code != 503 || asked.After(end):
						t.Fatalf("/readyz answers %d: %s", code, body)
					}
				}
				listening := stamped(t, w.says("listening"))
				if first.Before(listening) {
					t.Errorf("ready %s before it listened", listening.Sub(first))
				}
				took := first.Sub(listening)
				t.Logf("ready %s after it listened", took.Round(time.Millisecond))
				if took > soon {
					t.Errorf("not ready until %s after it listened, want %s", took, soon)
				}
				w.asks("/startupz", 200, "ready")
				w.onlyStarted()
			})
		}
	}
}

func TestListenSeesNeitherItsOwnPortNorANeighbours(t *testing.T) {
	t.Parallel()
	// The neighbours: everything that listens on this machine, and this
	// listener.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := freePort(t)
	w := work(t, setup{env: []string{"READY_CHECK=listen"}})
	w.becomes(503, "no listening TCP socket yet")
	w.tell(fmt.Sprintf("listen 127.0.0.1:%d", port), "listening")
	w.becomes(200, fmt.Sprintf("listening on %d", port))
	// Checked only while the child starts: it may close its listener for a
	// while.
	w.tell("close", "closed")
	w.asks("/readyz", 200, "")
}

func TestAFlappingHTTPCheck(t *testing.T) {
	for where, run := range runs {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			w := run(t, []string{"READY_CHECK=http://127.0.0.1:PORT/ready", "READY_INTERVAL=50ms"}, "code 503", "listen 127.0.0.1:PORT")
			w.becomes(503, "starting: GET http://127.0.0.1")
			w.becomes(503, "503")
			w.asks("/startupz", 503, "")
			for range 3 {
				w.tell("code 204", "code 204")
				w.becomes(200, "204")
				w.asks("/startupz", 200, "")
				w.tell("code 500", "code 500")
				w.becomes(503, "unready: GET http://127.0.0.1")
				w.asks("/readyz", 503, ": 500")
				w.asks("/livez", 200, "")
				w.asks("/startupz", 200, "")
				if s := w.status(); s.Phase != "unready" || !strings.Contains(s.Reason, "500") {
					t.Errorf("phase %s, reason %q", s.Phase, s.Reason)
				}
			}
			w.tell("close", "closed")
			w.becomes(503, "connection refused")
			w.stop(3)
			if n, m := w.err.count("drainit: not ready"), w.err.count("drainit: ready\""); n != 3 || m != 2 {
				t.Errorf("%d lines say not ready and %d ready, want 3 and 2: %s", n, m, w.err)
			}
		})
	}
}

func TestATCPCheckThatIsRefusedLater(t *testing.T) {
	t.Parallel()
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	w := work(t, setup{env: []string{"READY_CHECK=tcp://" + addr, "READY_INTERVAL=50ms"}}, "listen "+addr)
	for range 2 {
		w.becomes(200, "accepts connections")
		w.tell("close", "closed")
		w.becomes(503, "unready: dial tcp "+addr)
		w.tell("listen "+addr, "listening")
	}
	w.becomes(200, "accepts connections")
}

func TestAHungHTTPCheck(t *testing.T) {
	t.Parallel()
	w := runs["as PID 1"](t, []string{"READY_CHECK=http://127.0.0.1:PORT/", "READY_INTERVAL=50ms", "READY_TIMEOUT=300ms"}, "hang", "listen 127.0.0.1:PORT")
	w.becomes(503, "no answer") // before it was ever ready
	w.tell("answer", "answering")
	w.becomes(200, "200")
	hung := time.Now()
	w.tell("hang", "hanging")
	w.becomes(503, "unready: GET")
	t.Logf("not ready %s after the server hung, with a timeout of 300ms", time.Since(hung).Round(time.Millisecond))
	w.asks("/readyz", 503, "timeout")
	// A hanging check blocks nothing else.
	for _, path := range []string{"/livez", "/statusz", "/metrics"} {
		w.asks(path, 200, "")
	}
	w.tell("answer", "answering")
	w.becomes(200, "200")
	// Nor a stop.
	w.tell("hang", "hanging")
	w.tell("onterm 5", "onterm 5")
	w.deliver(term)
	w.logs("stop asked for")
	w.run(nil, "skip") // killed with PID 1
	w.exits(5)
}

func TestWhatCountsAsAnAnswer(t *testing.T) {
	t.Parallel()
	w := runs["as PID 1"](t, []string{"READY_CHECK=http://127.0.0.1:PORT/", "READY_INTERVAL=20ms"}, "listen 127.0.0.1:PORT")
	// Redirects are not followed; these lead nowhere.
	for _, tt := range []struct{ code, want int }{
		{200, 200}, {400, 503}, {299, 200}, {404, 503}, {301, 200}, {500, 503}, {302, 200}, {401, 503}, {399, 200}, {599, 503},
	} {
		w.tell(fmt.Sprint("code ", tt.code), fmt.Sprint("code ", tt.code))
		w.becomes(tt.want, fmt.Sprintf(": %d", tt.code))
	}
}

func TestAWorkerThatNeverListensIsToldWhatToSet(t *testing.T) {
	for where, run := range runs {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			w := run(t, nil)
			if where == "as PID 1" { // the tests' default differs there
				w.kill()
				w = run(t, []string{"READY_CHECK=listen"})
			}
			w.becomes(503, "no listening TCP socket yet")
			if _, body := get(w.url + "/readyz"); strings.Contains(body, "READY_CHECK") {
				t.Errorf("too early for a hint: %s", body)
			}
			for end := time.Now().Add(30*time.Second + patience); w.err.count("DRAINIT_READY_CHECK=started") == 0; time.Sleep(50 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("no hint: %s", w.err)
				}
			}
			if d := time.Since(w.began); d < 30*time.Second {
				t.Errorf("the hint came after %s", d)
			}
			w.becomes(503, "DRAINIT_READY_CHECK=started")
			w.tell("listen 127.0.0.1:0", "listening")
			w.becomes(200, "listening on")
			w.asks("/readyz", 200, "")
			if n := w.err.count("\n"); n != 2 {
				t.Errorf("%d lines, want the start, the hint and no more: %s", n, w.err)
			}
		})
	}
}

func TestAfterT0TheCheckStopsMattering(t *testing.T) {
	t.Parallel()
	w := runs["as PID 1"](t, []string{"READY_CHECK=http://127.0.0.1:PORT/", "READY_INTERVAL=20ms",
		"GRACE_PERIOD=60s", "DRAIN_WINDOW=30s", "UNREADY_DELAY=20s"}, "listen 127.0.0.1:PORT", "onterm 4")
	w.becomes(200, "200")
	w.deliver(term)
	w.logs("stop asked for")
	w.tell("code 500", "code 500")
	before := w.tell("checks 1", "checks 1")
	// About 25 intervals, in each of which a check would have come.
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		w.asks("/readyz", 200, "draining: stop asked for by SIGTERM") // UNREADY_DELAY, although the server is not ready
	}
	after := w.tell("checks 1", "checks 1")
	count := func(line string) (n int) { fmt.Sscanf(line, "checks 1 %d", &n); return n }
	if count(after) > count(before)+1 { // one may have been under way
		t.Errorf("checked %d times before t0 and %d after", count(before), count(after)-count(before))
	}
	if s := w.status(); s.Phase != "draining" {
		t.Errorf("phase %s", s.Phase)
	}
	if w.err.count("not ready") != 1 { // the stop's own line
		t.Errorf("stderr: %s", w.err)
	}
	w.run(nil, "skip")
	w.exits(4)
}

func TestAChildThatIsStoppedWhileItStarts(t *testing.T) {
	t.Parallel()
	w := runs["as PID 1"](t, []string{"READY_CHECK=http://127.0.0.1:PORT/", "GRACE_PERIOD=20s", "DRAIN_WINDOW=1s", "UNREADY_DELAY=500ms"}, "onterm 6")
	w.becomes(503, "connection refused")
	w.says("")
	w.deliver(term)
	w.logs("why=\"never ready\"") // nothing was routed to it: the window would serve nothing
	w.exits(6)
}

func TestStartedIsReadyAtOnce(t *testing.T) {
	t.Parallel()
	w := work(t, setup{env: []string{"READY_CHECK=started"}})
	w.becomes(200, "the child was started")
}

func TestCheckTellsWhatTheProbesAreTold(t *testing.T) {
	t.Parallel()
	for where, run := range runs {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			w := run(t, []string{"READY_CHECK=http://127.0.0.1:PORT/", "READY_INTERVAL=20ms"}, "code 500", "listen 127.0.0.1:PORT")
			w.becomes(503, ": 500")
			expect := func(code int, text string, words ...string) {
				t.Helper()
				got, out := w.run(nil, words...)
				if got != code || !strings.Contains(out, text) || strings.Contains(out, "\n") {
					t.Errorf("%v: %d %q, want %d with %q on one line", words, got, out, code, text)
				}
			}
			expect(1, "not ready: starting: GET", "check")
			expect(1, "not ready: starting: GET", "check", "ready")
			expect(1, "not started: starting", "check", "started")
			expect(0, "alive", "check", "live")
			w.tell("code 200", "code 200")
			w.becomes(200, "")
			expect(0, "ready", "check")
			expect(0, "ready", "check", "started")
			expect(1, "check takes live, ready (the default) or started", "check", "readiness")
			expect(1, "check takes live, ready (the default) or started", "check", "live", "ready")
		})
	}
}

func TestReadinessOfADirectRun(t *testing.T) {
	t.Parallel()
	// Not as PID 1, as in a first try on a shell.
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("no /proc")
	}
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	w := work(t, setup{direct: true, env: []string{"READY_CHECK=listen"}})
	w.becomes(503, "no listening TCP socket yet")
	w.tell("listen "+addr, "listening")
	w.becomes(200, "listening on")
}
