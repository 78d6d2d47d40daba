package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/drainit/drainit/health"
	"golang.org/x/sys/unix"
)

// workerProgram builds the child that takes commands while it runs, unless it
// is there.
var workerProgram = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(testchild), "worker")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "./worker")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build worker: %v\n%s", err, b)
	}
	return path, nil
})

// worker is a drainit in front of that child, in a PID namespace or in Docker.
type worker struct {
	*process
	in  *os.File // the child's stdin
	url string   // of HEALTH_ADDR
	box string   // the container's name, in Docker
}

// work starts a worker in a PID namespace, with a readiness port.
func work(t *testing.T, s setup, commands ...string) *worker {
	t.Helper()
	program, err := workerProgram()
	if err != nil {
		t.Fatal(err)
	}
	env, url := healthPort(t)
	s.env = append([]string{env}, s.env...)
	var in *os.File
	s.stdin, in = stdin(t)
	w := &worker{process: start(t, s, append([]string{"--", program}, commands...)...), in: in, url: url}
	w.armed(commands)
	return w
}

// armed waits until a worker has carried out its first command, which says what
// to do on SIGTERM: it may count as ready before that, when the signal would
// just kill it.
func (w *worker) armed(commands []string) {
	w.t.Helper()
	if len(commands) > 0 && strings.HasPrefix(commands[0], "onterm ") {
		w.says(commands[0])
	}
}

func stdin(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// boxes holds the images of these tests while a container uses them: one with
// nothing but drainit and the worker, one without drainit.
var boxes struct {
	sync.Mutex
	users int
}

func boxImage(name string) string { return fmt.Sprintf("drainit-worker-%d:%s", os.Getpid(), name) }

// image keeps these images in existence until the test ends.
func image(t *testing.T, name string) string {
	t.Helper()
	needDocker(t)
	program, err := workerProgram()
	if err != nil {
		t.Fatal(err)
	}
	boxes.Lock()
	defer boxes.Unlock()
	if boxes.users == 0 {
		for name, files := range map[string][]string{"drainit": {drainit, program}, "plain": {program}} {
			if err := importImage(t, boxImage(name), files); err != nil {
				t.Fatal(err)
			}
		}
	}
	boxes.users++
	t.Cleanup(func() {
		boxes.Lock()
		defer boxes.Unlock()
		if boxes.users--; boxes.users == 0 {
			docker("rmi", "-f", boxImage("drainit"), boxImage("plain"))
		}
	})
	return boxImage(name)
}

// importImage builds an image of files, as FROM scratch would.
func importImage(t *testing.T, name string, files []string) error {
	words := []string{"-c", "--owner=0", "--group=0", "--mode=0755"}
	for _, f := range files {
		words = append(words, "-C", filepath.Dir(f), filepath.Base(f))
	}
	tar := exec.Command("tar", words...)
	archive, err := tar.Output()
	if err != nil {
		return fmt.Errorf("tar: %v", err)
	}
	c := exec.Command("docker", "import", "--change", `ENTRYPOINT ["/`+filepath.Base(files[0])+`","--"]`, "-", name)
	c.Stdin = bytes.NewReader(archive)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("docker import: %v: %s", err, out)
	}
	return nil
}

// box starts a worker in a container, with flags for docker run and the
// variables of env.
func box(t *testing.T, flags, env []string, commands ...string) *worker {
	t.Helper()
	w := runBox(t, append(flags, variables(env)...), image(t, "drainit"), append([]string{"/worker"}, commands...)...)
	eventually(t, "the container has an address", func() bool {
		ip, err := docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", w.box)
		w.url = "http://" + ip + ":8099"
		return err == nil && ip != "" || len(flags) > 1 && strings.Contains(strings.Join(flags, " "), "--network none")
	})
	w.armed(commands)
	return w
}

// variables returns docker run's flags for env; drainit's variables have no
// prefix there.
func variables(env []string) (flags []string) {
	for _, e := range env {
		if unprefixed.MatchString(e) {
			e = "DRAINIT_" + e
		}
		flags = append(flags, "-e", e)
	}
	return flags
}

var boxNumber atomic.Int64

// runBox runs docker run.
func runBox(t *testing.T, flags []string, image string, command ...string) *worker {
	t.Helper()
	name := fmt.Sprintf("drainit-worker-%d-%d", os.Getpid(), boxNumber.Add(1))
	words := append([]string{"run", "--rm", "-i", "--name", name}, flags...)
	r, in := stdin(t)
	t.Cleanup(func() { docker("rm", "-f", name) })
	p := start(t, setup{direct: true, stdin: r, shell: append(append(append([]string{"docker"}, words...), image), command...)}, "")
	return &worker{process: p, in: in, box: name}
}

// pidHere returns the PID of the container's PID 1 in the tests' own namespace.
func (w *worker) pidHere() int {
	w.t.Helper()
	if w.box == "" {
		return w.pid
	}
	n, err := strconv.Atoi(dockerDoes(w.t, "inspect", "-f", "{{.State.Pid}}", w.box))
	if err != nil || n == 0 {
		w.t.Fatalf("no PID of %s: %v", w.box, err)
	}
	return n
}

// deliver sends drainit a signal, and returns when.
func (w *worker) deliver(sig syscall.Signal) time.Time {
	w.t.Helper()
	now := time.Now()
	if w.box != "" {
		dockerDoes(w.t, "kill", "-s", fmt.Sprint(int(sig)), w.box)
	} else {
		w.signal(sig)
	}
	return now
}

// run runs `docker exec CONTAINER /drainit words`, or the same in the PID
// namespace. It returns the exit code and the output without the newline.
func (w *worker) run(flags []string, words ...string) (int, string) {
	w.t.Helper()
	args := append(append(append([]string{"exec"}, flags...), w.box, "/drainit"), words...)
	c := exec.Command("docker", args...)
	if w.box == "" {
		c = exec.Command("/usr/bin/nsenter", append([]string{"-t", fmt.Sprint(w.pid), "-p", "-m", drainit}, words...)...)
		c.Env = environment([]string{"HEALTH_ADDR=" + strings.TrimPrefix(w.url, "http://")})
	}
	out, _ := c.CombinedOutput()
	return c.ProcessState.ExitCode(), strings.TrimSuffix(string(out), "\n")
}

// tell gives the child a command and returns its answer: the rest of the line
// that the child prints.
func (w *worker) tell(command, answer string) string {
	w.t.Helper()
	from := len(w.out.String())
	w.in.SetWriteDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(w.in, command); err != nil {
		w.t.Fatal(err)
	}
	return w.out.from(w.t, from, answer)
}

// notify makes the child send a datagram.
func (w *worker) notify(datagram string) {
	w.t.Helper()
	if line := w.tell("notify "+strconv.Quote(datagram), "notified"); !strings.HasSuffix(line, "<nil>") {
		w.t.Fatalf("the datagram was not sent: %s", line)
	}
}

// from waits for a line that contains text after the first n bytes.
func (l *lines) from(t *testing.T, n int, text string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		l.mu.Lock()
		s, ended, changed := l.text.String()[n:], l.ended, l.changed
		l.mu.Unlock()
		for line := range strings.Lines(s) {
			if strings.Contains(line, text) && strings.HasSuffix(line, "\n") {
				return strings.TrimSuffix(line, "\n")
			}
		}
		if ended {
			t.Fatalf("output ended without %q: %s", text, l.tail())
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no %q within %s: %s", text, patience, l.tail())
		}
	}
}

// stamped returns the instant in a line of the worker: its second word, or
// later.
func stamped(t *testing.T, line string) time.Time {
	t.Helper()
	for word := range strings.FieldsSeq(line) {
		if n, err := strconv.ParseInt(word, 10, 64); err == nil && n > 1e18 {
			return time.Unix(0, n)
		}
	}
	t.Fatalf("no instant in %q", line)
	return time.Time{}
}

// logged returns the instant of a line of drainit's log, to the millisecond.
func logged(t *testing.T, line string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, attribute(t, line, "time"))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// status returns what /statusz reports.
func (w *worker) status() (s health.Status) {
	w.t.Helper()
	code, body := get(w.url + "/statusz")
	if err := json.Unmarshal([]byte(body), &s); err != nil || code != 200 || s.PID == 0 {
		w.t.Fatalf("/statusz: %d, %v: %s", code, err, body)
	}
	return s
}

// becomes waits until /readyz answers code with a body that contains text.
func (w *worker) becomes(code int, text string) {
	w.t.Helper()
	var last int
	var body string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if last, body = get(w.url + "/readyz"); last == code && strings.Contains(body, text) {
			return
		}
	}
	w.t.Fatalf("/readyz answers %d %q, want %d with %q\nstderr: %s", last, body, code, text, w.err.tail())
}

// asks fails the test unless path answers code with text in its body.
func (w *worker) asks(path string, code int, text string) {
	w.t.Helper()
	if got, body := get(w.url + path); got != code || !strings.Contains(body, text) {
		w.t.Errorf("%s answers %d %q, want %d with %q", path, got, body, code, text)
	}
}

// childEnv returns the child's PID and environment, as the child sees them.
func (w *worker) childEnv() (pid string, env map[string]string) {
	w.t.Helper()
	line := w.tell("environment", "environment")
	fields := strings.SplitN(line, " ", 3)
	var all []string
	if err := json.Unmarshal([]byte(fields[2]), &all); err != nil {
		w.t.Fatal(err)
	}
	env = make(map[string]string)
	for _, kv := range all {
		name, value, _ := strings.Cut(kv, "=")
		if _, twice := env[name]; twice {
			w.t.Errorf("%s is in the environment twice", name)
		}
		env[name] = value
	}
	return fields[1], env
}

// stop ends a worker whose test is over, and expects the child's code.
func (w *worker) stop(code int) {
	w.t.Helper()
	fmt.Fprintln(w.in, "exit", code)
	w.exits(code)
}

// term is SIGTERM; most tests end with it.
const term = unix.SIGTERM
