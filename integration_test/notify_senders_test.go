package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sender starts a real program that speaks the protocol under drainit, with a
// readiness port.
func sender(t *testing.T, s setup, words ...string) *worker {
	t.Helper()
	env, url := healthPort(t)
	s.env = append([]string{env, "READY_CHECK=notify"}, s.env...)
	return &worker{process: start(t, s, append([]string{"--"}, words...)...), url: url}
}

// The script continues when a line arrives on its stdin.
func TestSystemdNotify(t *testing.T) {
	t.Parallel()
	notify := program(t, "/usr/bin/systemd-notify", "systemd")
	in, step := stdin(t)
	w := sender(t, setup{stdin: in, env: []string{"WATCHDOG=1h", "GRACE_PERIOD=20s", "DRAIN_WINDOW=1s"}}, "/bin/sh", "-ec", `
		trap 'echo stopping; `+notify+` STOPPING=1; `+notify+` EXTEND_TIMEOUT_USEC=1; exit 6' TERM
		echo waiting; read x
		`+notify+` --ready --status="läuft, 3 workers"
		echo waiting; read x
		`+notify+` RELOADING=1
		read x
		`+notify+` --ready WATCHDOG=1
		read x
		`+notify+` WATCHDOG=trigger
		while :; do read x || sleep 1; done`)
	next := func() { step.WriteString("\n") }
	w.says("waiting")
	w.becomes(503, "no READY=1 from the child yet")
	next()
	w.becomes(200, "")
	if s := w.status(); s.Text != "läuft, 3 workers" {
		t.Errorf("status %q", s.Text)
	}
	next()
	w.becomes(503, "reloading")
	next()
	w.becomes(200, "")
	next()
	answers(t, w.url+"/livez", 503)
	if n := w.status().Notify; n.Foreign != 0 || n.Malformed != 0 {
		t.Errorf("refused: %+v", n)
	}
	w.deliver(term)
	w.says("stopping")
	w.exits(6)
}

func TestGunicornSaysWhenItIsReady(t *testing.T) {
	t.Parallel()
	gunicorn := program(t, "/usr/bin/gunicorn", "gunicorn")
	dir := t.TempDir()
	const app = "import time\ntime.sleep(1)\ndef app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'ok']\n"
	if err := os.WriteFile(filepath.Join(dir, "hello.py"), []byte(app), 0o644); err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	w := sender(t, setup{env: []string{"GRACE_PERIOD=30s", "DRAIN_WINDOW=1s"}}, gunicorn, "--preload", "--chdir", dir, "--bind", addr, "hello:app")
	w.becomes(200, "")
	if s := w.status(); s.Text != "Gunicorn arbiter booted" {
		t.Errorf("status %q", s.Text)
	}
	if code, body := get("http://" + addr); code != 200 || body != "ok" {
		t.Errorf("ready, and it answers %d %q", code, body)
	}
	w.deliver(term)
	w.logs("stop asked for")
	if code, body := get("http://" + addr); code != 200 || body != "ok" {
		t.Errorf("within the window it answers %d %q", code, body)
	}
	w.exits(0)
	if got := w.logs(`drainit: stopped"`); !strings.Contains(got, "Gunicorn arbiter booted") {
		t.Errorf("the last status is not among the last words: %s", got)
	}
}

func TestHAProxySaysWhenItIsReady(t *testing.T) {
	t.Parallel()
	haproxy := program(t, "/usr/sbin/haproxy", "haproxy")
	port := freePort(t)
	config := fmt.Sprintf("global\n hard-stop-after 5s\ndefaults\n mode http\n timeout client 1s\n timeout connect 1s\n timeout server 1s\n"+
		"frontend web\n bind 127.0.0.1:%d\n http-request return status 200 content-type text/plain string ok\n", port)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	w := sender(t, setup{env: []string{"GRACE_PERIOD=30s", "DRAIN_WINDOW=500ms", "STOP_SIGNAL=SIGUSR1"}}, haproxy, "-Ws", "-f", file)
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	w.becomes(200, "")
	if code, body := get(url); code != 200 || body != "ok" {
		t.Errorf("ready, and it answers %d %q", code, body)
	}
	// A reload: unready while it lasts, then ready again.
	w.deliver(unix.SIGUSR2)
	w.logs("not ready")
	w.logs("msg=\"drainit: ready\"")
	w.becomes(200, "")
	if code, _ := get(url); code != 200 {
		t.Errorf("after the reload it answers %d", code)
	}
	began := time.Now()
	w.deliver(term)
	w.wait()
	t.Logf("stopped in %s: %s", time.Since(began).Round(time.Millisecond), w.logs(`drainit: stopped"`))
	if n := w.err.count("SIGKILL to everything"); n != 0 {
		t.Errorf("killed: %s", w.err)
	}
}
