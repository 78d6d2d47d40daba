package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

const (
	replicas = 3
	bin      = 100 * time.Millisecond
	lead     = 2 * time.Second // of a strip, before the first stop
	warmUp   = 4 * time.Second
)

// cell is one server, stopped in one way, behind one balancer.
type cell struct {
	server   server
	way      way
	plan     plan
	restarts int
	limit    time.Duration // no restart begins later than this
}

func (c cell) name() string { return fmt.Sprintf("%s, %s, %s", c.server.name, c.way.name, c.plan) }

// record is one restart: a line of the raw results.
type record struct {
	Server   string  `json:"server"`
	Way      string  `json:"way"`
	Until    string  `json:"until,omitempty"`
	Balancer string  `json:"balancer"`
	Restart  int     `json:"restart"`
	Stop     float64 `json:"stop_s"`
	Start    float64 `json:"start_s"`
	Code     int     `json:"code"`
	Killed   bool    `json:"killed,omitempty"` // by SIGKILL, after the budget
	Why      string  `json:"why,omitempty"`    // drainit's word for the forwarding
	Forward  float64 `json:"forwarded_s,omitempty"`
	InitRSS  int     `json:"init_rss_kb,omitempty"`
	InitCPU  float64 `json:"init_cpu_ms,omitempty"`
	Zombies  int     `json:"zombies"`
	traffic
}

// traffic is the requests that ended, by their kind.
type traffic struct {
	Sent   map[string]int             `json:"sent"`
	Failed map[string]map[failure]int `json:"failed,omitempty"`
}

func (r traffic) lost() (n int) {
	for _, f := range r.Failed {
		for _, k := range f {
			n += k
		}
	}
	return n
}

func (r traffic) sent() (n int) {
	for _, k := range r.Sent {
		n += k
	}
	return n
}

// strip is a rolling restart in bins of 100 ms: what ended well and what not.
type strip struct {
	Server   string    `json:"server"`
	Way      string    `json:"way"`
	Balancer string    `json:"balancer"`
	Good     []int     `json:"good"`
	Failed   []int     `json:"failed"`
	Stops    []float64 `json:"stops_s"` // when each stop began
	Backs    []float64 `json:"backs_s"` // when each replica was back
}

// tally gives what ends to the restart during which it ends.
type tally struct {
	mu      sync.Mutex
	before  record // the first restart
	records []record
	strip   strip
	began   time.Time // of the strip
}

func (t *tally) ended(kind string, f failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draw(f)
	r := &t.before
	if n := len(t.records); n > 0 {
		r = &t.records[n-1]
	}
	r.count(kind, f)
}

func (r *traffic) count(kind string, f failure) {
	if r.Sent == nil {
		r.Sent = make(map[string]int)
	}
	r.Sent[kind]++
	if f != good {
		if r.Failed == nil {
			r.Failed = make(map[string]map[failure]int)
		}
		if r.Failed[kind] == nil {
			r.Failed[kind] = make(map[failure]int)
		}
		r.Failed[kind][f]++
	}
}

func (t *tally) beginStrip() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.began = time.Now()
}

// draw adds to the strip.
func (t *tally) draw(f failure) {
	if t.began.IsZero() || len(t.records) > replicas {
		return
	}
	b := int(time.Since(t.began) / bin)
	for len(t.strip.Good) <= b {
		t.strip.Good, t.strip.Failed = append(t.strip.Good, 0), append(t.strip.Failed, 0)
	}
	if f == good {
		t.strip.Good[b]++
	} else {
		t.strip.Failed[b]++
	}
}

// site is a cell that runs.
type site struct {
	cell
	e        *engine
	replicas []*container
	idle     [replicas]usage // of each init, when its server was ready
	behind   []*container    // what the replicas need and share
	balancer balancer
	tally    tally
}

// measured is what a cell has shown.
type measured struct {
	before   record // without a restart
	restarts []record
	strip    strip
}

// run runs the cell to its end.
func (c cell) run(ctx context.Context, e *engine) (measured, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &site{cell: c, e: e}
	dir, err := os.MkdirTemp("", "drainit-proof-")
	if err != nil {
		return measured{}, err
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o755)
	defer s.remove()
	if err := s.up(ctx, dir); err != nil {
		return measured{}, fmt.Errorf("%s: %w", c.name(), err)
	}
	defer s.balancer.stop()
	err = s.load(ctx)
	m := measured{before: s.tally.before, restarts: s.tally.records, strip: s.tally.strip}
	m.before.Server, m.before.Way, m.before.Balancer, m.before.Restart = c.server.name, c.way.name, c.plan.String(), -1
	m.strip.Server, m.strip.Way, m.strip.Balancer = c.server.name, c.way.name, c.plan.String()
	return m, err
}

func (s *site) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, r := range s.replicas {
		r.remove(ctx)
	}
	for _, b := range s.behind {
		b.remove(ctx)
	}
}

// up starts the replicas and the balancer, and waits until they serve.
func (s *site) up(ctx context.Context, dir string) error {
	run := s.way.spec(s.server)
	if err := s.startBehind(ctx, &run); err != nil {
		return err
	}
	var ips []string
	for range replicas {
		r, err := s.e.create(ctx, s.e.address(), run)
		if err != nil {
			return err
		}
		s.replicas, ips = append(s.replicas, r), append(ips, r.ip)
		if err := s.begin(ctx, r); err != nil {
			return err
		}
		s.idle[len(ips)-1] = r.usage(ctx)
	}
	port, err := freePorts()
	if err != nil {
		return err
	}
	b := backends{ips: ips, port: s.server.port, rpc: s.server.rpc, check: s.server.port, path: s.server.path, fcgi: s.server.fcgi, dir: dir, listen: port}
	if s.way.drains() {
		b.check, b.path = 8099, "/readyz"
	}
	s.balancer = s.plan.build(b)
	return s.balancer.start(ctx)
}

// startBehind starts what is behind the replicas, and tells all where the first
// of it is.
func (s *site) startBehind(ctx context.Context, run *spec) error {
	for i, b := range s.server.behind {
		b.env = append(b.env, run.env...)
		c, err := s.e.create(ctx, s.e.address(), b)
		if err != nil {
			return err
		}
		s.behind = append(s.behind, c)
		if err := c.start(ctx); err != nil {
			return err
		}
		if i == 0 {
			run.env = append(run.env, "BACK="+c.ip)
		}
	}
	return nil
}

// begin starts a replica and waits until it is ready.
func (s *site) begin(ctx context.Context, r *container) error {
	if err := r.start(ctx); err != nil {
		return err
	}
	started := time.Now()
	for time.Since(started) < 2*time.Minute && ctx.Err() == nil {
		pause(ctx, 50*time.Millisecond)
		if s.isReady(ctx, r, started) {
			return nil
		}
	}
	return errors.Join(ctx.Err(), fmt.Errorf("not ready in time: %s", r.logs(context.Background(), time.Time{})))
}

var probes = http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func (s *site) isReady(ctx context.Context, r *container, started time.Time) bool {
	if s.server.jobs {
		return strings.Contains(r.logs(ctx, started), "begin ")
	}
	url := fmt.Sprintf("http://%s:%d%s", r.ip, s.server.port, s.server.path)
	switch {
	case s.way.drains():
		url = fmt.Sprintf("http://%s:8099/readyz", r.ip)
	case s.server.path == "":
		c, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", r.ip, s.server.port), time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	a, err := probes.Get(url)
	if err != nil {
		return false
	}
	a.Body.Close()
	return a.StatusCode == http.StatusOK
}

// load restarts the replicas one after the other, under traffic, until there
// were enough restarts or there is no more time.
func (s *site) load(ctx context.Context) error {
	c, err := s.clients()
	if err != nil {
		return err
	}
	loading, unload := context.WithCancel(ctx)
	var loaded sync.WaitGroup
	if !s.server.jobs {
		loaded.Go(func() { c.send(loading, s.server.kinds, s.tally.ended) })
	}
	pause(ctx, warmUp)
	s.tally.beginStrip()
	pause(ctx, lead)
	began := time.Now()
	for i := 0; i < s.restarts && ctx.Err() == nil && (i < replicas || time.Since(began) < s.limit); i++ {
		if err = s.restart(ctx, i); err != nil {
			err = fmt.Errorf("%s: restart %d: %w", s.name(), i, err)
			break
		}
	}
	pause(ctx, time.Second)
	unload()
	loaded.Wait()
	return errors.Join(err, ctx.Err())
}

// clients returns the clients of the balancer. gRPC's balance themselves where
// the balancer is no program.
func (s *site) clients() (*clients, error) {
	c := &clients{pick: s.balancer.pick, quick: "/quick", want: s.server.want, get: s.server.get, protocol: s.server.database}
	if s.server.rpc == 0 {
		return c, nil
	}
	target, options := "", []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry()}
	switch b := s.balancer.(type) {
	case *haproxy:
		target = fmt.Sprintf("127.0.0.1:%d", b.listen+1)
	case *follow:
		m := manual.NewBuilderWithScheme("proof")
		target = "proof:///replicas"
		m.InitialState(resolverState(b.rpcAddrs()))
		b.changed = func(addrs []string) { m.UpdateState(resolverState(addrs)) }
		options = append(options, grpc.WithResolvers(m), grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	default:
		return nil, fmt.Errorf("no gRPC behind %s", s.plan)
	}
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, err
	}
	conn.Connect()
	c.rpc = grpc_testing.NewTestServiceClient(conn)
	return c, nil
}

func resolverState(addrs []string) (s resolver.State) {
	for _, a := range addrs {
		s.Addresses = append(s.Addresses, resolver.Address{Addr: a})
	}
	return s
}

// restart stops one replica in the cell's way, and starts it again.
func (s *site) restart(ctx context.Context, i int) error {
	n := i % replicas
	r := s.replicas[n]
	if i < replicas {
		// What an init is for besides signals: processes that lose their parent.
		r.exec(ctx, "/bin/sh", "-c", "for i in 1 2 3; do (sleep 0.1 &) ; done; sleep 0.3")
	}
	u := r.usage(ctx)
	u.CPU -= s.idle[n].CPU
	began := s.newRecord(i, u)
	heard := s.balancer.stopping(ctx, n)
	pause(ctx, s.way.sleep)
	code, killed, took, err := s.stop(ctx, r, began)
	if err != nil {
		return err
	}
	log := r.logs(ctx, began.Add(-jobTakes))
	why, forwarded := forwarding(log)
	if s.server.jobs {
		s.countJobs(log)
	}
	// Until then this address is gone for good, as a pod's is: what the
	// balancer still sends there is lost.
	<-heard
	again := time.Now()
	if err := s.begin(ctx, r); err != nil {
		return err
	}
	s.idle[n] = r.usage(ctx)
	s.balancer.ready(n)
	for deadline := time.Now().Add(20 * time.Second); !s.balancer.settled(n) && time.Now().Before(deadline) && ctx.Err() == nil; {
		pause(ctx, 100*time.Millisecond)
	}
	pause(ctx, 500*time.Millisecond)
	s.tally.mu.Lock()
	defer s.tally.mu.Unlock()
	q := &s.tally.records[i]
	q.Stop, q.Start, q.Code, q.Killed = took.Seconds(), time.Since(again).Seconds(), code, killed
	q.Why, q.Forward = why, forwarded
	if i < replicas {
		s.tally.strip.Backs = append(s.tally.strip.Backs, time.Since(s.tally.began).Seconds())
	}
	return nil
}

// jobTakes is longer than any job of the workers.
const jobTakes = 3 * time.Second

// countJobs counts the jobs that a worker has begun last, and those of them that
// it has not ended.
func (s *site) countJobs(log string) {
	open := make(map[string]bool)
	for line := range strings.Lines(log) {
		switch f := strings.Fields(line); {
		case len(f) != 2:
		case f[0] == "begin":
			open[f[1]] = true
		case f[0] == "end" && open[f[1]]:
			delete(open, f[1])
			s.tally.ended("job", good)
		}
	}
	for range open {
		s.tally.ended("job", cut)
	}
}

// newRecord begins a record. Everything that ends from now on belongs to it.
func (s *site) newRecord(i int, u usage) time.Time {
	now := time.Now()
	s.tally.mu.Lock()
	defer s.tally.mu.Unlock()
	r := record{Server: s.server.name, Way: s.way.name, Until: s.way.until, Balancer: s.plan.String(), Restart: i, Zombies: u.Zombies, traffic: traffic{Sent: make(map[string]int)}}
	if s.way.init != nil {
		r.InitRSS, r.InitCPU = u.RSS, float64(u.CPU.Microseconds())/1000
	}
	s.tally.records = append(s.tally.records, r)
	if i < replicas {
		s.tally.strip.Stops = append(s.tally.strip.Stops, now.Sub(s.tally.began).Seconds())
	}
	return now
}

// stop signals r and waits for its end, which it brings about when the budget
// is spent, as every orchestrator does. It returns how long that took.
func (s *site) stop(ctx context.Context, r *container, began time.Time) (code int, killed bool, took time.Duration, err error) {
	p, err := r.open(ctx)
	if err != nil {
		return 0, false, 0, err
	}
	defer p.close()
	if err := p.signal(ctx, s.server.signal); err != nil {
		return 0, false, 0, err
	}
	if !p.ended(ctx, began.Add(s.way.budget())) {
		killed = true
		if err := p.signal(ctx, "SIGKILL"); err != nil {
			return 0, true, 0, err
		}
		p.ended(ctx, time.Now().Add(time.Minute))
	}
	took = time.Since(began)
	code, err = r.wait(ctx)
	return code, killed, took, err
}

var forwardedLine = regexp.MustCompile(`stop signal forwarded.*`)
var whyField = regexp.MustCompile(`\bwhy=("[^"]*"|\S+)`)
var afterField = regexp.MustCompile(`\bafter=(\S+)`)

// forwarding finds why and when drainit forwarded the signal.
func forwarding(log string) (why string, seconds float64) {
	line := forwardedLine.FindString(log)
	if m := whyField.FindStringSubmatch(line); m != nil {
		why = m[1]
	}
	if m := afterField.FindStringSubmatch(line); m != nil {
		if d, err := time.ParseDuration(m[1]); err == nil {
			seconds = d.Seconds()
		}
	}
	return why, seconds
}

// pause waits for d, or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// freePorts finds two ports beside each other that are free, out of the range
// that the kernel gives to connections.
func freePorts() (int, error) {
	for range 1000 {
		port := 20000 + 2*rand.IntN(6000)
		a, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		b, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		a.Close()
		if err == nil {
			b.Close()
			return port, nil
		}
	}
	return 0, errors.New("no free ports")
}

// dialRPC returns a client of one address.
func dialRPC(addr string) (grpc_testing.TestServiceClient, error) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		return nil, err
	}
	return grpc_testing.NewTestServiceClient(conn), nil
}
