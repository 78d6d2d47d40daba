package integration_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The image contains nothing but the two programs. A test that needs a shell,
// nginx or Python mounts the machine's own /usr. Both names are unique to this
// run: several may run at the same time.
var (
	thisRun   = fmt.Sprintf("%d-%d", os.Getpid(), time.Now().Unix())
	testImage = "drainit-test/scratch:" + thisRun
	testLabel = "drainit-test=" + thisRun
)

var (
	dockerUsed atomic.Bool
	containers atomic.Int64
)

// docker runs one command of the Docker client.
func docker(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out, stderr bytes.Buffer
	c := exec.CommandContext(ctx, "docker", args...)
	c.Stdout, c.Stderr = &out, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %v: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(out.String()), nil
}

func dockerDoes(t *testing.T, args ...string) string {
	t.Helper()
	out, err := docker(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// dockerImage builds the image, once. It returns why there is none, or "".
var dockerImage = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "docker", "version").CombinedOutput(); err != nil {
		return fmt.Errorf("no Docker answers: %v: %s", err, out)
	}
	content, err := imageContent()
	if err != nil {
		return err
	}
	dockerUsed.Store(true)
	c := exec.Command("docker", "import", "--change", `ENTRYPOINT ["/drainit","--"]`, "-", testImage)
	c.Stdin = content
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("docker import: %v: %s", err, out)
	}
	return nil
})

func imageContent() (io.Reader, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var errs []error
	add := func(h *tar.Header, content []byte) {
		h.Size = int64(len(content))
		errs = append(errs, w.WriteHeader(h))
		_, err := w.Write(content)
		errs = append(errs, err)
	}
	for _, dir := range []string{"usr", "tmp", "app", "proc", "sys", "dev", "etc", "run", "var"} {
		add(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
	}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} { // as Debian has them
		add(&tar.Header{Typeflag: tar.TypeSymlink, Name: link, Linkname: "usr/" + link, Mode: 0o777}, nil)
	}
	for name, path := range map[string]string{"drainit": drainit, "testchild": testchild} {
		content, err := os.ReadFile(path)
		errs = append(errs, err)
		add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755}, content)
	}
	errs = append(errs, w.Close())
	return &b, errors.Join(errs...)
}

func needDocker(t *testing.T) {
	t.Helper()
	if err := dockerImage(); err != nil {
		missing(t, true, "%v", err)
	}
}

// cleanDocker removes the image, and what a killed test left behind.
func cleanDocker() {
	if dockerUsed.Load() {
		if ids, err := docker("ps", "-aq", "--filter", "label="+testLabel); err == nil && ids != "" {
			docker(append([]string{"rm", "-f"}, strings.Fields(ids)...)...)
		}
		docker("rmi", "-f", testImage)
	}
}

// machine mounts the machine's programs into a container.
var machine = []string{"-v", "/usr:/usr:ro", "-v", "/etc/alternatives:/etc/alternatives:ro", "-e", "PATH=/usr/sbin:/usr/bin"}

// container is a running `docker run` and its output.
type container struct {
	*process
	name string
}

// run starts a container. Variables after -e in its options may lack drainit's
// prefix, as in setup.
func run(t *testing.T, options []string, command ...string) *container {
	t.Helper()
	return runOn(t, nil, options, command...)
}

func runOn(t *testing.T, term *terminal, options []string, command ...string) *container {
	t.Helper()
	needDocker(t)
	name := fmt.Sprintf("drainit-test-%s-%d", thisRun, containers.Add(1))
	args := []string{"docker", "run", "--rm", "--name", name, "--label", testLabel}
	options = slices.Clone(options)
	for i, o := range options {
		if i > 0 && options[i-1] == "-e" && unprefixed.MatchString(o) {
			options[i] = "DRAINIT_" + o
		}
	}
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "DRAINIT_READY_CHECK=") }) {
		args = append(args, "-e", "DRAINIT_READY_CHECK=started")
	}
	args = append(append(append(args, options...), testImage), command...)
	c := &container{name: name}
	t.Cleanup(func() { docker("rm", "-f", name) })
	c.process = start(t, setup{direct: true, shell: args, term: term}, "")
	return c
}

// ip returns the container's address on Docker's bridge.
func (c *container) ip() string {
	c.t.Helper()
	var ip string
	eventually(c.t, "the container has an address", func() bool {
		ip, _ = docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", c.name)
		return ip != ""
	})
	return ip
}

func TestDockerHardened(t *testing.T) {
	t.Parallel()
	c := run(t, []string{"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "65534:65534",
		"--network", "none", "-e", "GRACE_PERIOD=10s", "-e", "DRAIN_WINDOW=1s"}, "/testchild", "signals", "-exit", "15:3")
	c.says("ready")
	if out := dockerDoes(t, "exec", c.name, "/drainit", "check"); out == "" {
		t.Error("check says nothing")
	}
	dockerDoes(t, "exec", c.name, "/drainit", "check", "live")
	dockerDoes(t, "kill", "-s", "HUP", c.name)
	c.says("got 1")
	dockerDoes(t, "stop", "-t", "10", c.name)
	c.exits(3)
	c.logs("stop asked for")
	about(t, "forwarded", duration(t, c.logs("stop signal forwarded"), "after"), time.Second)
	c.logs(`drainit: stopped"`)
	if got := c.out.String(); got != "ready\ngot 1\ngot 15\n" {
		t.Errorf("stdout: %s", got)
	}
}

func TestDockerStopWithTheBudgetIsNotCutShortByDocker(t *testing.T) {
	t.Parallel()
	c := run(t, []string{"--network", "none", "-e", "GRACE_PERIOD=5s", "-e", "DRAIN_WINDOW=1s"}, "/testchild", "signals")
	c.says("ready")
	began := time.Now()
	dockerDoes(t, "stop", "-t", "5", c.name)
	t.Logf("docker stop -t 5 took %s", time.Since(began).Round(time.Millisecond))
	c.exits(137)
	// Only drainit's own SIGKILL leaves a summary; Docker's leaves none.
	line := c.logs("killed at the deadline")
	about(t, "SIGKILL", duration(t, c.logs("SIGKILL to everything"), "after"), 4500*time.Millisecond)
	if attribute(t, line, "child") != "was killed by SIGKILL" {
		t.Error(line)
	}
}

func TestDockerStopSignal(t *testing.T) {
	t.Parallel()
	t.Run("in STOP_ON begins a stop", func(t *testing.T) {
		t.Parallel()
		c := run(t, []string{"--network", "none", "--stop-signal", "SIGQUIT", "-e", "STOP_ON=SIGQUIT,SIGTERM", "-e", "DRAIN_WINDOW=1s"},
			"/testchild", "signals", "-exit", "3:8")
		c.says("ready")
		dockerDoes(t, "stop", c.name)
		c.exits(8)
		c.logs("by=SIGQUIT")
		about(t, "forwarded", duration(t, c.logs("stop signal forwarded"), "after"), time.Second)
	})
	t.Run("otherwise is forwarded at once, with a hint", func(t *testing.T) {
		t.Parallel()
		c := run(t, []string{"--network", "none", "--stop-signal", "SIGQUIT"}, "/testchild", "signals", "-exit", "3:8")
		c.says("ready")
		dockerDoes(t, "stop", c.name)
		c.exits(8)
		c.logs("DRAINIT_STOP_ON")
	})
}

func TestDockerRunIsAsIfDrainitWereNotThere(t *testing.T) {
	t.Parallel()
	c := run(t, []string{"--network", "none", "-e", "LOG_LEVEL=warn"}, "/testchild", "print", `{"a":1}`)
	c.exits(0)
	if got := c.out.String() + c.err.String(); got != "{\"a\":1}\n" {
		t.Errorf("docker run … 2>&1 | jq would get: %s", got)
	}
	for code, command := range map[int][]string{
		42: {"/testchild", "exit", "42"}, 137: {"/testchild", "die", "9"}, 127: {"no-such-command"}, 126: {"/tmp"},
	} {
		run(t, []string{"--network", "none"}, command...).exits(code)
	}
}

func TestDockerFewFileDescriptors(t *testing.T) {
	t.Parallel()
	c := run(t, []string{"--ulimit", "nofile=64:64", "-e", "DRAIN_WINDOW=1s"}, "/testchild", "signals", "-exit", "15:3")
	c.says("ready")
	url := "http://" + c.ip() + ":8099"
	answers(t, url+"/readyz", 200)
	var probes sync.WaitGroup
	for range 200 {
		probes.Go(func() { get(url + "/readyz") })
	}
	dockerDoes(t, "kill", "-s", "TERM", c.name)
	c.exits(3)
	probes.Wait()
}

func TestDockerFewProcesses(t *testing.T) {
	t.Parallel()
	needDocker(t)
	// At which of them drainit or its fork has too few varies, as the number of
	// threads does.
	for limit := 6; limit <= 14; limit++ {
		c := run(t, append([]string{"--network", "none", "--pids-limit", fmt.Sprint(limit)}, machine...), "/bin/true")
		code := c.wait()
		t.Logf("limit %d: code %d", limit, code)
		if explained := strings.Contains(c.err.String(), "pids"); code != 0 && (code < 125 || code > 126 || !explained) {
			t.Errorf("limit %d: code %d, want 0, or 125 or 126 and how to mend it: %s", limit, code, c.err.tail())
		}
	}
	run(t, append([]string{"--network", "none", "--pids-limit", "16"}, machine...), "/bin/true").exits(0)
}

func TestDockerTheServerHasTakenEveryProcessThereIs(t *testing.T) {
	t.Parallel()
	// With no CPU time either: the Go runtime may take each of drainit's system
	// calls for blocked, and then wants another thread to continue.
	c := run(t, []string{"--pids-limit", "80", "-e", "GRACE_PERIOD=40s", "-e", "DRAIN_WINDOW=1s", "-e", "ORPHAN_GRACE=500ms"},
		"/testchild", "fill", "-spin", "20", "-exit", "15:4")
	c.says("full")
	url := "http://" + c.ip() + ":8099"
	answers(t, url+"/readyz", 200)
	var probes sync.WaitGroup
	for range 10 {
		probes.Go(func() {
			for range 100 {
				get(url + "/readyz")
			}
			get(url + "/statusz")
		})
	}
	probes.Wait()
	dockerDoes(t, "kill", "-s", "USR1", c.name)
	c.says("got 10") // and has filled the cgroup again
	dockerDoes(t, "kill", "-s", "TERM", c.name)
	answers(t, url+"/readyz", 503)
	c.exits(4)
	c.logs(`drainit: stopped"`)
}

func TestDockerSharedPIDNamespace(t *testing.T) {
	t.Parallel()
	neighbour := run(t, []string{"--network", "none", "--entrypoint", "/testchild"}, "signals", "-second")
	neighbour.says("ready")
	c := run(t, []string{"--network", "none", "--pid", "container:" + neighbour.name,
		"-e", "GRACE_PERIOD=5s", "-e", "DRAIN_WINDOW=0", "-e", "ORPHAN_GRACE=500ms"},
		"/testchild", "leave", "-ignore", "-setsid", "-grandchild", "-on-term", "-exit", "6")
	c.says("ready")
	dockerDoes(t, "stop", "-t", "5", c.name)
	c.exits(6)
	c.logs("SIGKILL to everything that is left")
	if got := neighbour.out.String(); got != "ready\n" {
		t.Errorf("the neighbour got: %s", got)
	}
	dockerDoes(t, "kill", "-s", "HUP", neighbour.name)
	neighbour.says("got 1") // it is alive
}

func TestDockerTerminal(t *testing.T) {
	t.Parallel()
	program(t, "/bin/bash", "bash")
	t.Run("a shell with job control", func(t *testing.T) {
		t.Parallel()
		term := openTerminal(t)
		c := runOn(t, term, append([]string{"-it", "--network", "none", "-e", "PS1=>"}, machine...), "bash", "--norc", "--noprofile", "-i")
		jobControl(t, term, "/testchild loop 0")
		term.types(t, "exit 26\n")
		c.exits(26)
	})
	t.Run("a server: Ctrl-Z is no hang, Ctrl-C ends it", func(t *testing.T) {
		t.Parallel()
		term := openTerminal(t)
		c := runOn(t, term, []string{"-it", "--network", "none"}, "/testchild", "loop", "0")
		ticking(t, c.out)
		term.types(t, ctrlZ)
		ticking(t, c.out)
		term.types(t, ctrlC)
		c.exits(130)
	})
}

func TestDockerFastAPIUnderUvicorn(t *testing.T) {
	t.Parallel()
	app := example(t, "fastapi")
	command := uvicorn(t, "0.0.0.0", 8000)
	c := run(t, append([]string{"--read-only", "--user", "65534", "--cap-drop", "ALL", "-v", app + ":/app:ro", "-w", "/app",
		"-e", "GRACE_PERIOD=25s", "-e", "DRAIN_WINDOW=2s", "-e", "READY_CHECK=listen"}, machine...), command...)
	url, ready := "http://"+c.ip()+":8000", "http://"+c.ip()+":8099"
	stopUnderLoad{
		quick: url + "/healthz",
		slow:  func() (*http.Request, error) { return http.NewRequest("POST", url+"/process-data", nil) },
		took:  5 * time.Second, ready: ready, window: 2 * time.Second, log: c.err,
		stop: func() { dockerDoes(t, "kill", "-s", "TERM", c.name) },
	}.run(t)
	if code := c.wait(); code != 0 && code != 143 {
		t.Errorf("exit code %d", code)
	}
	c.logs(`drainit: stopped"`)
}

// A Docker daemon of its own, with drainit as docker-init.
func TestDockerRunInit(t *testing.T) {
	needDocker(t)
	if os.Geteuid() != 0 {
		missing(t, false, "a second Docker daemon needs root")
	}
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		missing(t, true, "no dockerd to start a second one of: apt-get install docker.io")
	}
	t.Parallel()
	dir, err := os.MkdirTemp("", "drainit-dockerd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	host := "unix://" + filepath.Join(dir, "sock")
	// In a network namespace of its own: a dockerd without a bridge removes the
	// bridge it finds, which belongs to the first daemon.
	d := start(t, setup{direct: true, shell: []string{"/usr/bin/unshare", "--net", dockerd, "--host", host, "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"), "--bridge", "none",
		"--iptables=false", "--ip-forward=false", "--ip-masq=false", "--init-path", drainit}}, "")
	t.Cleanup(func() { // before SIGKILL, so that its containerd ends too
		d.signal(unix.SIGTERM)
		select {
		case <-d.done:
		case <-time.After(patience):
		}
	})
	eventually(t, "a second dockerd answers", func() bool {
		select {
		case <-d.done:
			missing(t, false, "a second dockerd does not run here: %s", d.err.tail())
		default:
		}
		_, err := docker("-H", host, "version")
		return err == nil
	})
	content, err := imageContent()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("docker", "-H", host, "import", "-", "init-test")
	c.Stdin = content
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for code, command := range map[int][]string{7: {"/testchild", "exit", "7"}, 143: {"/testchild", "die", "15"}} {
		p := start(t, setup{direct: true, shell: append([]string{"docker", "-H", host, "run", "--init", "--rm", "--network", "none", "init-test"}, command...)}, "")
		p.exits(code)
	}
	p := start(t, setup{direct: true, shell: []string{"docker", "-H", host, "run", "--init", "--rm", "--name", "init", "--network", "none",
		"-e", "DRAINIT_DRAIN_WINDOW=1s", "init-test", "/testchild", "signals", "-exit", "15:9"}}, "")
	p.says("ready")
	dockerDoes(t, "-H", host, "stop", "init")
	p.exits(9)
	p.logs(`drainit: stopped"`)
}
