package integration_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bareBox is the flags of docker run for a container with no shell, no writable
// disk, no root and no capability.
var bareBox = []string{"--read-only", "--user", "65534:65534", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"}

// expect fails the test unless `drainit words`, run in w, exits with code and
// prints one line with text in it.
func (w *worker) expect(code int, text string, words ...string) {
	w.t.Helper()
	w.expectAs(nil, code, text, words...)
}

func (w *worker) expectAs(flags []string, code int, text string, words ...string) {
	w.t.Helper()
	got, out := w.run(flags, words...)
	if got != code || !strings.Contains(out, text) || strings.Contains(out, "\n") || out == "" {
		w.t.Errorf("drainit %s: %d %q, want %d and one line with %q", strings.Join(words, " "), got, out, code, text)
	}
}

func TestDrainAndUndrainInABareContainer(t *testing.T) {
	t.Parallel()
	w := box(t, bareBox, nil, "listen :8080", "onterm 3")
	w.becomes(200, "")
	for range 2 {
		w.expect(0, "not ready: drained by `drainit drain`", "drain")
		w.asks("/readyz", 503, "drained by `drainit drain`; `drainit undrain` ends it")
		w.asks("/livez", 200, "")
		w.asks("/startupz", 200, "")
		if s := w.status(); !s.Drained || s.Phase != "unready" || s.Stop != nil {
			t.Errorf("held %v, phase %s, stop %v", s.Drained, s.Phase, s.Stop)
		}
		w.expect(0, "not ready", "drain") // a second one changes nothing
		w.expect(0, "ready", "undrain")
		w.asks("/readyz", 200, "")
		w.expect(0, "ready", "undrain")
	}
	w.expect(1, "nothing to skip: no stop is waiting, the container is ready", "skip")
	w.stop(3)
	if strings.Contains(w.out.String(), "got") {
		t.Errorf("the child was sent something: %s", w.out)
	}
	if n, m := w.err.count("drainit: not ready"), w.err.count("drainit: ready\""); n != 2 || m != 2 {
		t.Errorf("%d lines say not ready and %d ready: %s", n, m, w.err)
	}
}

func TestADrainOfWhatIsNotReady(t *testing.T) {
	t.Parallel()
	w := box(t, bareBox, []string{"READY_CHECK=notify"})
	w.becomes(503, "no READY=1")
	w.expect(0, "drained by", "drain")
	w.notify("READY=1")
	w.becomes(503, "drained by")
	w.expect(0, "ready", "undrain")
	w.asks("/readyz", 200, "")
	w.notify("RELOADING=1")
	w.becomes(503, "reloading")
	w.expect(0, "drained by", "drain")
	w.expect(0, "no longer drained, but not ready: the child is reloading", "undrain")
}

func TestSkipInABareContainer(t *testing.T) {
	t.Parallel()
	w := box(t, bareBox, []string{"GRACE_PERIOD=10m", "DRAIN_WINDOW=5m"}, "listen :8080", "onterm -1")
	w.becomes(200, "")
	w.deliver(term)
	w.logs("stop asked for")
	w.expect(1, "a stop is in progress already, asked for by SIGTERM", "drain")
	w.expect(1, "a stop is in progress, asked for by SIGTERM: it can't be taken back", "undrain")
	if s := w.status(); s.Phase != "draining" || s.Drained {
		t.Errorf("phase %s, held %v", s.Phase, s.Drained)
	}
	w.expect(0, "SIGTERM forwarded", "skip")
	w.says("got 15")
	w.logs("why=skip")
	w.expect(1, "nothing to skip: no stop is waiting, the container is stopping", "skip")
	w.expect(1, "asked for by SIGTERM", "drain")
	w.expect(1, "can't be taken back", "undrain")
	w.stop(4)
	if n := w.out.count("got"); n != 1 {
		t.Errorf("the child was sent %d signals, want SIGTERM alone: %s", n, w.out)
	}
}

func TestSkipWhenTheChildEndsAtOnce(t *testing.T) {
	t.Parallel()
	// Not as PID 1: the end of PID 1 would kill skip too.
	w := work(t, setup{direct: true, env: []string{"GRACE_PERIOD=10m", "DRAIN_WINDOW=5m"}}, "onterm 0")
	w.becomes(200, "")
	w.deliver(term)
	w.logs("stop asked for")
	if code, out := local(t, strings.TrimPrefix(w.url, "http://"), "skip"); code != 0 || !strings.Contains(out, "forwarded") {
		t.Errorf("skip: %d %q", code, out)
	}
	w.exits(0)
}

func TestControlWhereItCannotWork(t *testing.T) {
	words := []string{"drain", "undrain", "skip", "prestop", "check"}
	t.Run("nobody answers", func(t *testing.T) {
		t.Parallel()
		addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
		for _, word := range words {
			for _, at := range []string{addr, "0.0.0.0:" + strings.Split(addr, ":")[1]} {
				code, out := local(t, at, word)
				if code != 1 || !strings.Contains(out, "no drainit answers on "+at) || strings.Contains(out, "\n") {
					t.Errorf("%s: %d %q", word, code, out)
				}
			}
		}
	})
	t.Run("HEALTH_ADDR is off", func(t *testing.T) {
		t.Parallel()
		w := runBox(t, append(bareBox, variables([]string{"HEALTH_ADDR=off", "READY_CHECK=notify"})...), image(t, "drainit"), "/worker", "onterm -1", "notify \"X=1\"")
		w.says("notified")
		for _, word := range words {
			w.expect(1, "DRAINIT_HEALTH_ADDR is off in this environment: there is no drainit to ask", word)
		}
	})
	t.Run("HEALTH_ADDR is no address", func(t *testing.T) {
		t.Parallel()
		for _, word := range words {
			if code, out := local(t, "nonsense", word); code != 1 || !strings.Contains(out, `DRAINIT_HEALTH_ADDR="nonsense": not an address with a port`) {
				t.Errorf("%s: %d %q", word, code, out)
			}
		}
	})
	t.Run("another user", func(t *testing.T) {
		t.Parallel()
		w := box(t, []string{"--user", "1000"}, []string{"READY_CHECK=started"})
		w.becomes(200, "")
		for _, word := range []string{"drain", "undrain", "prestop"} {
			w.expectAs([]string{"--user", "1001"}, 1, "drainit (pid 1) runs as uid 1000, and uid 1001 may not signal it: use that uid (docker exec -u)", word)
		}
		w.expectAs([]string{"--user", "1001"}, 0, "ready", "check") // it sends no signal
		if s := w.status(); s.Drained || s.Stop != nil {
			t.Errorf("it was heard: %+v", s)
		}
		w.expectAs([]string{"--user", "0"}, 0, "not ready", "drain")
	})
	t.Run("nobody accepts", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		began := time.Now()
		code, out := local(t, l.Addr().String(), "drain")
		if code != 1 || !strings.Contains(out, "no answer from") {
			t.Errorf("%d %q", code, out)
		}
		if d := time.Since(began); d > patience {
			t.Errorf("after %s", d)
		}
	})
}

// The server on HEALTH_ADDR names a PID, and a control signal kills a process
// that is not drainit; -1 would kill every process. Here these are the
// processes of a PID namespace, with one that must survive.
func TestNobodyButDrainitIsSignalled(t *testing.T) {
	t.Parallel()
	var pid atomic.Value
	answer := func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, pid.Load()) }
	s := httptest.NewServer(http.HandlerFunc(answer))
	defer s.Close()
	witness := start(t, setup{}, "--", "/bin/sh", "-c", "echo ready; sleep 1000")
	witness.says("ready")
	w := &worker{process: witness, url: s.URL}
	others := []string{`{"pid":-1}`, `{"pid":-2}`, `{"pid":0}`, `{"pid":4194304000}`, `{"pid":99999999999999999999}`, `{}`, `[]`, `<html>`, ""}
	for _, p := range descendants(witness.pid) {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
		ns := regexp.MustCompile(`NSpid:.*\t(\d+)`).FindStringSubmatch(string(status))
		others = append(others, fmt.Sprintf(`{"pid":%s}`, ns[1]))
	}
	if len(others) < 10 {
		t.Fatal("no process that could be hit")
	}
	for _, other := range append(others, strings.Repeat("x", 3<<20)) {
		pid.Store(other)
		for _, word := range []string{"drain", "undrain", "prestop"} {
			code, out := w.run(nil, word)
			if code != 1 || out == "" || strings.Contains(out, "\n") {
				t.Errorf("%.40s, %s: %d %q, want 1 and one line", other, word, code, out)
			}
		}
		select {
		case <-witness.done:
			t.Fatalf("%.40s: the witness is gone: %s", other, witness.err)
		default:
		}
	}
}

// local runs `drainit words` on this machine, against addr.
func local(t *testing.T, addr string, words ...string) (int, string) {
	t.Helper()
	c := exec.Command(drainit, words...)
	c.Env = environment([]string{"HEALTH_ADDR=" + addr})
	out, err := c.CombinedOutput()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), strings.TrimSuffix(string(out), "\n")
}

func TestSubcommandsRefuseWhatTheyDoNotKnow(t *testing.T) {
	t.Parallel()
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	for _, tt := range []struct {
		words []string
		text  string
	}{
		{[]string{"drain", "now"}, "drain takes no arguments"},
		{[]string{"undrain", "--help"}, "undrain takes no arguments"},
		{[]string{"skip", ""}, "skip takes no arguments"},
		{[]string{"prestop", "5"}, "prestop takes no arguments"},
		{[]string{"check", "everything"}, "check takes live, ready (the default) or started"},
		{[]string{"check", "live", "ready"}, "check takes live, ready (the default) or started"},
		{[]string{"install"}, "install takes one path: drainit install /shared/drainit"},
		{[]string{"install", "a", "b"}, "install takes one path"},
		{[]string{"install", ""}, "install takes one path"},
	} {
		code, out := local(t, addr, tt.words...)
		if code != 1 || !strings.Contains(out, tt.text) || strings.Contains(out, "\n") || !strings.HasPrefix(out, "drainit: ") {
			t.Errorf("%q: %d %q, want 1 and one line with %q", tt.words, code, out, tt.text)
		}
	}
}

var stopped = regexp.MustCompile(`total=(\S+)`)

// total returns how long the whole stop took, from drainit's log.
func (w *worker) total() time.Duration {
	w.t.Helper()
	line := w.logs(`drainit: stopped"`)
	return duration(w.t, stopped.FindString(line), "total")
}

func TestPrestopThenSIGTERMTakesNoMoreTimeThanSIGTERM(t *testing.T) {
	t.Parallel()
	const window = 2 * time.Second
	stop := func(prestop bool) (forwarded, total time.Duration) {
		w := box(t, bareBox, []string{"GRACE_PERIOD=30s", "DRAIN_WINDOW=2s"}, "listen :8080", "onterm 3")
		w.becomes(200, "")
		if prestop {
			w.expect(0, "drained after 2", "prestop")
			w.asks("/readyz", 503, "draining: stop asked for by prestop")
			w.logs("drained: the stop signal will be forwarded as soon as it comes")
		}
		w.deliver(term)
		forwarded = duration(t, w.logs("stop signal forwarded"), "after")
		w.exits(3)
		line := w.logs(`drainit: stopped"`)
		if by := attribute(t, line, "by"); (by == "prestop") != prestop {
			t.Errorf("by=%s", by)
		}
		return forwarded, w.total()
	}
	without, totalWithout := stop(false)
	with, totalWith := stop(true)
	t.Logf("SIGTERM alone: forwarded after %s, ended after %s; prestop and SIGTERM: %s, %s", without, totalWithout, with, totalWith)
	about(t, "with prestop the signal was forwarded", with, window)
	about(t, "with SIGTERM alone", without, window)
}

func TestPrestopTwice(t *testing.T) {
	t.Parallel()
	w := box(t, bareBox, []string{"GRACE_PERIOD=30s", "DRAIN_WINDOW=2s"}, "listen :8080", "onterm 3")
	w.becomes(200, "")
	both := make(chan string, 2)
	for range 2 {
		go func() {
			code, out := w.run(nil, "prestop")
			both <- fmt.Sprint(code, " ", out)
		}()
	}
	for range 2 {
		if got := <-both; !strings.HasPrefix(got, "0 drained after ") {
			t.Errorf("prestop: %s", got)
		}
	}
	about(t, "both returned", time.Since(w.status().Stop.T0), 2*time.Second)
	w.expect(0, "drained after ", "prestop") // the third need not wait
	w.logs("prestop again, nothing changes")
	if strings.Contains(w.out.String(), "got") {
		t.Errorf("the child was sent something: %s", w.out)
	}
	w.deliver(term)
	w.exits(3)
	if n := w.out.count("got"); n != 1 {
		t.Errorf("the child was sent %d signals, want one: %s", n, w.out)
	}
}

func TestPrestopAfterSIGTERMWaitsForTheSameStop(t *testing.T) {
	t.Parallel()
	w := work(t, setup{env: []string{"GRACE_PERIOD=30s", "DRAIN_WINDOW=1s"}}, "onterm -1")
	w.becomes(200, "")
	w.deliver(term)
	w.logs("stop asked for")
	w.expect(0, "drained after", "prestop")
	about(t, "prestop returned", time.Since(w.status().Stop.T0), time.Second)
	if by := w.status().Stop.AskedBy; by != "SIGTERM" {
		t.Errorf("asked for by %s", by)
	}
	w.expect(0, "drained after", "prestop") // already stopping: no wait
	w.stop(0)
}

func TestPrestopThatNoSIGTERMFollows(t *testing.T) {
	t.Parallel()
	w := work(t, setup{env: []string{"GRACE_PERIOD=6s", "DRAIN_WINDOW=500ms", "STOP_RESERVE=2s", "KILL_MARGIN=500ms"}}, "onterm -1")
	w.becomes(200, "")
	w.expect(0, "drained after", "prestop")
	line := w.logs("stop signal forwarded")
	about(t, "forwarded", duration(t, line, "after"), 3500*time.Millisecond)
	w.says("got 15")
	w.deliver(term) // the signal that prestop announced; it has been forwarded already
	w.logs("the stop signal that prestop announced has come; it was already forwarded")
	w.expect(0, "drained after", "prestop")
	w.stop(8)
	if n := w.out.count("got"); n != 1 {
		t.Errorf("the child was sent %d signals, want one: %s", n, w.out)
	}
}

func TestPrestopOfAChildThatEnds(t *testing.T) {
	t.Parallel()
	// Not as PID 1: the end of PID 1 would kill prestop too.
	w := work(t, setup{direct: true, env: []string{"GRACE_PERIOD=10m", "DRAIN_WINDOW=5m"}})
	w.becomes(200, "")
	type result struct {
		code int
		out  string
	}
	returned := make(chan result, 1)
	go func() {
		code, out := local(t, strings.TrimPrefix(w.url, "http://"), "prestop")
		returned <- result{code, out}
	}()
	w.logs("stop asked for")
	w.stop(5)
	select {
	case r := <-returned:
		if r.code != 0 || r.out != "the child has ended" && !strings.HasPrefix(r.out, "drained after") {
			t.Errorf("prestop: %d %q", r.code, r.out)
		}
	case <-time.After(patience):
		t.Errorf("prestop waits on for a child that has ended")
	}
}

func TestTheControlSignalsAreNotTheChilds(t *testing.T) {
	t.Parallel()
	w := box(t, bareBox, []string{"GRACE_PERIOD=10m", "DRAIN_WINDOW=5m", "SIGNAL_SCOPE=group"}, "listen :8080", "onterm -1")
	w.becomes(200, "")
	w.expect(0, "not ready", "drain")
	w.expect(0, "ready", "undrain")
	w.deliver(64) // 64 is forwarded
	w.says("got 64")
	w.deliver(term)
	w.logs("stop asked for")
	w.expect(0, "forwarded", "skip")
	w.says("got 15")
	for name, c := range w.status().Signals {
		if strings.HasPrefix(name, "SIGRTMIN") && name != "SIGRTMIN+30" && c.Forwarded != 0 {
			t.Errorf("%s was forwarded", name)
		}
	}
	w.stop(0)
	if got := strings.Count(w.out.String(), "got"); got != 2 {
		t.Errorf("the child was sent: %s", w.out)
	}
}

func TestInstallHandsDrainitToAnImageWithoutIt(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	os.Chmod(shared, 0o777)
	volume := []string{"--rm", "--read-only", "--user", "65534", "--cap-drop", "ALL", "-v", shared + ":/shared"}
	install := func(words ...string) string {
		t.Helper()
		args := append(append([]string{"run", "--entrypoint", "/drainit"}, volume...), image(t, "drainit"))
		return dockerDoes(t, append(args, words...)...)
	}
	if out := install("install", "/shared/drainit"); out != "installed /shared/drainit" {
		t.Errorf("install: %q", out)
	}
	path := filepath.Join(shared, "drainit")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Fatalf("%v, %v; want mode 755", info, err)
	}
	want, _ := os.ReadFile(drainit)
	if got, _ := os.ReadFile(path); string(got) != string(want) {
		t.Errorf("the copy has %d bytes, and others than the %d of the original", len(got), len(want))
	}

	// The image has no drainit and no shell.
	w := runBox(t, append(volume[1:], "--entrypoint", "/shared/drainit"), image(t, "plain"), "--", "/worker", "listen :8080", "onterm 6")
	w.says("listening")
	ip := dockerDoes(t, "inspect", "-f", "{{.NetworkSettings.IPAddress}}", w.box)
	w.url = "http://" + ip + ":8099"
	w.becomes(200, "")

	// A running copy can be replaced, and the old one keeps running.
	before := inode(t, path)
	if out := install("install", "/shared"); out != "installed /shared/drainit" { // a directory
		t.Errorf("install: %q", out)
	}
	if inode(t, path) == before {
		t.Error("the file was overwritten, not replaced")
	}
	w.asks("/readyz", 200, "")
	for _, word := range []string{"drain", "undrain"} {
		if out := dockerDoes(t, "exec", w.box, "/shared/drainit", word); out == "" {
			t.Errorf("%s says nothing", word)
		}
	}
	// The running program can be copied too, although its file is gone.
	if out := dockerDoes(t, "exec", w.box, "/shared/drainit", "install", "/shared/again"); out != "installed /shared/again" {
		t.Errorf("install: %q", out)
	}
	if got, _ := os.ReadFile(filepath.Join(shared, "again")); string(got) != string(want) {
		t.Error("the copy of the copy is another")
	}
	w.asks("/readyz", 200, "")
	w.deliver(term)
	w.logs("stop asked for")
	docker("exec", w.box, "/shared/drainit", "skip") // may be killed with the container before it prints anything
	w.exits(6)
	entries, _ := os.ReadDir(shared)
	if len(entries) != 2 {
		t.Errorf("temporary files are left: %v", entries)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		t.Fatal(err)
	}
	return s.Ino
}

func TestInstallWhereItCannot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o644)
	os.MkdirAll(filepath.Join(dir, "taken", "drainit"), 0o755)
	for path, text := range map[string]string{
		filepath.Join(dir, "no", "such", "dir", "drainit"): "no such file or directory",
		filepath.Join(file, "drainit"):                     "not a directory",
		filepath.Join(dir, "taken"):                        "taken/drainit",
		"/proc/drainit":                                    "/proc/drainit",
	} {
		code, out := local(t, "off", "install", path)
		if code != 1 || !strings.HasPrefix(out, "drainit: can't install to "+path) || !strings.Contains(out, text) || strings.Contains(out, "\n") {
			t.Errorf("install %s: %d %q, want %q", path, code, out, text)
		}
	}
	// A volume that only root may write to, a read-only one, and the image's
	// own file system.
	shared := t.TempDir()
	os.Chmod(shared, 0o755)
	for name, flags := range map[string][]string{
		"permission denied":     {"-v", shared + ":/shared"},
		"read-only file system": {"-v", shared + ":/shared:ro"},
	} {
		args := append([]string{"run", "--rm", "--read-only", "--user", "65534", "--entrypoint", "/drainit"}, flags...)
		_, err := docker(append(args, image(t, "drainit"), "install", "/shared/drainit")...)
		if err == nil || !strings.Contains(err.Error(), "drainit: can't install to /shared/drainit: ") || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q", err, name)
		}
	}
	if entries, _ := os.ReadDir(shared); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}
