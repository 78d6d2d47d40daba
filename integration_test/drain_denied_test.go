package integration_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// In containers without any privilege, and in some that are denied netlink too.
func drainDenied(t *testing.T) {
	s := drainStop{
		scenario: "8 no privilege", server: drainServer{"http.server", func(t *testing.T) []string {
			return []string{program(t, "/usr/bin/python3", "python3"), "/app/threads.py"}
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
		return []string{program(t, "/usr/bin/gunicorn", "gunicorn"), "-w", "1", "-b", fmt.Sprintf("127.0.0.1:%d", drainPort),
			"--chdir", "/app", "--worker-tmp-dir", "/dev/shm", "--log-level", "critical", "wsgi:app"}
	}}
	s.grace = 40 * time.Second
	s.traffic = func(l *drainLoad) { l.arrive(4, func(*rand.Rand) string { return "/?ms=400" }) }
	profile := func(t *testing.T) []string { return []string{"--security-opt", "seccomp=" + drainNoNetlink(t)} }
	drainCompareContainers(t, s, profile, []string{"quiet", "idle"}, func(t *testing.T, r *drainResult) {
		r.lossless(t)
		r.line(t, "reading /proc/net/tcp")
		if r.signal > 25*time.Second { // forward_by is after 33 s
			t.Errorf("forwarded after %s:\n%s", r.signal, r.log)
		}
	})
}

func drainCompareContainers(t *testing.T, s drainStop, options func(*testing.T) []string, until []string, check func(*testing.T, *drainResult)) {
	for _, init := range append(append([]string{}, drainInits...), until...) {
		s := s
		s.init, s.seed = init, drainSeed()<<16
		t.Run(strings.Join([]string{s.scenario, s.server.name, init}, "/"), func(t *testing.T) {
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

// contain is run in a Docker container, with the clients in its network
// namespace. Not on Docker's bridge: all containers lose their gateway for
// seconds when others come and go, if the bridge's address changes with them.
func (s *drainStop) contain(t *testing.T, options ...string) *drainResult {
	t.Helper()
	command := s.command(t)
	options = append(append([]string{"--user", "65534:65534", "--cap-drop", "ALL", "--read-only", "--security-opt", "no-new-privileges",
		"--network", "none", "--volume", drainScript("") + ":/app:ro"}, machine...), options...)
	for _, e := range s.environment() {
		options = append(options, "-e", e)
	}
	if s.withDrainit() {
		command = command[2:] // the image has these already
	} else {
		options = append(options, "--entrypoint", command[0])
		command = command[1:]
	}
	c := run(t, options, command...)
	s.net = c.drainNet(t)
	return s.measure(t, s.host(), drainSubject{
		done:   c.done,
		signal: func() { dockerDoes(t, "kill", "--signal", "TERM", c.name) },
		kill:   func() { dockerDoes(t, "kill", c.name) },
		ended:  func() time.Time { return c.ended },
		log:    c.err.String,
	})
}

// drainNet returns the container's network namespace.
func (c *container) drainNet(t *testing.T) *drainNet {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, false, "only root can enter a container's network namespace")
	}
	n := new(drainNet)
	eventually(t, "the container runs", func() bool {
		pid, _ := docker("inspect", "-f", "{{.State.Pid}}", c.name)
		f, err := os.Open("/proc/" + pid + "/ns/net")
		if pid == "0" || err != nil {
			return false
		}
		n.file = f
		return true
	})
	t.Cleanup(func() { n.file.Close() })
	return n
}

// drainNoNetlink is a seccomp profile that allows everything but netlink
// sockets.
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
