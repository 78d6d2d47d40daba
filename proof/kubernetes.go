package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// cluster is what kubectl points at. Everything that is made in it is in
// namespaces of its own, one for each trial.
type cluster struct {
	namespace string
	api       string // of a kubectl proxy
	image     map[string]string
	load      []string // the hook that brings an image to the nodes
	proxy     *exec.Cmd
}

// deployment is a server in Kubernetes, stopped in one way.
type deployment struct {
	server   string // Go or FastAPI
	way      string
	argv     []string
	init     []string
	env      map[string]string
	grace    int // terminationGracePeriodSeconds
	preStop  int // seconds of sleep
	replicas int
	probe    string // the port of readiness, as 8099
	path     string
	kinds    []string
	surge    string // maxSurge and maxUnavailable
	down     string
	policy   string // externalTrafficPolicy, which makes it a NodePort
	liveness bool
	sidecar  []string // what runs beside the server
	native   bool     // as a sidecar container; otherwise as a container like any
}

func (d deployment) drains() bool { return d.init != nil && d.init[0] == "/drainit" }

// manifest writes the Deployment and its Service.
func (d deployment) manifest(image string) string {
	var env, more strings.Builder
	for _, k := range slices.Sorted(maps.Keys(d.env)) {
		fmt.Fprintf(&env, "\n        - {name: %s, value: %q}", k, d.env[k])
	}
	if d.preStop > 0 {
		fmt.Fprintf(&more, "        lifecycle: {preStop: {sleep: {seconds: %d}}}\n", d.preStop)
	}
	if d.liveness {
		more.WriteString("        livenessProbe: {httpGet: {path: /alive, port: 8080}, periodSeconds: 1, failureThreshold: 2}\n")
	}
	command, _ := json.Marshal(append(append([]string{}, d.init...), d.argv...))
	service := "  type: ClusterIP\n"
	if d.policy != "" {
		service = "  type: NodePort\n  externalTrafficPolicy: " + d.policy + "\n"
	}
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: %d
  selector: {matchLabels: {app: app}}
  strategy: {rollingUpdate: {maxSurge: %s, maxUnavailable: %s}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: %d
      automountServiceAccountToken: false
%s      containers:
      - name: app
        image: %s
        imagePullPolicy: IfNotPresent
        command: %s
        workingDir: /app
        env:%s
        readinessProbe: {httpGet: {path: %s, port: %s}, periodSeconds: 1, failureThreshold: 2}
%s---
apiVersion: v1
kind: Service
metadata: {name: app}
spec:
%s  selector: {app: app}
  ports:
  - {name: http, port: 8080}
  - {name: grpc, port: 9090}
`, d.replicas, d.surge, d.down, d.grace, d.beside(image, true), image, command, env.String(), d.path, d.probe, more.String()+d.beside(image, false), service)
}

// beside returns the sidecar, if it is of the given sort.
func (d deployment) beside(image string, native bool) string {
	if d.sidecar == nil || native != d.native {
		return ""
	}
	command, _ := json.Marshal(d.sidecar)
	env := "[{name: DRAINIT_HEALTH_ADDR, value: ':8098'}, {name: DRAINIT_GRACE_PERIOD, value: '60'}, {name: DRAINIT_DRAIN_UNTIL, value: idle}]"
	s := fmt.Sprintf("      - {name: side, image: %s, imagePullPolicy: IfNotPresent, command: %s, env: %s", image, command, env)
	if native {
		return "      initContainers:\n" + s + ", restartPolicy: Always}\n"
	}
	return s + "}\n"
}

func (c *cluster) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	k := exec.CommandContext(ctx, "kubectl", append([]string{"-n", c.namespace}, args...)...)
	if stdin != "" {
		k.Stdin = strings.NewReader(stdin)
	}
	var out, stderr bytes.Buffer
	k.Stdout, k.Stderr = &out, &stderr
	if err := k.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(out.String()), nil
}

// setUp makes the images of servers, brings them to the nodes and makes the
// namespace. The clients are in the Go server's.
func (c *cluster) setUp(ctx context.Context, servers map[string]bool) error {
	dir, err := os.MkdirTemp("", "drainit-proof-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := buildPrograms(ctx, dir); err != nil {
		return err
	}
	for name, what := range map[string]string{"Go": "go", "FastAPI": "fastapi"} {
		if name != "Go" && !servers[name] {
			continue
		}
		image := "drainit-proof/" + what + ":kubernetes"
		if err := buildKubernetesImage(ctx, dir, what, image); err != nil {
			return err
		}
		argv := append(append([]string{}, c.load...), image)
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
		}
		c.image[name] = image
	}
	return c.startProxy()
}

// startProxy starts what makes watching pods cheap: one kubectl in place of
// three a second.
func (c *cluster) startProxy() error {
	c.proxy = exec.Command("kubectl", "proxy", "--port=0")
	out, err := c.proxy.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.proxy.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return err
	}
	f := strings.Fields(line)
	c.api = "http://" + f[len(f)-1]
	return nil
}

func (c *cluster) tearDown() {
	if c.proxy != nil && c.proxy.Process != nil {
		c.proxy.Process.Kill()
		c.proxy.Wait()
	}
}

// buildPrograms fills a folder with what the images have besides their base.
func buildPrograms(ctx context.Context, dir string) error {
	for name, pkg := range map[string]string{"server": "./server", "proof": ".", "drainit": ".."} {
		if err := build(ctx, name, filepath.Join(dir, name), pkg); err != nil {
			return err
		}
	}
	for _, f := range [][2]string{{"/usr/bin/tini-static", "tini"}, {"apps/asgi.py", "asgi.py"}} {
		b, err := os.ReadFile(f[0])
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, f[1]), b, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// buildKubernetesImage builds an image FROM scratch, or for FastAPI on a Debian
// with Python, which examples/build-images.sh makes where no registry is
// reached.
func buildKubernetesImage(ctx context.Context, dir, what, image string) error {
	from := "scratch"
	if what == "fastapi" {
		from = "local/debian-fastapi"
		if exec.CommandContext(ctx, "docker", "image", "inspect", from).Run() != nil {
			if out, err := exec.CommandContext(ctx, "../examples/build-images.sh", "python").CombinedOutput(); err != nil {
				return fmt.Errorf("building %s: %w: %s", from, err, out)
			}
		}
	}
	dockerfile := "FROM " + from + "\nCOPY server proof drainit tini /\nCOPY asgi.py /app/\nWORKDIR /app\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		return err
	}
	b := exec.CommandContext(ctx, "docker", "build", "--quiet", "-t", image, dir)
	b.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	if out, err := b.CombinedOutput(); err != nil {
		return fmt.Errorf("docker build: %w: %s", err, out)
	}
	return nil
}

// loadPod runs this program's load command in the cluster.
const loadPod = `apiVersion: v1
kind: Pod
metadata: {name: load}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 30
  containers:
  - name: load
    image: %s
    imagePullPolicy: IfNotPresent
    command: ["/proof", "load", "-http", "%s", "-grpc", "%s", "-kinds", "%s"]
`

// outcome is one line of the load command: how a request ended, or more about
// one that was lost.
type outcome struct {
	Kind    string  `json:"k,omitempty"`
	Failure failure `json:"f,omitempty"`
	Loss    *loss   `json:"loss,omitempty"`
}

// load sends requests until ctx ends, and writes a line for each when it has
// ended.
func load(ctx context.Context, httpAddr, rpcAddr, names string) error {
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	write := func(o outcome) {
		mu.Lock()
		defer mu.Unlock()
		out.Encode(o)
	}
	c := &clients{pick: func() string { return httpAddr }, quick: "/quick", want: "done", tell: func(l loss) { write(outcome{Loss: &l}) }}
	kinds := strings.Split(names, ",")
	for _, k := range kinds {
		if k == "unary" {
			conn, err := dialRPC(rpcAddr)
			if err != nil {
				return err
			}
			c.rpc = conn
		}
	}
	c.send(ctx, kinds, func(kind string, f failure) { write(outcome{Kind: kind, Failure: f}) })
	return nil
}

// trial is one deployment, and what is done to it.
type trial struct {
	deployment
	name   string
	rounds int
	act    func(ctx context.Context, c *cluster, d deployment) error
}

// clusterRecord is a round of a trial: a line of the raw results.
type clusterRecord struct {
	Trial  string  `json:"trial"`
	Server string  `json:"server"`
	Way    string  `json:"way"`
	Round  int     `json:"round"` // -1 for what came before the first
	Stops  []stop  `json:"stops"`
	Acted  float64 `json:"rollout_s"` // the command itself
	Took   float64 `json:"round_s"`   // until all was over
	traffic
	Losses []loss `json:"losses,omitempty"` // of HTTP's
}

// rounds gives what ends to the round during which it ends.
type rounds struct {
	mu  sync.Mutex
	all []clusterRecord
}

func (r *rounds) begin(t trial, round int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, clusterRecord{Trial: t.name, Server: t.server, Way: t.way, Round: round})
}

func (r *rounds) add(o outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := &r.all[len(r.all)-1]
	if o.Loss != nil {
		last.Losses = append(last.Losses, *o.Loss)
		return
	}
	last.count(o.Kind, o.Failure)
}

// warm reports whether requests were answered before the first round. A rig
// that can't reach the Service would show a loss of everything, or of nothing.
func (r *rounds) warm() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.all[0]
	if x.sent() == 0 || x.lost() > x.sent()/10 {
		return fmt.Errorf("before the first round %d of %d requests were lost: do pods reach Services, and `kubectl logs` pods?", x.lost(), x.sent())
	}
	return nil
}

func (r *rounds) end(acted, took time.Duration, s []stop) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := &r.all[len(r.all)-1]
	last.Acted, last.Took, last.Stops = acted.Seconds(), took.Seconds(), s
}

// run runs a trial to its end.
func (t trial) run(ctx context.Context, c *cluster) ([]clusterRecord, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if _, err := c.kubectl(ctx, t.manifest(c.image[t.server]), "apply", "-f", "-"); err != nil {
		return nil, err
	}
	defer c.clear()
	if _, err := c.kubectl(ctx, "", "rollout", "status", "deployment/app", "--timeout=120s"); err != nil {
		return nil, err
	}
	addr, err := c.serviceAddr(ctx, t.policy != "")
	if err != nil {
		return nil, err
	}
	var r rounds
	r.begin(t, -1)
	loaded, err := c.startLoad(ctx, addr, t.kinds, &r)
	if err != nil {
		return nil, err
	}
	s := new(stops)
	go s.watch(ctx, c)
	pause(ctx, warmUp+6*time.Second) // kubectl logs begins, WebSockets are under way
	if err := r.warm(); err != nil {
		return nil, err
	}
	for i := 0; i < t.rounds && err == nil; i++ {
		r.begin(t, i)
		err = t.round(ctx, c, s, &r)
	}
	c.kubectl(ctx, "", "delete", "pod", "load", "--grace-period=30")
	<-loaded
	return r.all, errors.Join(err, ctx.Err())
}

// round does what the trial is about, and waits until it is over and what was
// then sent has ended.
func (t trial) round(ctx context.Context, c *cluster, s *stops, r *rounds) error {
	began := time.Now()
	if err := t.act(ctx, c, t.deployment); err != nil {
		return err
	}
	acted := time.Since(began)
	pause(ctx, time.Second)
	for deadline := time.Now().Add(3 * time.Minute); !s.settled(t.replicas); pause(ctx, 100*time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(deadline) {
			return errors.Join(ctx.Err(), errors.New("not settled in time"))
		}
	}
	took := time.Since(began)
	pause(ctx, 4*time.Second)
	r.end(acted, took, s.take())
	return nil
}

// serviceAddr returns where clients find the Service.
func (c *cluster) serviceAddr(ctx context.Context, nodePort bool) (addr [2]string, err error) {
	ip, err := c.kubectl(ctx, "", "get", "service", "app", "-o", "jsonpath={.spec.clusterIP}")
	ports := "8080 9090"
	if err == nil && nodePort {
		if ip, err = c.kubectl(ctx, "", "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`); err == nil {
			ports, err = c.kubectl(ctx, "", "get", "service", "app", "-o", "jsonpath={.spec.ports[*].nodePort}")
		}
	}
	for i, p := range strings.Fields(ports) {
		addr[i] = ip + ":" + p
	}
	return addr, err
}

// startLoad starts the clients and feeds tally with what they say. The channel
// is closed when they have ended.
func (c *cluster) startLoad(ctx context.Context, addr [2]string, kinds []string, r *rounds) (<-chan struct{}, error) {
	manifest := fmt.Sprintf(loadPod, c.image["Go"], addr[0], addr[1], strings.Join(kinds, ","))
	if _, err := c.kubectl(ctx, manifest, "apply", "-f", "-"); err != nil {
		return nil, err
	}
	if _, err := c.kubectl(ctx, "", "wait", "--for=condition=Ready", "pod/load", "--timeout=60s"); err != nil {
		return nil, err
	}
	logs := exec.CommandContext(ctx, "kubectl", "-n", c.namespace, "logs", "-f", "load")
	out, err := logs.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := logs.Start(); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() { // ends with the pod
		defer close(done)
		readOutcomes(out, r)
		logs.Wait()
	}()
	return done, nil
}

func readOutcomes(from io.Reader, r *rounds) {
	for lines := bufio.NewScanner(from); lines.Scan(); {
		var o outcome
		if json.Unmarshal(lines.Bytes(), &o) == nil {
			r.add(o)
		}
	}
}

// clear removes a trial's things and waits until they are gone.
func (c *cluster) clear() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c.kubectl(ctx, "", "delete", "deployment/app", "service/app", "pod/load", "--ignore-not-found", "--wait=false")
	c.kubectl(ctx, "", "delete", "pods", "--all", "--grace-period=1")
}
