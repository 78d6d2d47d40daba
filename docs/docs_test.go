// Package docs_test checks what the README and docs show: every block of code
// is built, run or read by strict rules, and every link leads somewhere.
package docs_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// pages lists the Markdown files of the repository's root, docs and examples.
func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../*.md", "*.md", "../examples/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	if len(all) < 12 {
		t.Fatalf("only %v", all)
	}
	return all
}

// block is a fenced block of code.
type block struct {
	file  string
	line  int
	lang  string
	text  string
	unrun string // why it is not run, by a comment before it
}

var (
	fence  = regexp.MustCompile("^ *```(\\w*)$")
	notRun = regexp.MustCompile(`^<!-- not run: (.+) -->$`)
)

// blocks returns the blocks of a page.
func blocks(t *testing.T, file string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b *block
	unrun := ""
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimRight(line, "\n")
		switch m := fence.FindStringSubmatch(line); {
		case m != nil && b == nil:
			b = &block{file: file, line: n, lang: m[1], unrun: unrun}
		case m != nil:
			all = append(all, *b)
			b, unrun = nil, ""
		case b != nil:
			b.text += line + "\n"
		default:
			if m := notRun.FindStringSubmatch(line); m != nil {
				unrun = m[1]
			} else if line != "" {
				unrun = ""
			}
		}
	}
	if b != nil {
		t.Fatalf("%s:%d: a block without an end", file, b.line)
	}
	return all
}

// everyBlock runs check on each block of the pages that users read.
func everyBlock(t *testing.T, check func(*testing.T, block)) {
	for _, file := range pages(t) {
		if strings.HasSuffix(file, "CONTRIBUTING.md") || strings.HasPrefix(filepath.Base(file), "proof") || slices.Contains(measured, filepath.Base(file)) {
			continue
		}
		for _, b := range blocks(t, file) {
			t.Run(fmt.Sprintf("%s:%d", filepath.Base(file), b.line), func(t *testing.T) { check(t, b) })
		}
	}
}

// measured are pages of results: their blocks are what was measured.
var measured = []string{"clients.md", "cost.md", "platforms-tested.md"}

var (
	drainitOnce sync.Once
	drainitPath string
	drainitErr  error
)

// drainit builds the program once and returns its path.
func drainit(t *testing.T) string {
	t.Helper()
	drainitOnce.Do(func() {
		dir, err := os.MkdirTemp("", "drainit-docs-")
		if err != nil {
			drainitErr = err
			return
		}
		drainitPath = filepath.Join(dir, "drainit")
		cmd := exec.Command("go", "build", "-buildvcs=false", "-o", drainitPath, "github.com/drainit/drainit")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			drainitErr = fmt.Errorf("%v\n%s", err, out)
		}
	})
	if drainitErr != nil {
		t.Fatal(drainitErr)
	}
	return drainitPath
}

func TestMain(m *testing.M) {
	code := m.Run()
	if drainitPath != "" {
		os.RemoveAll(filepath.Dir(drainitPath))
	}
	if standInBuilt {
		exec.Command("docker", "image", "rm", "--force", standInImage).Run()
	}
	os.Exit(code)
}

// plans wants `drainit plan` to accept the variables.
func plans(t *testing.T, env map[string]string) {
	t.Helper()
	cmd := exec.Command(drainit(t), "plan")
	cmd.Env = []string{}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("drainit plan with %v: %v\n%s", cmd.Env, err, out)
	}
}

// setting matches a variable and its value in whatever a block is written in:
// X=1, X: 1, X = "1", {name: X, value: "1"}, {"name": "X", "value": "1"}.
var setting = regexp.MustCompile(`(DRAINIT_[A-Z_]+)(?:"?, *"?value"?: *|\s*[:=] *)"?([^"\s}]+)`)

// TestSettings has drainit check the variables of each block.
func TestSettings(t *testing.T) {
	everyBlock(t, func(t *testing.T, b block) {
		if strings.Contains(b.text, "SIGKILL") { // a timeline, in words
			return
		}
		env := map[string]string{}
		for _, m := range setting.FindAllStringSubmatch(b.text, -1) {
			env[m[1]] = m[2]
		}
		if len(env) > 0 {
			plans(t, env)
		}
	})
}

// TestBlocks reads each block by the rules of its language. A block that is in
// none of them fails: what is shown is checked, or says why not.
func TestBlocks(t *testing.T) {
	readers := map[string]func(*testing.T, block){
		"yaml": readYAML, "json": readECS, "dockerfile": readDockerfile, "": readPlain,
		// Read by TestSettings; their programs are not at hand.
		"hcl": func(*testing.T, block) {}, "toml": func(*testing.T, block) {}, "ini": func(*testing.T, block) {},
	}
	everyBlock(t, func(t *testing.T, b block) {
		if b.unrun != "" {
			return
		}
		read, ok := readers[b.lang]
		if !ok {
			t.Fatalf("%q is no language that is checked here", b.lang)
		}
		read(t, b)
	})
}

// decode reads YAML into v, and rejects fields that v has not.
func decode(t *testing.T, b block, v any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(b.text))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil {
		t.Fatalf("%v in\n%s", err, b.text)
	}
}

func readYAML(t *testing.T, b block) {
	var top map[string]any
	if err := yaml.Unmarshal([]byte(b.text), &top); err != nil {
		t.Fatal(err)
	}
	switch {
	case top["services"] != nil:
		readCompose(t, b)
	case top["http"] != nil:
		readTraefik(t, b)
	case top["spec"] != nil || top["metadata"] != nil || top["lifecycle"] != nil:
		readPod(t, b)
	default:
		t.Fatal("neither Compose nor Kubernetes nor Traefik")
	}
}

// compose is what the pages use of Compose's fields.
type compose struct {
	Services map[string]struct {
		Image, Command any
		Grace          string `yaml:"stop_grace_period"`
		Environment    map[string]string
		Healthcheck    struct {
			Test              []string
			Interval, Timeout string
			Retries           int
		}
		DependsOn map[string]struct{ Condition string } `yaml:"depends_on"`
		Deploy    struct {
			Replicas int
			Update   struct{ Order string } `yaml:"update_config"`
		}
	}
}

func readCompose(t *testing.T, b block) {
	var c compose
	decode(t, b, &c)
	for name, s := range c.Services {
		plans(t, s.Environment)
		if s.Grace != "" && s.Grace != s.Environment["DRAINIT_GRACE_PERIOD"] {
			t.Errorf("%s: stop_grace_period is %s, DRAINIT_GRACE_PERIOD %q", name, s.Grace, s.Environment["DRAINIT_GRACE_PERIOD"])
		}
		if test := s.Healthcheck.Test; test != nil && (test[0] != "CMD" || !slices.Equal(test[1:3], []string{"/drainit", "check"})) {
			t.Errorf("%s: healthcheck %q", name, test)
		}
	}
}

func readTraefik(t *testing.T, b block) {
	var c struct {
		HTTP struct {
			Services map[string]struct {
				LoadBalancer struct {
					HealthCheck struct {
						Path              string
						Port              int
						Interval, Timeout string
					} `yaml:"healthCheck"`
					Servers []struct{ URL string }
				} `yaml:"loadBalancer"`
			}
		}
	}
	decode(t, b, &c)
	for name, s := range c.HTTP.Services {
		if check := s.LoadBalancer.HealthCheck; check.Path != "/readyz" || check.Port != 8099 {
			t.Errorf("%s is checked at %s on %d", name, check.Path, check.Port)
		}
	}
}

// probe, container and podSpec are what the pages use of Kubernetes' fields.
type probe struct {
	HTTPGet struct {
		Path string
		Port int
	} `yaml:"httpGet"`
	Period   int `yaml:"periodSeconds"`
	Failures int `yaml:"failureThreshold"`
}

type lifecycle struct {
	PreStop struct {
		Exec struct{ Command []string }
	} `yaml:"preStop"`
}

type container struct {
	Name, Image   string
	Command, Args []string
	Env           []struct{ Name, Value string }
	Readiness     *probe `yaml:"readinessProbe"`
	Liveness      *probe `yaml:"livenessProbe"`
	Startup       *probe `yaml:"startupProbe"`
	Lifecycle     lifecycle
	Mounts        []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
}

type podSpec struct {
	Grace      int         `yaml:"terminationGracePeriodSeconds"`
	Init       []container `yaml:"initContainers"`
	Containers []container
	Volumes    []struct {
		Name     string
		EmptyDir *struct{} `yaml:"emptyDir"`
		Image    struct {
			Reference  string
			PullPolicy string `yaml:"pullPolicy"`
		}
	}
	Template struct{ Spec *podSpec } // Cloud Run's
}

func readPod(t *testing.T, b block) {
	var pod struct {
		Metadata  struct{ Annotations map[string]string }
		Lifecycle lifecycle
		Spec      podSpec
	}
	decode(t, b, &pod)
	spec := pod.Spec
	if spec.Template.Spec != nil {
		spec = *spec.Template.Spec
	}
	for _, c := range spec.Containers {
		env := map[string]string{}
		for _, v := range c.Env {
			env[v.Name] = v.Value
		}
		plans(t, env)
		if spec.Grace != 0 && fmt.Sprint(spec.Grace) != env["DRAINIT_GRACE_PERIOD"] {
			t.Errorf("terminationGracePeriodSeconds is %d, DRAINIT_GRACE_PERIOD %q", spec.Grace, env["DRAINIT_GRACE_PERIOD"])
		}
		for path, p := range map[string]*probe{"/readyz": c.Readiness, "/livez": c.Liveness, "/startupz": c.Startup} {
			if p != nil && (p.HTTPGet.Path != path || p.HTTPGet.Port != 8099) {
				t.Errorf("a probe asks for %s on %d, want %s on 8099", p.HTTPGet.Path, p.HTTPGet.Port, path)
			}
		}
		for _, m := range c.Mounts {
			if !strings.HasPrefix(c.Command[0], m.MountPath+"/") {
				t.Errorf("%q is not in %s", c.Command[0], m.MountPath)
			}
		}
	}
}

// readECS reads a container definition.
func readECS(t *testing.T, b block) {
	var c struct {
		Name, Image string
		StopTimeout int
		Environment []struct{ Name, Value string }
		HealthCheck struct {
			Command           []string
			Interval, Retries int
		}
	}
	d := json.NewDecoder(strings.NewReader(b.text))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for _, v := range c.Environment {
		env[v.Name] = v.Value
	}
	plans(t, env)
	if fmt.Sprint(c.StopTimeout) != env["DRAINIT_GRACE_PERIOD"] {
		t.Errorf("stopTimeout is %d, DRAINIT_GRACE_PERIOD %q", c.StopTimeout, env["DRAINIT_GRACE_PERIOD"])
	}
}

// published is what the pages call the image of a release.
var published = regexp.MustCompile(`ghcr\.io/drainit/drainit:v[0-9.]+`)

// readDockerfile builds a Dockerfile, or the end of one, on a stand-in for its
// base, and has the drainit in it check the image's variables.
func readDockerfile(t *testing.T, b block) {
	base := standIn(t)
	text := regexp.MustCompile(`(?m)^FROM .*$`).ReplaceAllString(b.text, "FROM "+base)
	if text == b.text {
		text = "FROM " + base + "\n" + text
	}
	text = published.ReplaceAllString(text, base)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	image := fmt.Sprintf("drainit-docs-test:%d", time.Now().UnixNano())
	docker(t, "build", "--quiet", "--tag", image, dir)
	t.Cleanup(func() { exec.Command("docker", "image", "rm", "--force", image).Run() })
	docker(t, "run", "--rm", "--entrypoint", "/drainit", image, "plan")
	var config struct{ Entrypoint, Cmd []string }
	out := docker(t, "inspect", "--format={{json .Config}}", image)
	if err := json.Unmarshal([]byte(out), &config); err != nil {
		t.Fatal(err)
	}
	if e := config.Entrypoint; strings.Contains(b.text, "ENTRYPOINT") && !slices.Contains(e, "/drainit") || len(config.Cmd) == 0 {
		t.Errorf("ENTRYPOINT %q, CMD %q", e, config.Cmd)
	}
}

var (
	standInOnce  sync.Once
	standInErr   error
	standInBuilt bool
)

const standInImage = "drainit-docs-test/base"

// standIn builds, once, an image that has nothing but drainit.
func standIn(t *testing.T) string {
	t.Helper()
	needsDocker(t)
	standInOnce.Do(func() {
		dir := t.TempDir()
		binary, err := os.ReadFile(drainit(t))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "drainit"), binary, 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY drainit /drainit\n"), 0o644)
		}
		if err != nil {
			standInErr = err
			return
		}
		docker(t, "build", "--quiet", "--tag", standInImage, dir)
		standInBuilt = true
	})
	if standInErr != nil {
		t.Fatal(standInErr)
	}
	return standInImage
}

func needsDocker(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped by -short: builds an image")
	}
	if out, err := exec.Command("docker", "info").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Skip("docker does not answer")
	}
}

func docker(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("docker", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("docker %s: %v\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}

// readPlain runs the commands of a block without a language. One that is a
// drawing or a configuration says so by what it contains.
func readPlain(t *testing.T, b block) {
	switch {
	case strings.Contains(b.text, "─"), strings.Contains(b.text, "SIGKILL"): // a drawing, a timeline
	case strings.Contains(b.text, "option httpchk"):
		readHAProxy(t, b)
	case strings.HasPrefix(b.text, "reverse_proxy"): // Caddy is not at hand
	default:
		for line := range strings.Lines(b.text) {
			runLine(t, strings.TrimSpace(strings.TrimPrefix(line, "$ ")))
		}
	}
}

// readHAProxy has HAProxy itself check the lines.
func readHAProxy(t *testing.T, b block) {
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		haproxy = "/usr/sbin/haproxy"
		if _, err := os.Stat(haproxy); err != nil {
			t.Skip(err)
		}
	}
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	text := "defaults\n\tmode http\n\ttimeout connect 1s\n\ttimeout client 1s\n\ttimeout server 1s\n" + b.text
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(haproxy, "-c", "-f", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// runLine runs a command that a page shows. An image of the user's is the
// stand-in.
func runLine(t *testing.T, line string) {
	switch {
	case strings.HasPrefix(line, "docker build"):
		// examples/build-images.sh builds these, and TestDockerfiles reads
		// them.
		file := regexp.MustCompile(`-f (\S+)`).FindStringSubmatch(line)
		if _, err := os.Stat(filepath.Join("..", file[1])); err != nil {
			t.Error(err)
		}
	case strings.HasPrefix(line, "docker run"):
		line = strings.ReplaceAll(line, "your-image", standIn(t))
		if !strings.Contains(line, "--entrypoint") { // its server is not there
			line = strings.Replace(line, "docker run --detach", "docker run --rm --entrypoint /drainit", 1) + " plan"
		}
		if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	default:
		t.Errorf("%q is not a command that is run here; say why, by <!-- not run: … --> before the block", line)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// anchors returns the anchors that GitHub gives the headings of a page.
func anchors(t *testing.T, file string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
		slug := regexp.MustCompile(`[^\p{L}\p{N}_ -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(slug, " ", "-"))
	}
	return all
}

// TestLinks wants every link inside the repository to lead somewhere, and every
// page to be reachable from the README.
func TestLinks(t *testing.T) {
	reached := map[string]bool{"../README.md": true}
	for todo := []string{"../README.md"}; len(todo) > 0; {
		file := todo[0]
		todo = todo[1:]
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			path, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			to := file
			if path != "" {
				to = filepath.Join(filepath.Dir(file), path)
			}
			if strings.HasSuffix(to, ".jsonl") { // a measurement's raw results
				continue
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s: %v", file, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(t, to), anchor) {
				t.Errorf("%s links to %s, and there is no such heading", file, m[1])
			}
			if strings.HasSuffix(to, ".md") && !reached[to] {
				to = strings.TrimPrefix(to, "docs/") // the page's own folder, as ../docs has it
				to = strings.TrimPrefix(to, "../docs/")
				if !reached[to] {
					reached[to] = true
					todo = append(todo, to)
				}
			}
		}
	}
	for _, file := range pages(t) {
		if !strings.HasPrefix(file, "..") && !reached[file] {
			t.Errorf("docs/%s can't be reached from the README", file)
		}
	}
}

func TestReadmeIsOnePage(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n > 130 {
		t.Errorf("README.md has %d lines, more than 130", n)
	}
}

// TestNames wants variables by their full names, and only such as there are.
func TestNames(t *testing.T) {
	reference, err := os.ReadFile("reference.md")
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(DRAINIT_[A-Z_]+)` \\|").FindAllSubmatch(reference, -1) {
		known = append(known, string(m[1]))
	}
	if len(known) < 20 {
		t.Fatalf("the table of reference.md has %v", known)
	}
	injected := regexp.MustCompile(`^DRAINIT_(SERVICE_|PORT$|PORT_)`)
	fenced := regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	for _, file := range pages(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`DRAINIT_[A-Z_0-9]*[A-Z0-9]`).FindAllString(string(text), -1) {
			if !slices.Contains(known, name) && !injected.MatchString(name) {
				t.Errorf("%s speaks of %s, which there is not", file, name)
			}
		}
		if slices.Contains(measured, filepath.Base(file)) {
			continue
		}
		prose := fenced.ReplaceAllString(string(text), "")
		for _, name := range known {
			short := strings.TrimPrefix(name, "DRAINIT_")
			if !strings.Contains(short, "_") { // PORTS, WATCHDOG: words as well
				continue
			}
			if m := regexp.MustCompile(`(^|[^A-Z_])` + short + `($|[^A-Z_])`).FindString(prose); m != "" {
				t.Errorf("%s says %q, without DRAINIT_", file, strings.TrimSpace(m))
			}
		}
	}
}

// TestMetrics compares the reference's table with the names in package health.
func TestMetrics(t *testing.T) {
	reference, err := os.ReadFile("reference.md")
	if err != nil {
		t.Fatal(err)
	}
	sources, err := filepath.Glob("../health/*.go")
	if err != nil {
		t.Fatal(err)
	}
	inCode := map[string]bool{}
	for _, path := range sources {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"(drainit_[a-z_]+)"`).FindAllSubmatch(text, -1) {
			inCode[string(m[1])] = true
		}
	}
	inTable := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(drainit_[a-z_]+)` \\|").FindAllSubmatch(reference, -1) {
		inTable[string(m[1])] = true
	}
	for name := range inCode {
		if !inTable[name] {
			t.Errorf("reference.md lacks the metric %s", name)
		}
	}
	for name := range inTable {
		if !inCode[name] {
			t.Errorf("reference.md has the metric %s, which there is not", name)
		}
	}
}
