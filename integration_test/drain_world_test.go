package integration_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// What clients lose when a server is stopped, measured: each scenario beside
// the same run without an init, under tini, under dumb-init, and under drainit
// with a fixed window, all in one run, with one table at the end:
//
//	go test -run TestNobodyIsLost -v ./integration_test
//
// Every stop is that of a container: the init (or the server, if there is none)
// is PID 1, in a network namespace of its own, and what has not ended at the
// end of the grace period gets SIGKILL. What varies between two runs comes from
// TEST_SEED. Times are asserted only where a scenario is about them, and
// generously.

// The ports in each network namespace.
const (
	drainPort       = 8000
	drainHealthPort = 8099
	drainOtherPort  = 8001
)

// drainNet is a network namespace.
type drainNet struct{ file *os.File }

// drainHome is the tests' own network namespace, opened before any thread has
// left it.
var drainHome = sync.OnceValues(func() (*os.File, error) { return os.Open("/proc/self/ns/net") })

func newDrainNet(t *testing.T) *drainNet {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, false, "only root can make a network namespace and enter it")
	}
	home, err := drainHome()
	if err != nil {
		t.Fatal(err)
	}
	n := new(drainNet)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		missing(t, false, "the kernel makes no network namespace: %v", err)
	}
	n.file, err = os.Open("/proc/thread-self/ns/net")
	err = errors.Join(err, drainLoopback(), unix.Setns(int(home.Fd()), unix.CLONE_NEWNET))
	if err != nil {
		t.Fatal(err) // and the thread with it
	}
	runtime.UnlockOSThread()
	t.Cleanup(func() { n.file.Close() })
	return n
}

// drainLoopback brings the loopback interface up.
func drainLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// do runs f in the namespace: sockets and processes made there belong to it. A
// nil namespace is the tests' own.
func (n *drainNet) do(f func()) {
	if n == nil {
		f()
		return
	}
	home, err := drainHome()
	if err != nil {
		panic(err)
	}
	runtime.LockOSThread()
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(err)
	}
	defer func() {
		// A thread that can't return ends with its goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	f()
}

// join connects two namespaces by a pair of interfaces: this one gets
// 10.99.0.1, other 10.99.0.2.
func (n *drainNet) join(t *testing.T, other *drainNet) {
	t.Helper()
	ip := func(in *drainNet, args ...string) {
		t.Helper()
		in.do(func() {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
			}
		})
	}
	if _, err := exec.LookPath("ip"); err != nil {
		missing(t, true, "there is no ip: apt-get install iproute2")
	}
	ip(n, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), other.file.Fd()))
	for in, address := range map[*drainNet]string{n: "10.99.0.1/24", other: "10.99.0.2/24"} {
		ip(in, "address", "add", address, "dev", "eth0")
		ip(in, "link", "set", "eth0", "up")
	}
}

func (n *drainNet) dial(addr string, timeout time.Duration) (c net.Conn, err error) {
	// A single numeric address is dialled by the calling goroutine.
	n.do(func() { c, err = (&net.Dialer{Timeout: timeout}).Dial("tcp4", addr) })
	return c, err
}

// start is the package's start, in the namespace.
func (n *drainNet) start(t *testing.T, s setup, args ...string) (p *process) {
	t.Helper()
	var err error
	n.do(func() { p, err = launch(t, s, args...) })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// drainServer is a real server, unchanged. It listens on 127.0.0.1:drainPort.
type drainServer struct {
	name    string
	command func(t *testing.T) []string
}

var (
	drainNode    = drainServer{"node", func(t *testing.T) []string { return []string{drainNodePath(t), drainScript("node.js")} }}
	drainThreads = drainServer{"http.server", func(t *testing.T) []string {
		return []string{program(t, "/usr/bin/python3", "python3"), drainScript("threads.py")}
	}}
	drainUvicorn        = drainServer{"uvicorn", func(t *testing.T) []string { return drainUvicornCommand(t) }}
	drainUvicornWorkers = drainServer{"uvicorn --workers 2", func(t *testing.T) []string { return drainUvicornCommand(t, "--workers", "2") }}
	drainGunicorn       = drainServer{"gunicorn -w 2", func(t *testing.T) []string {
		return []string{program(t, "/usr/bin/gunicorn", "gunicorn"), "-w", "2", "-b", fmt.Sprintf("127.0.0.1:%d", drainPort),
			"--chdir", drainScript(""), "--log-level", "critical", "--no-sendfile", "wsgi:app"}
	}}
)

func drainUvicornCommand(t *testing.T, more ...string) []string {
	program(t, "/usr/lib/python3/dist-packages/uvicorn", "python3-uvicorn")
	program(t, "/usr/lib/python3/dist-packages/websockets", "python3-websockets")
	return append([]string{program(t, "/usr/bin/python3", "python3"), "-m", "uvicorn", "asgi:app", "--app-dir", drainScript(""),
		"--host", "127.0.0.1", "--port", fmt.Sprint(drainPort), "--log-level", "critical"}, more...)
}

func drainNodePath(t *testing.T) string {
	for _, path := range []string{"/usr/bin/node", "/usr/local/bin/node"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return program(t, "/usr/bin/node", "nodejs")
}

// drainScript returns the path of one of the servers.
func drainScript(name string) string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return dir + "/servers/" + name
}

// drainInits lists what each scenario is run under besides the values of
// DRAIN_UNTIL that it is about.
var drainInits = []string{"none", "tini", "dumb-init", "window"}

// drainStop is one stop: a server, what is in front of it, and its clients.
type drainStop struct {
	scenario string
	server   drainServer
	init     string   // none, tini, dumb-init, or a value of DRAIN_UNTIL
	env      []string // for drainit
	public   []string // for the server
	apart    bool     // the server's network namespace ends with it, as a container's does
	grace    time.Duration
	warm     time.Duration                                 // traffic before the stop signal
	late     time.Duration                                 // the balancer's delay after readiness turns
	traffic  func(l *drainLoad)                            // starts the clients
	beside   func(t *testing.T, n *drainNet)               // starts neighbours first; may be nil
	inside   func(t *testing.T, command []string) []string // wraps the command; may be nil
	net      *drainNet                                     // nil: a new one
	mild     bool                                          // tini may lose nothing
	secure   bool                                          // TLS
	seed     uint64
}

// drainResult is the result of a stop.
type drainResult struct {
	*drainLoad
	log          string        // drainit's
	signal, exit time.Duration // since t0
	killed       bool          // at the end of the grace period
	why          string        // drainit's
}

func (s *drainStop) withDrainit() bool {
	return s.init != "none" && s.init != "tini" && s.init != "dumb-init"
}

// command returns the whole command.
func (s *drainStop) command(t *testing.T) []string {
	command := s.server.command(t)
	switch s.init {
	case "none":
	case "tini":
		command = append([]string{program(t, "/usr/bin/tini", "tini"), "--"}, command...)
	case "dumb-init":
		command = append([]string{program(t, "/usr/bin/dumb-init", "dumb-init"), "--"}, command...)
	default:
		command = append([]string{drainit, "--"}, command...)
	}
	if s.inside != nil {
		command = s.inside(t, command)
	}
	return command
}

// host returns the address the server listens on.
func (s *drainStop) host() string {
	if s.apart {
		return "10.99.0.2"
	}
	return "127.0.0.1"
}

func (s *drainStop) environment() []string {
	env := []string{"HOST=" + s.host(), fmt.Sprintf("PORT=%d", drainPort), "PYTHONDONTWRITEBYTECODE=1"}
	env = append(env, s.public...)
	if s.withDrainit() {
		env = append(env, fmt.Sprintf("HEALTH_ADDR=%s:%d", s.host(), drainHealthPort), "READY_CHECK=listen",
			"GRACE_PERIOD="+s.grace.String(), "DRAIN_UNTIL="+s.init)
		env = append(env, s.env...)
	}
	return env
}

// run carries out the stop.
func (s *drainStop) run(t *testing.T) *drainResult {
	t.Helper()
	if s.net == nil {
		s.net = newDrainNet(t)
	}
	if s.beside != nil {
		s.beside(t, s.net)
	}
	command := s.command(t)
	home := s.net
	if s.apart {
		home = newDrainNet(t)
		s.net.join(t, home)
	}
	p := home.start(t, setup{as: command[0], env: s.environment()}, command[1:]...)
	if s.apart {
		home.file.Close() // its processes keep it alive now
	}
	r := s.measure(t, s.host(), drainSubject{
		done:   p.done,
		signal: func() { p.signal(unix.SIGTERM) },
		kill:   p.kill,
		ended:  func() time.Time { return p.ended },
		log:    p.err.String,
	})
	return r
}

// drainSubject is what is stopped: a process, or a container.
type drainSubject struct {
	done         <-chan struct{}
	signal, kill func()
	ended        func() time.Time // valid once done is closed
	log          func() string
}

// measure stops what was started and listens on host.
func (s *drainStop) measure(t *testing.T, host string, p drainSubject) *drainResult {
	t.Helper()
	l := newDrainLoad(s.net, fmt.Sprintf("%s:%d", host, drainPort), s.seed)
	l.listens(t, p)
	l.secure = s.secure
	health := ""
	if s.withDrainit() {
		health = fmt.Sprintf("%s:%d", host, drainHealthPort)
		eventually(t, "drainit is ready", func() bool { return l.ready(health) })
	}
	watching := make(chan struct{})
	go func() { defer close(watching); l.balance(health, s.late) }()
	s.traffic(l)
	time.Sleep(s.warm)

	l.stop()
	p.signal()
	r := &drainResult{drainLoad: l}
	select {
	case <-p.done:
	case <-time.After(s.grace):
		r.killed = true
		p.kill()
		<-p.done
	}
	r.exit = p.ended().Sub(l.t0)
	<-watching
	l.finish(t)
	r.log = p.log()
	if s.withDrainit() {
		line := r.line(t, "stop signal forwarded")
		r.why, r.signal = attribute(t, line, "why"), duration(t, line, "after")
		t.Log(r.log)
	}
	drainReport.add(s, r)
	return r
}

// line returns the first line of drainit's log that contains text.
func (r *drainResult) line(t *testing.T, text string) string {
	t.Helper()
	for line := range strings.Lines(r.log) {
		if strings.Contains(line, text) {
			return strings.TrimSpace(line)
		}
	}
	t.Fatalf("no %q in %s", text, r.log)
	return ""
}

// lossless fails the test if a client has lost a request.
func (r *drainResult) lossless(t *testing.T) {
	t.Helper()
	if r.losses() > 0 {
		t.Errorf("lost %d of %d requests:\n%s\ndrainit: %s", r.losses(), r.requests, strings.Join(r.details[:min(20, len(r.details))], "\n"), r.log)
	}
}

// because fails the test unless drainit forwarded for that reason.
func (r *drainResult) because(t *testing.T, want string) {
	t.Helper()
	if r.why != want {
		t.Errorf("forwarded because of %s, want %s:\n%s", r.why, want, r.log)
	}
}

// drainTable collects the results of all scenarios.
type drainTable struct {
	mu   sync.Mutex
	rows []*drainRow
}

type drainRow struct {
	scenario, server, init string
	stops, requests        int
	lost                   map[drainLoss]int
	signal, exit           []time.Duration
	killed                 bool
}

var drainReport drainTable

func (d *drainTable) add(s *drainStop, r *drainResult) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.rows, func(w *drainRow) bool {
		return w.scenario == s.scenario && w.server == s.server.name && w.init == s.init
	})
	if i < 0 {
		i = len(d.rows)
		d.rows = append(d.rows, &drainRow{scenario: s.scenario, server: s.server.name, init: s.init, lost: map[drainLoss]int{}})
	}
	w := d.rows[i]
	w.stops++
	w.requests += r.requests
	for kind, n := range r.lost {
		w.lost[kind] += n
	}
	w.signal, w.exit = append(w.signal, r.signal), append(w.exit, r.exit)
	w.killed = w.killed || r.killed
}

// String formats the rows, in the order of the scenarios' numbers.
func (d *drainTable) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	order := func(w *drainRow) int {
		if i := slices.Index(drainInits, w.init); i >= 0 {
			return i
		}
		return len(drainInits)
	}
	slices.SortStableFunc(d.rows, func(a, b *drainRow) int {
		if c := strings.Compare(a.scenario+a.server, b.scenario+b.server); c != 0 {
			return c
		}
		return order(a) - order(b)
	})
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "scenario\tserver\tinit\tstops\trequests\tlost")
	for _, kind := range drainLosses {
		fmt.Fprintf(w, "\t%s", kind)
	}
	fmt.Fprintln(w, "\tsignal after\texit after")
	for _, r := range d.rows {
		total := 0
		for _, n := range r.lost {
			total += n
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d", r.scenario, r.server, r.init, r.stops, r.requests, total)
		for _, kind := range drainLosses {
			fmt.Fprintf(w, "\t%d", r.lost[kind])
		}
		fmt.Fprintf(w, "\t%s\t%s", drainRange(r.signal), drainRange(r.exit))
		if r.killed {
			fmt.Fprint(w, ", SIGKILL")
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	return b.String()
}

func drainRange(d []time.Duration) string {
	low, high := slices.Min(d).Seconds(), slices.Max(d).Seconds()
	if high-low < 0.1 {
		return fmt.Sprintf("%.1f s", high)
	}
	return fmt.Sprintf("%.1f–%.1f s", low, high)
}
