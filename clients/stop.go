package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// world is one stop: the server, the clients and the balancer.
type world struct {
	order
	scenario *scenario
	addr     string

	t0        time.Time     // when SIGTERM is sent, known beforehand
	moved     chan struct{} // closed when the balancer sends no more here
	over      chan struct{} // closed when the server has exited
	overAt    time.Time
	serverNet *os.File
	clients   sync.WaitGroup

	mu     sync.Mutex
	total  int
	lost   map[string]int
	losses []string
	conns  map[net.Conn]bool
}

// stopOnce makes the stop that was ordered, and prints the result.
func stopOnce() {
	var o order
	err := json.Unmarshal([]byte(os.Getenv(orderVariable)), &o)
	if err == nil {
		os.Unsetenv(orderVariable)
		err = ownProc()
	}
	var r result
	if err == nil {
		w := &world{
			order: o, scenario: find(o.Case), addr: fmt.Sprintf("%s:%d", serverIP, serverPort),
			moved: make(chan struct{}), over: make(chan struct{}),
			lost: map[string]int{}, conns: map[net.Conn]bool{},
		}
		r, err = w.run()
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(1)
	}
}

func (w *world) run() (result, error) {
	p, err := w.start()
	if err != nil {
		return result{}, err
	}
	if err := w.ready(p); err != nil {
		return result{}, err
	}
	w.t0 = time.Now().Add(w.scenario.warm)
	go w.balance()
	stall := make(chan time.Duration, 1)
	go func() { stall <- w.stalls() }()
	w.scenario.traffic(w)
	time.Sleep(time.Until(w.t0))
	began := time.Now()
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return result{}, fmt.Errorf("the server has ended: %w", err)
	}
	killed := false
	select {
	case <-p.done:
	case <-time.After(w.Budget + time.Second):
		killed = true
		p.cmd.Process.Kill()
		<-p.done
	}
	exit := time.Since(began)
	w.end()
	<-w.moved
	w.finish()
	return w.result(p, exit, <-stall, killed), nil
}

// stalls is the longest time this process had to wait for a CPU before the
// server was gone: a drainit beside it had to wait as long.
func (w *world) stalls() (longest time.Duration) {
	const nap = 20 * time.Millisecond
	for !closed(w.over) {
		began := time.Now()
		time.Sleep(nap)
		longest = max(longest, time.Since(began)-nap)
	}
	return longest
}

// process is drainit and what it started.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	log  []string
}

// start starts the server in namespaces of its own, and connects them.
func (w *world) start() (*process, error) {
	p := &process{cmd: w.command(), done: make(chan struct{})}
	held, release, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer held.Close()
	defer release.Close()
	p.cmd.ExtraFiles = []*os.File{held}
	// A pipe of the rig's own: Wait would wait for whatever holds it open.
	logs, logsEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer logsEnd.Close()
	p.cmd.Stderr = logsEnd
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.read(logs)
	if err := w.wire(p.cmd.Process.Pid); err != nil {
		return nil, err
	}
	if _, err := release.Write([]byte{1}); err != nil {
		return nil, err
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// command is the server's, behind what is measured, in namespaces that are
// still without a network.
func (w *world) command() *exec.Cmd {
	args := []string{"-enter"}
	if w.scenario.denied {
		args = append(args, "-denied")
	}
	args = append(append(args, w.Subject.Path, "--"), w.scenario.server(w)...)
	cmd := exec.Command(self(), args...)
	cmd.Dir = w.Dir
	cmd.Env = append(os.Environ(), w.environment()...)
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	return cmd
}

// wire connects the server's namespace, which is that of the process.
func (w *world) wire(pid int) (err error) {
	if w.serverNet, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
		return err
	}
	if w.scenario.trip > 0 {
		err = w.slowWire(w.scenario.trip)
	} else {
		err = pair(pid)
	}
	if err != nil {
		return err
	}
	return clientSide()
}

func (p *process) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fmt.Fprintln(os.Stderr, lines.Text())
		p.mu.Lock()
		p.log = append(p.log, lines.Text())
		p.mu.Unlock()
	}
}

func (w *world) withDrainit() bool { return !strings.HasSuffix(w.Subject.Path, "tini") }

func (w *world) environment() []string {
	env := []string{"PORT=" + fmt.Sprint(serverPort), "NODE_PATH=/usr/share/nodejs", "PYTHONDONTWRITEBYTECODE=1"}
	if w.scenario.tls {
		env = append(env, "TLS=1")
	}
	if !w.withDrainit() {
		return env
	}
	env = append(env, fmt.Sprintf("DRAINIT_HEALTH_ADDR=:%d", healthPort),
		"DRAINIT_GRACE_PERIOD="+w.Budget.String(), "DRAINIT_LOG_FORMAT=json")
	if w.Until != "" {
		env = append(env, "DRAINIT_DRAIN_UNTIL="+w.Until)
	}
	if w.Budget == fullBudget && !w.scenario.unwindowed {
		env = append(env, "DRAINIT_DRAIN_WINDOW=5s")
	}
	settings := w.scenario.env
	if w.Subject.Label != "before" {
		settings = slices.Concat(settings, w.scenario.newer)
	}
	for _, e := range settings {
		env = append(env, "DRAINIT_"+e)
	}
	return env
}

// ready waits until the server can be used.
func (w *world) ready(p *process) error {
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		select {
		case <-p.done:
			return fmt.Errorf("the server has not started")
		default:
		}
		if w.probe() {
			return nil
		}
	}
	return fmt.Errorf("the server is not ready after 3 minutes")
}

// probe reports whether the readiness probe passes, as the kubelet asks it.
// Without drainit it is a mere connection to the server's port.
func (w *world) probe() bool {
	d := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(nodeIP)}}
	if !w.withDrainit() {
		c, err := d.Dial("tcp", w.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	c, err := d.Dial("tcp", healthAddr)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprint(c, "GET /readyz HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	return err == nil && r.StatusCode == http.StatusOK
}

// balance asks once a second, as a kubelet does, and moves on so long after the
// first failure. Without drainit nothing is known before the server is gone:
// then it is told at once.
func (w *world) balance() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	failed := w.t0
	for range tick.C {
		if w.withDrainit() && w.probe() {
			continue
		}
		if !w.withDrainit() && time.Now().Before(w.t0) {
			continue
		}
		break
	}
	time.Sleep(time.Until(failed.Add(w.scenario.late)))
	close(w.moved)
	for w.withDrainit() && !closed(w.over) {
		<-tick.C
		w.probe()
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// until sleeps until d after t0, or before it if that is negative.
func (w *world) until(d time.Duration) { time.Sleep(time.Until(w.t0.Add(d))) }

// finish waits for the clients.
func (w *world) finish() {
	done := make(chan struct{})
	go func() { w.clients.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience + 10*time.Second):
		w.record("a client", time.Now(), fmt.Errorf("has not ended"))
	}
}

// spread is a random duration between two.
func spread(from, to time.Duration) time.Duration {
	return from + rand.N(max(to-from, 1))
}

// exponential is a random pause of that mean: arrivals of a Poisson stream.
func exponential(mean time.Duration) time.Duration {
	return time.Duration(rand.ExpFloat64() * float64(mean))
}

func (w *world) result(p *process, exit, stall time.Duration, killed bool) result {
	r := result{
		Case: w.Case, Kind: w.scenario.kind, Until: w.Until, Budget: w.Budget.Seconds(),
		Subject: w.Subject.Label, Round: w.Round,
		Lost: w.lost, Total: w.total, Losses: w.losses, Exit: seconds(exit), Stall: seconds(stall),
		Killed: killed || p.cmd.ProcessState.ExitCode() == 137,
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.log {
		r.takeLog(l)
	}
	if !w.withDrainit() {
		r.Why = "at once"
	}
	r.Waiting = slices.Compact(r.Waiting)
	if len(r.Waiting) > 8 {
		r.Waiting = r.Waiting[:8]
	}
	r.judge(w.scenario.want(w.Until, w.Budget))
	return r
}
