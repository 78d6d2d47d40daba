// Package integration_test runs the built binary as containers do: as the first
// process of a PID namespace, in Docker, behind a terminal, in front of real
// servers. A test that can't run here is skipped with its reason, or fails
// where CI=true and what it needs could have been installed.
package integration_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// drainit and testchild are the paths of the built programs.
var drainit, testchild string

// patience bounds what should happen soon, on a machine that may be busy.
const patience = time.Minute

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	if testing.Short() {
		fmt.Println("skipped by -short: these tests take ten minutes and want root and Docker")
		return 0
	}
	// These tests mostly wait, so more of them than CPUs may run.
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		flag.Set("test.parallel", "8")
	}
	dir, err := os.MkdirTemp("", "drainit-test-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755) // containers run it as others
	}
	if err == nil {
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	cleanDocker()
	return code
}

// build builds both programs as the Makefile does: without -race, which the
// tests themselves may have. TEST_DRAINIT and TEST_CHILD name what to use
// instead where there is no compiler, and the worker is beside the latter.
func build(dir string) error {
	testchild, drainit = os.Getenv("TEST_CHILD"), os.Getenv("TEST_DRAINIT")
	programs := map[string]string{}
	if testchild == "" {
		testchild = filepath.Join(dir, "testchild")
		programs[testchild] = "./testchild"
	}
	if drainit == "" {
		drainit = filepath.Join(dir, "drainit")
		programs[drainit] = ".."
	}
	for out, pkg := range programs {
		c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X runtime.godebugDefault=disablethp=1", "-o", out, pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if b, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %v\n%s", pkg, err, b)
		}
	}
	return nil
}

// missing skips the test, or fails it where CI=true and what is missing can be
// installed.
func missing(t *testing.T, installable bool, format string, args ...any) {
	t.Helper()
	if installable && os.Getenv("CI") == "true" {
		t.Fatalf("CI=true, and "+format, args...)
	}
	t.Skipf(format, args...)
}

// program returns path if there is such a program.
func program(t *testing.T, path, debianPackage string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		missing(t, true, "there is no %s: apt-get install %s", path, debianPackage)
	}
	return path
}

// namespaces returns why no PID namespace can be made, or "".
var namespaces = sync.OnceValue(func() string {
	c := exec.Command(testchild, "stage", "--", testchild, "exit", "0")
	c.SysProcAttr = newPIDNamespace()
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Sprintf("the kernel makes no PID namespace: %v %s", err, out)
	}
	return ""
})

func newPIDNamespace() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return attr
}

// setup is how drainit is run. The zero setup runs it as PID 1 with a /proc of
// its own, no readiness port, and a child that is ready once started.
type setup struct {
	env    []string // variables; drainit's without the prefix
	direct bool     // not as PID 1
	proc   string   // for PID 1: fresh, none, or host
	stage  []string // more flags of testchild stage
	as     string   // another path of drainit
	stdin  *os.File
	stdout *os.File // nil: into process.out
	stderr *os.File // nil: into process.err
	extra  []*os.File
	dir    string
	term   *terminal // becomes 0, 1, 2 and the controlling terminal
	shell  []string  // what to execute instead of drainit
}

// process is a started drainit.
type process struct {
	t        *testing.T
	pid      int // in the tests' own PID namespace
	handle   *os.Process
	out, err *lines
	done     chan struct{}
	code     int // valid once done is closed; 1000+n if signal n killed drainit
	began    time.Time
	ended    time.Time
}

// environment returns the tests' own environment with the variables of env.
func environment(env []string) []string {
	all := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LC_ALL=C.UTF-8",
		"DRAINIT_HEALTH_ADDR=off", "DRAINIT_READY_CHECK=started", "KUBERNETES_SERVICE_HOST=10.96.0.1"}
	for _, e := range env {
		if unprefixed.MatchString(e) {
			e = "DRAINIT_" + e
		}
		all = append(all, e)
	}
	return all
}

var unprefixed = regexp.MustCompile(`^(HEALTH_ADDR|GRACE_PERIOD|DRAIN_|STOP_|KILL_|UNREADY_|SIGNAL_|EXIT_CODES|ORPHAN_|READY_|WATCHDOG=|PORTS|LOG_|TERMINATION_LOG)`)

// start starts drainit with args, and kills everything when the test ends.
func start(t *testing.T, s setup, args ...string) *process {
	t.Helper()
	p, err := launch(t, s, args...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func launch(t *testing.T, s setup, args ...string) (*process, error) {
	t.Helper()
	words := append([]string{drainit}, args...)
	if s.as != "" {
		words[0] = s.as
	}
	if s.shell != nil {
		words = s.shell
	}
	p := &process{t: t, out: newLines(), err: newLines(), done: make(chan struct{})}
	attr := new(syscall.SysProcAttr)
	if !s.direct {
		if why := namespaces(); why != "" {
			missing(t, false, "%s", why)
		}
		attr = newPIDNamespace()
	}
	if !s.direct || len(s.stage) > 0 {
		proc := s.proc
		switch {
		case s.direct:
			proc = "host"
		case proc == "":
			proc = "fresh"
		}
		staged := append([]string{testchild, "stage", "-proc", proc}, s.stage...)
		words = append(append(staged, "--"), words...)
	}
	c := exec.Command(words[0], words[1:]...)
	c.Env, c.Dir, c.ExtraFiles, c.SysProcAttr = environment(s.env), s.dir, s.extra, attr
	c.WaitDelay = 5 * time.Second // for pipes that strays hold open
	c.Stdout, c.Stderr = p.out, p.err
	if s.stdin != nil {
		c.Stdin = s.stdin
	}
	if s.stdout != nil {
		c.Stdout = s.stdout
	}
	if s.stderr != nil {
		c.Stderr = s.stderr
	}
	if s.term != nil {
		c.Stdin, c.Stdout, c.Stderr = s.term.slave, s.term.slave, s.term.slave
		p.out, p.err = s.term.out, s.term.out
		attr.Setsid, attr.Setctty = true, true
	}
	p.began = time.Now()
	if err := c.Start(); err != nil {
		return nil, err
	}
	if s.term != nil {
		s.term.slave.Close() // so that the other side sees the end
	}
	p.pid, p.handle = c.Process.Pid, c.Process
	go func() {
		err := c.Wait()
		p.ended = time.Now()
		status := c.ProcessState.Sys().(syscall.WaitStatus)
		if p.code = status.ExitStatus(); status.Signaled() {
			p.code = 1000 + int(status.Signal())
		}
		if err != nil && errors.Is(err, exec.ErrWaitDelay) {
			fmt.Fprintln(p.err, "(the tests: something still held the output open)")
		}
		if s.term != nil {
			s.term.read(time.Second)
		}
		p.out.end()
		p.err.end()
		close(p.done)
	}()
	t.Cleanup(p.kill)
	return p, nil
}

// kill ends drainit and all its descendants.
func (p *process) kill() {
	select {
	case <-p.done:
		return
	default:
	}
	for _, d := range descendants(p.pid) {
		unix.Kill(d.pid, unix.SIGKILL)
	}
	p.send(unix.SIGKILL)
	<-p.done
}

// signal sends drainit a signal.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.send(sig); err != nil {
		p.t.Fatalf("signal %d to drainit: %v", sig, err)
	}
}

// send is signal for a drainit that may have ended. It uses the handle, since
// the PID may be another process's by now.
func (p *process) send(sig syscall.Signal) error { return p.handle.Signal(sig) }

// wait waits for drainit's end and returns its exit code.
func (p *process) wait() int {
	p.t.Helper()
	return p.waitFor(patience)
}

func (p *process) waitFor(d time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(d):
		p.t.Fatalf("drainit has not ended within %s\nstdout: %s\nstderr: %s", d, p.out.tail(), p.err.tail())
	}
	return p.code
}

// exits fails the test unless drainit ends with that code.
func (p *process) exits(code int) {
	p.t.Helper()
	if got := p.wait(); got != code {
		p.t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", got, code, p.out.tail(), p.err.tail())
	}
}

// says waits for a line of the child.
func (p *process) says(text string) string { p.t.Helper(); return p.out.wait(p.t, text) }

// logs waits for a line of drainit's log.
func (p *process) logs(text string) string { p.t.Helper(); return p.err.wait(p.t, text) }

// child returns the PID of drainit's child, in the tests' own namespace.
func (p *process) child() int {
	p.t.Helper()
	var pid int
	eventually(p.t, "drainit has a child", func() bool {
		for _, c := range processes() {
			if c.ppid == p.pid && c.state != "Z" {
				pid = c.pid
			}
		}
		return pid != 0
	})
	return pid
}

// catching waits until drainit catches signals. SIGCONT is the first one that
// the Go runtime leaves alone until asked, and drainit asks for it after
// SIGTERM. No child may have been started before.
func (p *process) catching() {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.pid, p.pid))
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
		if err != nil || signalSet(string(status), "SigCgt")&(1<<(unix.SIGCONT-1)) != 0 {
			return // gone, or ready
		}
		if len(children) > 0 {
			p.t.Error("the child was started before the signals were caught")
			return
		}
		runtime.Gosched()
	}
	p.t.Error("drainit catches no signals")
}

// signalSet reads one of the masks in /proc/PID/status, without 32 and 33,
// which belong to the C library: children of glibc's posix_spawn, such as
// make's, ignore them.
func signalSet(status, name string) uint64 {
	_, rest, _ := strings.Cut(status, "\n"+name+":\t")
	word, _, _ := strings.Cut(rest, "\n")
	mask, _ := strconv.ParseUint(strings.TrimSpace(word), 16, 64)
	return mask &^ (1<<31 | 1<<32)
}

// attribute returns the value of key= in a line of the log.
func attribute(t *testing.T, line, key string) string {
	t.Helper()
	m := regexp.MustCompile(`(?:^| )` + key + `=("[^"]*"|\S*)`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("no %s= in %q", key, line)
	}
	return strings.Trim(m[1], `"`)
}

// duration is attribute for a duration.
func duration(t *testing.T, line, key string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(attribute(t, line, key))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// about fails the test unless got is at least want, and at most what a busy
// machine may add to it.
func about(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got < want-20*time.Millisecond || got > want+4*time.Second {
		t.Errorf("%s after %s, want %s", what, got, want)
	}
}

// eventually polls for a condition that has no event to wait for.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// proc is one process in /proc.
type proc struct {
	pid, ppid int
	state     string
}

func processes() (all []proc) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		s := string(stat)
		f := strings.Fields(s[strings.LastIndex(s, ")")+1:])
		ppid, _ := strconv.Atoi(f[1])
		all = append(all, proc{pid, ppid, f[0]})
	}
	return all
}

func descendants(root int) (found []proc) {
	all := processes()
	roots := map[int]bool{root: true}
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if roots[p.ppid] && !roots[p.pid] {
				roots[p.pid], grown = true, true
				found = append(found, p)
			}
		}
	}
	return found
}

// lines collects output and lets tests wait for it.
type lines struct {
	mu      sync.Mutex
	text    strings.Builder
	ended   bool
	changed chan struct{}
}

func newLines() *lines { return &lines{changed: make(chan struct{})} }

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(b)
	close(l.changed)
	l.changed = make(chan struct{})
	return len(b), nil
}

func (l *lines) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// tail returns the end of the output, for messages.
func (l *lines) tail() string {
	s := l.String()
	return s[max(0, len(s)-4000):]
}

// find returns the first complete line that contains text.
func (l *lines) find(text string) (line string, found, ended bool, changed chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.text.String()
	if i := strings.Index(s, text); i >= 0 {
		if nl := strings.IndexByte(s[i:], '\n'); nl >= 0 {
			return strings.TrimRight(s[strings.LastIndexByte(s[:i], '\n')+1:i+nl], "\r"), true, l.ended, l.changed
		}
	}
	return "", false, l.ended, l.changed
}

func (l *lines) wait(t *testing.T, text string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		line, found, ended, changed := l.find(text)
		switch {
		case found:
			return line
		case ended:
			t.Fatalf("output ended without %q: %s", text, l.tail())
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no %q within %s: %s", text, patience, l.tail())
		}
	}
}

// count returns how often text occurs.
func (l *lines) count(text string) int { return strings.Count(l.String(), text) }

var ports = struct {
	sync.Mutex
	next int
}{next: 20000 + rand.IntN(8000)}

// freePort finds a port outside the range that outgoing connections use.
func freePort(t *testing.T) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	for range 1000 {
		ports.next++
		if l, err := net.Listen("tcp", fmt.Sprintf(":%d", ports.next)); err == nil {
			l.Close()
			return ports.next
		}
	}
	t.Fatal("no free port")
	return 0
}

// probeClient opens a connection for each request, as the kubelet does.
var probeClient = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get returns the status and the body of url; 0 if there is no answer.
func get(url string) (int, string) {
	r, err := probeClient.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err.Error()
	}
	return r.StatusCode, string(b)
}

// healthPort returns the variable that sets a free port, and its URL.
func healthPort(t *testing.T) (variable, url string) {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	return "HEALTH_ADDR=" + addr, "http://" + addr
}

// answers waits until url answers with code.
func answers(t *testing.T, url string, code int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s answers %d", url, code), func() bool { got, _ := get(url); return got == code })
}
