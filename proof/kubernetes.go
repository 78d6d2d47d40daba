package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// cluster is what kubectl points at. Everything that is made in it is in one
// namespace of its own.
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
	preStop  int // seconds of sleep
	replicas int
	probe    string // the port of readiness, as 8099
	path     string
	kinds    []string
	surge    string // maxSurge and maxUnavailable
	down     string
	policy   string // externalTrafficPolicy, which makes it a NodePort
	liveness bool
}

const kubernetesGrace = 60

func (d deployment) drains() bool { return d.init != nil && d.init[0] == "/drainit" }

// manifest writes the Deployment and its Service.
func (d deployment) manifest(image string) string {
	var env, more strings.Builder
	vars := map[string]string{}
	for k, v := range d.env {
		vars[k] = v
	}
	if d.drains() {
		vars["DRAINIT_GRACE_PERIOD"] = fmt.Sprint(kubernetesGrace)
	}
	for k, v := range vars {
		fmt.Fprintf(&env, "\n        - {name: %s, value: %q}", k, v)
	}
	if d.preStop > 0 {
		fmt.Fprintf(&more, "        lifecycle: {preStop: {sleep: {seconds: %d}}}\n", d.preStop)
	}
	if d.liveness {
		more.WriteString("        livenessProbe: {httpGet: {path: /alive, port: 8080}, periodSeconds: 1, failureThreshold: 2}\n")
	}
	command, _ := json.Marshal(append(append([]string{}, d.init...), d.argv...))
	if env.Len() == 0 {
		env.WriteString(" []")
	}
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
      containers:
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
`, d.replicas, d.surge, d.down, kubernetesGrace, image, command, env.String(), d.path, d.probe, more.String(), service)
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

// setUp makes the images, brings them to the nodes and makes the namespace.
func (c *cluster) setUp(ctx context.Context) error {
	for name, what := range map[string]string{"Go": "go", "FastAPI": "fastapi"} {
		image := "drainit-proof/" + what + ":kubernetes"
		if err := buildKubernetesImage(ctx, what, image); err != nil {
			return err
		}
		argv := append(append([]string{}, c.load...), image)
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
		}
		c.image[name] = image
	}
	if out, err := exec.CommandContext(ctx, "kubectl", "create", "namespace", c.namespace).CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl create namespace: %w: %s", err, out)
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
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	exec.CommandContext(ctx, "kubectl", "delete", "namespace", c.namespace, "--wait=false").Run()
}

// buildKubernetesImage builds an image FROM scratch of static programs, or for
// FastAPI on a Debian of Python, which examples/build-images.sh makes where no
// registry is reached.
func buildKubernetesImage(ctx context.Context, what, image string) error {
	dir, err := os.MkdirTemp("", "drainit-proof-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, pkg := range map[string]string{"server": "./server", "proof": ".", "drainit": ".."} {
		if err := build(ctx, name, filepath.Join(dir, name), pkg); err != nil {
			return err
		}
	}
	from := "scratch"
	if what == "fastapi" {
		from = "local/debian-fastapi"
		if exec.CommandContext(ctx, "docker", "image", "inspect", from).Run() != nil {
			if out, err := exec.CommandContext(ctx, "../examples/build-images.sh", "python").CombinedOutput(); err != nil {
				return fmt.Errorf("building %s: %w: %s", from, err, out)
			}
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

// podState is what is watched of one pod.
type podState struct {
	Name, IP string
	Deleted  bool
	Ready    bool
	Ended    bool
	Code     int
	Restarts int
	Last     int // exit code of the previous container
}

// pods lists the server's pods, at the cost of one request.
func (c *cluster) pods(ctx context.Context) ([]podState, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", c.api+"/api/v1/namespaces/"+c.namespace+"/pods?labelSelector=app%3Dapp", nil)
	if err != nil {
		return nil, err
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	var list struct {
		Items []struct {
			Metadata struct {
				Name              string
				DeletionTimestamp *string
			}
			Status struct {
				PodIP             string
				Conditions        []struct{ Type, Status string }
				ContainerStatuses []struct {
					RestartCount int
					State        struct{ Terminated *struct{ ExitCode int } }
					LastState    struct{ Terminated *struct{ ExitCode int } }
				}
			}
		}
	}
	if err := json.NewDecoder(a.Body).Decode(&list); err != nil {
		return nil, err
	}
	var all []podState
	for _, i := range list.Items {
		p := podState{Name: i.Metadata.Name, IP: i.Status.PodIP, Deleted: i.Metadata.DeletionTimestamp != nil, Last: -1}
		for _, k := range i.Status.Conditions {
			p.Ready = p.Ready || k.Type == "Ready" && k.Status == "True"
		}
		for _, s := range i.Status.ContainerStatuses {
			p.Restarts = s.RestartCount
			if s.State.Terminated != nil {
				p.Ended, p.Code = true, s.State.Terminated.ExitCode
			}
			if s.LastState.Terminated != nil {
				p.Last = s.LastState.Terminated.ExitCode
			}
		}
		all = append(all, p)
	}
	return all, nil
}

// stops watches how long pods take from their deletion to the end of their
// container.
type stops struct {
	mu    sync.Mutex
	began map[string]time.Time
	took  []float64
	codes map[int]int
	live  int // pods that are not being deleted and ready
	total int
}

func (s *stops) watch(ctx context.Context, c *cluster) {
	for ctx.Err() == nil {
		pods, err := c.pods(ctx)
		if err == nil {
			s.update(pods)
		}
		pause(ctx, 200*time.Millisecond)
	}
}

func (s *stops) update(pods []podState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.live, s.total = 0, len(pods)
	there := make(map[string]bool)
	for _, p := range pods {
		there[p.Name] = !p.Ended
		_, known := s.began[p.Name]
		switch {
		case p.Deleted && !known:
			s.began[p.Name] = now
		case !p.Deleted && p.Ready:
			s.live++
		}
		if p.Ended && p.Deleted && !s.began[p.Name].IsZero() {
			s.codes[p.Code]++
		}
	}
	for name, at := range s.began {
		if !there[name] && !at.IsZero() {
			s.took = append(s.took, now.Sub(at).Seconds())
			s.began[name] = time.Time{} // counted
		}
	}
}

func (s *stops) settled(replicas int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.began {
		if !at.IsZero() {
			return false
		}
	}
	return s.live == replicas && s.total == replicas
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

// outcome is one line of the load command.
type outcome struct {
	Kind    string  `json:"k"`
	Failure failure `json:"f,omitempty"`
}

// load sends requests until ctx ends, and writes a line for each when it has
// ended.
func load(ctx context.Context, httpAddr, rpcAddr, names string) error {
	c := &clients{pick: func() string { return httpAddr }, quick: "/quick", want: "done"}
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
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	c.send(ctx, kinds, func(kind string, f failure) {
		mu.Lock()
		defer mu.Unlock()
		out.Encode(outcome{kind, f})
	})
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
	Trial  string                     `json:"trial"`
	Server string                     `json:"server"`
	Way    string                     `json:"way"`
	Round  int                        `json:"round"`
	Stops  []float64                  `json:"stops_s"`
	Codes  map[int]int                `json:"codes,omitempty"`
	Took   float64                    `json:"round_s"`
	Sent   map[string]int             `json:"sent"`
	Failed map[string]map[failure]int `json:"failed,omitempty"`
}

// run runs a trial to its end.
func (t trial) run(ctx context.Context, c *cluster) (records []clusterRecord, err error) {
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
	var tally tally
	loaded, err := c.startLoad(ctx, addr, t.kinds, &tally)
	if err != nil {
		return nil, err
	}
	s := &stops{began: make(map[string]time.Time), codes: make(map[int]int)}
	go s.watch(ctx, c)
	pause(ctx, warmUp+6*time.Second) // kubectl logs begins, WebSockets are under way
	for i := range t.rounds {
		began := time.Now()
		tally.begin(t, i)
		s.reset()
		if err = t.act(ctx, c, t.deployment); err != nil {
			break
		}
		pause(ctx, 2*time.Second)
		for deadline := time.Now().Add(3 * time.Minute); !s.settled(t.replicas) && time.Now().Before(deadline) && ctx.Err() == nil; {
			pause(ctx, 200*time.Millisecond)
		}
		took := time.Since(began).Seconds()
		pause(ctx, 4*time.Second)
		records = append(records, s.record(t, i, took))
	}
	c.kubectl(ctx, "", "delete", "pod", "load", "--grace-period=30")
	<-loaded
	for i := range records {
		records[i].Sent, records[i].Failed = tally.records[i].Sent, tally.records[i].Failed
	}
	return records, errors.Join(err, ctx.Err())
}

func (s *stops) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took, s.codes = nil, make(map[int]int)
}

func (s *stops) record(t trial, i int, took float64) clusterRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return clusterRecord{Trial: t.name, Server: t.server, Way: t.way, Round: i, Stops: s.took, Codes: s.codes, Took: took}
}

func (t *tally) begin(x trial, i int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.records = append(t.records, record{Server: x.server, Way: x.way, Restart: i, Sent: make(map[string]int)})
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
func (c *cluster) startLoad(ctx context.Context, addr [2]string, kinds []string, t *tally) (<-chan struct{}, error) {
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
		readOutcomes(out, t)
		logs.Wait()
	}()
	return done, nil
}

func readOutcomes(r io.Reader, t *tally) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var o outcome
		if json.Unmarshal(lines.Bytes(), &o) == nil {
			t.ended(o.Kind, o.Failure)
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
