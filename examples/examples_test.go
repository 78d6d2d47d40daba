// Package examples_test checks that the examples agree with themselves and
// with drainit, since people copy them.
package examples_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// manifest is what the tests look at of any Kubernetes object.
type manifest struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Selector map[string]any // a Service's is flat
		Ports    []struct {
			TargetPort string `yaml:"targetPort"`
		}
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     pod
		}
	}
}

type pod struct {
	Grace           int             `yaml:"terminationGracePeriodSeconds"`
	SecurityContext securityContext `yaml:"securityContext"`
	InitContainers  []container     `yaml:"initContainers"`
	Containers      []container
}

type container struct {
	Name, Image     string
	ImagePullPolicy string `yaml:"imagePullPolicy"`
	Env             []struct{ Name, Value string }
	Ports           []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	ReadinessProbe struct {
		HTTPGet struct {
			Path string
			Port int
		} `yaml:"httpGet"`
	} `yaml:"readinessProbe"`
	SecurityContext securityContext `yaml:"securityContext"`
}

type securityContext struct {
	RunAsNonRoot             bool  `yaml:"runAsNonRoot"`
	ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
	AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
	Capabilities             struct{ Drop []string }
}

func TestManifests(t *testing.T) {
	files, err := filepath.Glob("*/k8s.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("found %v, %v; want four manifests", files, err)
	}
	drainit := build(t, "github.com/drainit/drainit")
	for _, file := range files {
		t.Run(filepath.Dir(file), func(t *testing.T) {
			objects := parse(t, file)
			for _, kind := range []string{"Deployment", "Service", "PodDisruptionBudget"} {
				if _, ok := objects[kind]; !ok {
					t.Fatalf("no %s", kind)
				}
			}
			p := objects["Deployment"].Spec.Template.Spec
			if len(p.Containers) != 1 {
				t.Fatalf("%d containers, want one", len(p.Containers))
			}
			c := p.Containers[0]
			env := environment(c)
			checkBudget(t, p.Grace, env["DRAINIT_GRACE_PERIOD"])
			checkProbe(t, c, env["DRAINIT_HEALTH_ADDR"])
			checkPlan(t, drainit, env)
			checkSelectors(t, objects)
			checkHardened(t, p)
		})
	}
}

// parse reads a file of several objects, by kind.
func parse(t *testing.T, file string) map[string]manifest {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	objects := make(map[string]manifest)
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var m manifest
		err := d.Decode(&m)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		objects[m.Kind] = m
	}
}

func environment(c container) map[string]string {
	env := make(map[string]string)
	for _, v := range c.Env {
		env[v.Name] = v.Value
	}
	return env
}

func checkBudget(t *testing.T, grace int, period string) {
	t.Helper()
	d, err := time.ParseDuration(period)
	if err != nil {
		n, bare := strconv.Atoi(period)
		if bare != nil {
			t.Fatalf("DRAINIT_GRACE_PERIOD: %v", err)
		}
		d = time.Duration(n) * time.Second
	}
	if d != time.Duration(grace)*time.Second {
		t.Errorf("terminationGracePeriodSeconds is %d, DRAINIT_GRACE_PERIOD %q", grace, period)
	}
}

func checkProbe(t *testing.T, c container, addr string) {
	t.Helper()
	if addr == "" {
		addr = ":8099"
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatalf("DRAINIT_HEALTH_ADDR: %v", err)
	}
	probe := c.ReadinessProbe.HTTPGet
	if strconv.Itoa(probe.Port) != port || probe.Path != "/readyz" {
		t.Errorf("the probe asks for %s on %d, DRAINIT_HEALTH_ADDR is %q", probe.Path, probe.Port, addr)
	}
	if len(c.Ports) != 2 || c.Ports[0].Name != "http" || c.Ports[1].ContainerPort != probe.Port {
		t.Errorf("ports %v, want http and the probe's", c.Ports)
	}
}

// checkPlan has drainit itself check the variables.
func checkPlan(t *testing.T, drainit string, env map[string]string) {
	t.Helper()
	c := exec.Command(drainit, "plan")
	c.Env = []string{}
	for name, value := range env {
		c.Env = append(c.Env, name+"="+value)
	}
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("drainit plan with %v: %v\n%s", c.Env, err, out)
	}
}

func checkSelectors(t *testing.T, objects map[string]manifest) {
	t.Helper()
	app := objects["Deployment"].Spec.Template.Metadata.Labels["app"]
	if app == "" {
		t.Fatal("the pods have no app label")
	}
	service := objects["Service"].Spec
	if service.Selector["app"] != app || len(service.Ports) != 1 || service.Ports[0].TargetPort != "http" {
		t.Errorf("the Service selects %v, ports %v; the pods are %q", service.Selector, service.Ports, app)
	}
	for _, kind := range []string{"Deployment", "PodDisruptionBudget"} {
		if got := fmt.Sprint(objects[kind].Spec.Selector["matchLabels"]); got != fmt.Sprint(map[string]any{"app": app}) {
			t.Errorf("the %s selects %s; the pods are %q", kind, got, app)
		}
	}
}

func checkHardened(t *testing.T, p pod) {
	t.Helper()
	if !p.SecurityContext.RunAsNonRoot {
		t.Error("runAsNonRoot is not set")
	}
	for _, c := range slices.Concat(p.InitContainers, p.Containers) {
		s := c.SecurityContext
		if !s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
			t.Errorf("%s is not hardened: %+v", c.Name, s)
		}
		if c.ImagePullPolicy != "IfNotPresent" || !strings.HasPrefix(c.Image, "local/drainit") {
			t.Errorf("%s: image %s, pulled %s", c.Name, c.Image, c.ImagePullPolicy)
		}
	}
}

// TestDockerfiles has drainit check the variables that the images set.
func TestDockerfiles(t *testing.T) {
	files, err := filepath.Glob("*/Dockerfile")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %v, %v; want three Dockerfiles", files, err)
	}
	drainit := build(t, "github.com/drainit/drainit")
	set := regexp.MustCompile(`(DRAINIT_\w+)=(\S+)`)
	for _, file := range append(files, "../Dockerfile.example") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		env := make(map[string]string)
		for _, m := range set.FindAllStringSubmatch(string(text), -1) {
			env[m[1]] = m[2]
		}
		checkPlan(t, drainit, env)
		// The legacy builder takes these words for part of the command.
		if bytes.Contains(text, []byte("--mount=")) || bytes.Contains(text, []byte("<<")) {
			t.Errorf("%s needs BuildKit", file)
		}
	}
}

func TestFastAPICompiles(t *testing.T) {
	const python = "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		t.Skip(err)
	}
	const program = `import sys; compile(open(sys.argv[1]).read(), sys.argv[1], "exec")`
	if out, err := exec.Command(python, "-c", program, "fastapi/main.py").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestBuildScriptParses(t *testing.T) {
	if out, err := exec.Command("sh", "-n", "build-images.sh").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A quicker balancer than the demo's own, and a longer window than it needs:
// the machine may be busy with other tests.
var quick = []string{"-poll", "100ms", "-lag", "300ms", "-long", "200ms", "-start-delay", "100ms", "-window", "3s", "-sleep", "2s"}

func TestDemo(t *testing.T) {
	c, _ := demo(t)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	last := regexp.MustCompile(`(?m)^bare (\d+) of (\d+) lost in [\d.]+ s, graceful \d+ of (\d+) lost in [\d.]+ s,
sleep \d+ of (\d+) lost in [\d.]+ s, drainit 0 of (\d+) lost in [\d.]+ s$`).FindSubmatch(out)
	if last == nil || string(last[1]) == "0" {
		t.Fatalf("the last line is not as expected:\n%s", out)
	}
	for _, sent := range last[3:] {
		if !bytes.Equal(last[2], sent) {
			t.Errorf("the four had different traffic: %s", last[0])
		}
	}
	for line := range strings.Lines(string(out)) {
		if n := len(strings.TrimSuffix(line, "\n")); n > 80 && len(strings.Fields(line)) > 5 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if !bytes.Contains(out, []byte(`"drainit: stop signal forwarded"`)) {
		t.Errorf("drainit's log is missing:\n%s", out)
	}
}

// TestDemoInterrupted: nothing that the demo started outlives it.
func TestDemoInterrupted(t *testing.T) {
	c, dir := demo(t)
	c.Args = append(c.Args, "-window", "20s") // in the middle of a drain
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "stop asked for") {
			if got := len(running(t, dir)); got < 8 {
				t.Errorf("%d processes run, want two servers bare, two graceful, two that sleep, two under drainit", got)
			}
			c.Process.Signal(syscall.SIGINT)
		}
	}
	if c.Wait(); c.ProcessState.ExitCode() != 130 {
		t.Errorf("%v, want exit status 130", c.ProcessState)
	}
	if left := running(t, dir); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// demo returns the command that runs the demo, and the directory where it keeps
// its files.
func demo(t *testing.T) (c *exec.Cmd, dir string) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped by -short: the demo takes 10 s")
	}
	dir = t.TempDir()
	c = exec.Command(build(t, "github.com/drainit/drainit/examples/demo"), quick...)
	c.Env = append(os.Environ(), "TMPDIR="+dir)
	return c, dir
}

// running finds the processes whose program is in dir.
func running(t *testing.T, dir string) (found []string) {
	t.Helper()
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, l := range links {
		if exe, err := os.Readlink(l); err == nil && strings.HasPrefix(exe, dir) {
			found = append(found, l+" "+exe)
		}
	}
	return found
}

func build(t *testing.T, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	if text, err := exec.Command("go", "build", "-buildvcs=false", "-o", out, pkg).CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, text)
	}
	return out
}
