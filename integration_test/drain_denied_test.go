package integration_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// In containers without any privilege, and in such as are denied netlink too.
func drainDenied(t *testing.T) {
	s := drainStop{
		scenario: "8 no privilege", server: drainServer{"http.server", func(t *testing.T) []string {
			return []string{program(t, "/usr/bin/python3", "python3"), "/servers/threads.py"}
		}},
		env:   []string{"DRAIN_WINDOW=1s", "STOP_RESERVE=5s"},
		grace: 20 * time.Second, warm: 3 * time.Second, late: time.Second,
		traffic: func(l *drainLoad) { l.arrive(10, drainPaths(0.1, 1500)) },
	}
	drainCompareContainers(t, s, nil, []string{"idle"}, func(t *testing.T, r *drainResult) {
		r.lossless(t)
		r.because(t, "idle")
		if strings.Contains(r.log, "/proc/net/tcp") {
			t.Errorf("fell back:\n%s", r.log)
		}
	})

	s.scenario, s.server = "8 netlink denied", drainServer{"gunicorn -w 1", func(t *testing.T) []string {
		return []string{program(t, "/usr/bin/gunicorn", "gunicorn"), "-w", "1", "-b", fmt.Sprintf("0.0.0.0:%d", drainPort),
			"--chdir", "/servers", "--worker-tmp-dir", "/dev/shm", "--log-level", "critical", "wsgi:app"}
	}}
	s.traffic = func(l *drainLoad) { l.arrive(4, func(*rand.Rand) string { return "/?ms=400" }) }
	profile := func(t *testing.T) []string { return []string{"--security-opt", "seccomp=" + drainNoNetlink(t)} }
	drainCompareContainers(t, s, profile, []string{"quiet", "idle"}, func(t *testing.T, r *drainResult) {
		r.lossless(t)
		r.line(t, "reading /proc/net/tcp")
		if r.signal > 12*time.Second { // forward_by is after 13 s
			t.Errorf("forwarded after %s:\n%s", r.signal, r.log)
		}
	})
}

func drainCompareContainers(t *testing.T, s drainStop, options func(*testing.T) []string, until []string, check func(*testing.T, *drainResult)) {
	for _, init := range append(append([]string{}, drainInits...), until...) {
		s := s
		s.init, s.seed = init, drainSeed()<<16
		t.Run(strings.Join([]string{s.scenario, s.server.name, init}, "/"), func(t *testing.T) {
			if testing.Short() && init != until[0] {
				t.Skip("long: not with -short")
			}
			t.Parallel()
			var more []string
			if options != nil {
				more = options(t)
			}
			if r := s.contain(t, more...); check != nil && s.init != "window" && s.withDrainit() {
				check(t, r)
			}
		})
	}
}

// contain is run, in a container of Docker's.
func (s *drainStop) contain(t *testing.T, options ...string) *drainResult {
	t.Helper()
	args := append([]string{"run", "--detach", "--user", "65534:65534", "--cap-drop", "ALL", "--read-only",
		"--security-opt", "no-new-privileges", "--volume", "/usr:/usr:ro", "--volume", drainScript("") + ":/servers:ro",
		"--volume", drainit + ":/drainit:ro"}, options...)
	for _, e := range environment(append(s.environment(), "HOST=0.0.0.0", fmt.Sprintf("HEALTH_ADDR=:%d", drainHealthPort))) {
		args = append(args, "--env", e)
	}
	command := s.command(t)
	if s.withDrainit() {
		command[0] = "/drainit"
	}
	id := drainDocker(t, append(append(args, drainImage(t)), command...)...)
	t.Cleanup(func() { exec.Command("docker", "rm", "--force", id).Run() })
	done, ended := make(chan struct{}), time.Time{}
	go func() {
		exec.Command("docker", "wait", id).Run()
		ended = time.Now()
		close(done)
	}()
	host := drainDocker(t, "inspect", "--format", "{{.NetworkSettings.IPAddress}}", id)
	return s.measure(t, host, drainSubject{
		done:   done,
		signal: func() { drainDocker(t, "kill", "--signal", "TERM", id) },
		kill:   func() { drainDocker(t, "kill", id) },
		ended:  func() time.Time { return ended },
		log: func() string {
			out, _ := exec.Command("docker", "logs", id).CombinedOutput()
			return string(out)
		},
	})
}

func drainDocker(t *testing.T, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	c := exec.Command("docker", args...)
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// drainImage is an image with nothing in it but the places where the tests'
// own Debian is mounted: so that its servers run in containers too.
func drainImage(t *testing.T) string {
	t.Helper()
	if out, err := exec.Command("docker", "info").CombinedOutput(); err != nil {
		missing(t, true, "Docker does not answer: %v %s", err, out)
	}
	if err := drainImport(); err != nil {
		t.Fatal(err)
	}
	return drainImageName
}

const drainImageName = "local/drainit-test-usr"

var drainImport = sync.OnceValue(func() error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"usr", "servers", "tmp", "proc", "dev", "sys", "etc"} {
		w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755})
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: "usr/" + name})
	}
	w.WriteHeader(&tar.Header{Name: "drainit", Typeflag: tar.TypeReg, Mode: 0o755})
	if err := w.Close(); err != nil {
		return err
	}
	c := exec.Command("docker", "import", "-", drainImageName)
	c.Stdin = &b
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("docker import: %v %s", err, out)
	}
	return nil
})

// drainNoNetlink is a seccomp profile that allows everything but netlink sockets.
func drainNoNetlink(t *testing.T) string {
	t.Helper()
	profile, err := json.Marshal(map[string]any{
		"defaultAction": "SCMP_ACT_ALLOW",
		"syscalls": []any{map[string]any{
			"names":  []string{"socket"},
			"action": "SCMP_ACT_ERRNO", // EPERM
			"args":   []any{map[string]any{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}},
		}},
	})
	path := filepath.Join(t.TempDir(), "no-netlink.json")
	if err == nil {
		err = os.WriteFile(path, profile, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
