package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// The ways of the page about Kubernetes.
var (
	bare       = deployment{way: "none"}
	underTini  = deployment{way: "tini", init: []string{"/tini", "--"}}
	sleeping5  = deployment{way: "preStop sleep 5", init: []string{"/tini", "--"}, preStop: 5}
	sleeping15 = deployment{way: "preStop sleep 15", init: []string{"/tini", "--"}, preStop: 15}
	others     = []deployment{bare, underTini, sleeping5, sleeping15}
)

// The trials that the report says more about.
const (
	diesTrial    = "rolling restart, dies on SIGTERM"
	rpcDiesTrial = "rolling restart, gRPC, dies on SIGTERM"
	sidecarTrial = "rolling restart under drainit idle, with a sidecar that the server needs"
)

// draining is the way of a value of DRAIN_UNTIL.
func draining(until string) deployment {
	return deployment{way: "drainit " + until, init: []string{"/drainit", "--"}, env: map[string]string{"DRAINIT_DRAIN_UNTIL": until}}
}

// within returns d with another budget than the usual 60 s.
func (d deployment) within(seconds int) deployment {
	d.grace = seconds
	d.way += fmt.Sprintf(", in %d s", seconds)
	return d
}

func goServer(d deployment, kinds ...string) deployment {
	return d.serve("Go", kinds, "/server", "-grpc", ":9090")
}

func fastAPI(d deployment, kinds ...string) deployment {
	return d.serve("FastAPI", kinds, "/usr/bin/python3", "-m", "uvicorn", "asgi:app", "--host", "0.0.0.0", "--port", "8080", "--log-level", "critical",
		"--timeout-keep-alive", "75")
}

// serve completes a way to a deployment of three replicas.
func (d deployment) serve(server string, kinds []string, argv ...string) deployment {
	d.server, d.kinds, d.argv = server, kinds, argv
	d.replicas, d.surge, d.down, d.probe, d.path = replicas, "25%", "25%", "8080", "/quick"
	d.grace = cmp.Or(d.grace, 60)
	if d.drains() {
		d.probe, d.path = "8099", "/readyz"
		d = d.set("DRAINIT_GRACE_PERIOD", fmt.Sprint(d.grace))
	}
	return d.set("PATH", "/usr/bin:/bin")
}

// set returns d with one more variable in its environment.
func (d deployment) set(name, value string) deployment {
	env := map[string]string{name: value}
	maps.Copy(env, d.env)
	d.env = env
	return d
}

// trials are all that is done to a cluster. Those that take longest come first.
func trials(rounds int) (all []trial) {
	for _, d := range append(slices.Clone(others), draining("window"), draining("idle"), draining("idle").within(30)) {
		all = append(all, trial{goServer(d, web...), diesTrial, rounds, rollout})
	}
	for _, d := range append(slices.Clone(others), draining("window"), draining("quiet"), draining("idle")) {
		all = append(all, trial{fastAPI(d, web...), "rolling restart, finishes on SIGTERM", rounds, rollout})
	}
	for _, d := range []deployment{underTini, sleeping5, sleeping15, draining("closed")} {
		all = append(all, trial{fastAPI(d, with(web, "socket")...), "rolling restart, with WebSockets of 8 s", rounds, rollout})
	}
	for _, d := range []deployment{underTini, sleeping5, draining("idle")} {
		sick := goServer(d, web...)
		sick.liveness = true
		all = append(all, trial{goServer(d, web...), "scale-down from 3 to 1", rounds, scaleDown},
			trial{goServer(d, web...), "eviction of one, as a node drain does", rounds, evict},
			trial{sick, "liveness restart of one", rounds, sicken})
	}
	return slices.Concat(all, rpcs(rounds), single(rounds), sidecars(rounds))
}

// sidecars are of a server that can't answer without what runs beside it.
func sidecars(rounds int) (all []trial) {
	side := []string{"/server", "-addr", ":8081"}
	for _, x := range []struct {
		way    string
		argv   []string
		native bool
	}{
		{"a container like any", side, false},
		{"a container like any, under drainit too", with([]string{"/drainit", "--"}, side...), false},
		{"a native sidecar", side, true},
	} {
		d := goServer(draining("idle"), "fresh", "kept", "slow")
		d.argv = append(d.argv, "-back", "http://127.0.0.1:8081/quick")
		d.way, d.sidecar, d.native = x.way, x.argv, x.native
		all = append(all, trial{d, sidecarTrial, rounds, rollout})
	}
	return all
}

// rpcs are gRPC's: a client has one connection, which it keeps for all that it
// does.
func rpcs(rounds int) (all []trial) {
	for _, d := range []deployment{underTini, sleeping5, draining("idle")} {
		all = append(all, trial{goServer(d, "unary", "rpcs"), rpcDiesTrial, rounds, rollout})
	}
	for _, d := range []deployment{underTini, sleeping5, draining("quiet")} {
		d = goServer(d, "unary", "rpcs")
		d.argv = append(d.argv, "-on-term", "graceful")
		all = append(all, trial{d, "rolling restart, gRPC, GracefulStop on SIGTERM", rounds, rollout})
	}
	return all
}

// single are the trials of one replica, whose successor starts after it was
// told to stop: then no endpoint is ready.
func single(rounds int) (all []trial) {
	ways := []deployment{underTini, sleeping15}
	for _, delay := range []string{"0s", "15s"} {
		w := draining("idle").set("DRAINIT_UNREADY_DELAY", delay).set("DRAINIT_DRAIN_WINDOW", "20s")
		w.way += ", DRAINIT_UNREADY_DELAY " + delay + ", window 20s"
		ways = append(ways, w)
	}
	for _, policy := range []string{"Cluster", "Local"} {
		for _, w := range ways {
			d := goServer(w, "fresh", "slow")
			d.replicas, d.surge, d.down, d.policy = 1, "0", "1", policy
			d.argv = append(d.argv, "-start-delay", "3s")
			all = append(all, trial{d, "one replica, maxSurge 0, externalTrafficPolicy " + policy, rounds, rollout})
		}
	}
	return all
}

func rollout(ctx context.Context, c *cluster, d deployment) error {
	if _, err := c.kubectl(ctx, "", "rollout", "restart", "deployment/app"); err != nil {
		return err
	}
	_, err := c.kubectl(ctx, "", "rollout", "status", "deployment/app", "--timeout=180s")
	return err
}

func scaleDown(ctx context.Context, c *cluster, d deployment) error {
	if _, err := c.kubectl(ctx, "", "scale", "deployment/app", "--replicas=1"); err != nil {
		return err
	}
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; pause(ctx, 300*time.Millisecond) {
		if pods, err := c.pods(ctx); err == nil && len(pods) == 1 {
			break
		}
	}
	if _, err := c.kubectl(ctx, "", "scale", "deployment/app", fmt.Sprintf("--replicas=%d", d.replicas)); err != nil {
		return err
	}
	_, err := c.kubectl(ctx, "", "rollout", "status", "deployment/app", "--timeout=180s")
	return err
}

// evict does what `kubectl drain` does with each pod. The node stays
// schedulable, so that this works with one node too.
func evict(ctx context.Context, c *cluster, d deployment) error {
	pods, err := c.pods(ctx)
	if err != nil || len(pods) == 0 {
		return errors.Join(err, errors.New("no pods"))
	}
	body := fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":%q,"namespace":%q}}`, pods[0].name, c.namespace)
	_, err = c.kubectl(ctx, body, "create", "--raw", "/api/v1/namespaces/"+c.namespace+"/pods/"+pods[0].name+"/eviction", "-f", "-")
	return err
}

// sicken makes one server fail its liveness probe, and waits until its container
// has been restarted.
func sicken(ctx context.Context, c *cluster, d deployment) error {
	pods, err := c.pods(ctx)
	if err != nil || len(pods) == 0 {
		return errors.Join(err, errors.New("no pods"))
	}
	p := pods[0]
	a, err := http.Post(c.api+"/api/v1/namespaces/"+c.namespace+"/pods/"+p.name+":8080/proxy/sicken", "text/plain", nil)
	if err != nil {
		return err
	}
	a.Body.Close()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; pause(ctx, 300*time.Millisecond) {
		pods, err := c.pods(ctx)
		if err != nil {
			continue
		}
		for _, q := range pods {
			if q.name == p.name && q.restarts > p.restarts && q.ready {
				return nil
			}
		}
	}
	return errors.New("the container was not restarted in time")
}

// kubernetes runs all trials, some at a time, and writes the page.
func (m measurement) kubernetes(ctx context.Context, hook, only string, rounds int) error {
	if hook == "" {
		return errors.New("say how an image gets to the nodes: PROOF_LOAD=COMMAND, which gets the image's name as its last argument, " +
			"for example 'kind load docker-image', 'k3d image import' or 'docker push'")
	}
	began := time.Now()
	c := &cluster{namespace: fmt.Sprintf("drainit-proof-%d", os.Getpid()), image: make(map[string]string), load: strings.Fields(hook)}
	defer c.tearDown()
	chosen := matchingTrials(trials(rounds), only)
	servers := make(map[string]bool)
	for _, t := range chosen {
		servers[t.server] = true
	}
	if err := c.setUp(ctx, servers); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	done := c.runTrials(limited, chosen, m.parallel)
	env := whereCluster(ctx, c)
	env.Took = time.Since(began).Round(time.Second).String()
	if err := writeClusterResults(m.out, only != "", env, done); err != nil {
		return err
	}
	return errors.Join(ctx.Err(), writeClusterReport(m.out))
}

func matchingTrials(all []trial, expr string) (some []trial) {
	for _, t := range all {
		if matches(expr, t.name+", "+t.way) {
			some = append(some, t)
		}
	}
	return some
}

// runTrials returns a line for each round, and for each trial that failed.
func (c *cluster) runTrials(ctx context.Context, all []trial, parallel int) (done []clusterLine) {
	var mu sync.Mutex
	var workers sync.WaitGroup
	next := make(chan int)
	for range parallel {
		workers.Go(func() {
			for i := range next {
				own := *c
				own.namespace = fmt.Sprintf("%s-%d", c.namespace, i)
				got, err := own.try(ctx, all[i])
				mu.Lock()
				done = append(done, clusterLines(all[i], got, err)...)
				progressTrial(all[i], got, err)
				mu.Unlock()
			}
		})
	}
	for i := range all {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	workers.Wait()
	return done
}

// clusterLines leaves out the round in which a trial failed.
func clusterLines(t trial, records []clusterRecord, err error) (lines []clusterLine) {
	for _, r := range records {
		if r.Round < 0 || r.Took > 0 {
			lines = append(lines, clusterLine{Round: &r})
		}
	}
	if err != nil {
		lines = append(lines, clusterLine{Error: fmt.Sprintf("%s, %s: %v", t.name, t.way, err)})
	}
	return lines
}

// try runs a trial in a namespace of its own.
func (c *cluster) try(ctx context.Context, t trial) ([]clusterRecord, error) {
	if out, err := exec.CommandContext(ctx, "kubectl", "create", "namespace", c.namespace).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("kubectl create namespace: %w: %s", err, out)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		exec.CommandContext(ctx, "kubectl", "delete", "namespace", c.namespace, "--wait=false").Run()
	}()
	return t.run(ctx, c)
}

func progressTrial(t trial, records []clusterRecord, err error) {
	lost, sent, rounds := 0, 0, 0
	var stops []float64
	for _, r := range records {
		if r.Took > 0 {
			rounds++
		}
		lost, sent = lost+r.lost(), sent+r.sent()
		for _, s := range r.Stops {
			stops = append(stops, s.Took)
		}
	}
	fmt.Fprintf(os.Stderr, "%-58s %-36s %5d of %6d lost in %d rounds, median stop %.1f s\n", t.name, t.way, lost, sent, rounds, quantile(stops, 0.5))
	if err != nil {
		fmt.Fprintln(os.Stderr, "    ", err)
	}
}

// whereCluster describes the cluster.
func whereCluster(ctx context.Context, c *cluster) environment {
	e := where("make proof-kubernetes", 0)
	e.Versions = map[string]string{"docker": e.Versions["docker"], "go": e.Versions["go"]}
	e.Versions["Kubernetes"] = output("kubectl", "get", "nodes", "-o", "jsonpath={.items[0].status.nodeInfo.kubeletVersion}")
	e.Versions["containers"] = output("kubectl", "get", "nodes", "-o", "jsonpath={.items[0].status.nodeInfo.containerRuntimeVersion}")
	e.Versions["nodes"] = fmt.Sprint(len(strings.Fields(output("kubectl", "get", "nodes", "-o", "name"))))
	e.Versions["kube-proxy"] = c.proxyMode()
	e.Versions["load"] = loadAverage()
	e.Versions["lifecycle.stopSignal"] = c.stopSignal(ctx)
	return e
}

// loadAverage returns the mean of runnable tasks over 15 minutes.
func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	if f := strings.Fields(string(b)); len(f) > 2 {
		return f[2]
	}
	return "unknown"
}

// proxyMode asks kube-proxy itself, which says it to its own node only; with
// more than one node, or another proxy, PROOF_PROXY may say it.
func (c *cluster) proxyMode() string {
	if s := os.Getenv("PROOF_PROXY"); s != "" {
		return s
	}
	a, err := probes.Get("http://127.0.0.1:10249/proxyMode")
	if err != nil {
		return "unknown (PROOF_PROXY says it)"
	}
	defer a.Body.Close()
	b := make([]byte, 64)
	n, _ := a.Body.Read(b)
	return string(b[:n])
}

// stopSignal reports what the API server makes of KEP-4960's field.
func (c *cluster) stopSignal(ctx context.Context) string {
	const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"stopsignal"},"spec":{"os":{"name":"linux"},"containers":[
	{"name":"a","image":"a","lifecycle":{"stopSignal":"SIGQUIT"}}]}}`
	own := *c
	own.namespace = "default"
	out, err := own.kubectl(ctx, pod, "create", "--dry-run=server", "--validate=false", "-o", "json", "-f", "-")
	var got struct {
		Spec struct {
			Containers []struct{ Lifecycle struct{ StopSignal string } }
		}
	}
	switch {
	case err != nil:
		return "rejected"
	case json.Unmarshal([]byte(out), &got) == nil && len(got.Spec.Containers) == 1 && got.Spec.Containers[0].Lifecycle.StopSignal != "":
		return "known"
	}
	return "dropped by the API server (the feature gate ContainerStopSignals is off)"
}

type clusterLine struct {
	Environment *environment   `json:"environment,omitempty"`
	Round       *clusterRecord `json:"round,omitempty"`
	Error       string         `json:"error,omitempty"`
}

const clusterResults = "results-kubernetes.jsonl"

// writeClusterResults writes a run's environment and what came of it, after
// those of earlier runs where this one was of some trials only.
func writeClusterResults(dir string, some bool, env environment, lines []clusterLine) error {
	f, err := openResults(filepath.Join(dir, clusterResults), some)
	if err != nil {
		return err
	}
	defer f.Close()
	out := json.NewEncoder(f)
	for _, l := range append([]clusterLine{{Environment: &env}}, lines...) {
		if err := out.Encode(l); err != nil {
			return err
		}
	}
	return nil
}
