package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A sidecar in the same network namespace, with a hundred connections that stay
// open, requests that don't end, and new clients all the time. Each case tells
// the server from its neighbour in another way.
func drainNeighbours(t *testing.T) {
	s := drainStop{
		server: drainThreads, env: []string{"DRAIN_WINDOW=1s", "STOP_RESERVE=5s"},
		grace: 30 * time.Second, warm: 3 * time.Second, late: time.Second,
		traffic: func(l *drainLoad) { l.arrive(10, drainPaths(0.1, 500)) },
	}
	check := func(t *testing.T, r *drainResult) {
		r.lossless(t)
		r.because(t, "closed")
		if r.signal > 12*time.Second { // forward_by is after 23 s
			t.Errorf("delayed until %s:\n%s", r.signal, r.log)
		}
		if line := r.line(t, "stop signal forwarded"); attribute(t, line, "connections") != "0" {
			t.Errorf("counted the sidecar's connections: %s", line)
		}
	}

	s.scenario = "7 sidecar in another cgroup"
	a, b := drainCgroups(t)
	s.inside = func(t *testing.T, command []string) []string { return drainInCgroup(t, a(t), command) }
	s.beside = drainSidecar(func(t *testing.T, command []string) []string { return drainInCgroup(t, b(t), command) })
	drainCompare(t, s, 2, []string{"closed"}, check)

	// In one cgroup, by the process that holds the listener.
	s.scenario = "7 sidecar in the same cgroup"
	s.inside, s.beside = nil, drainSidecar(nil)
	drainRun(t, s, "closed", 2, check)

	// In the host's network namespace nothing else may tell them apart; the
	// ports do.
	s.scenario = "7 sidecar, told by PORTS"
	s.env = append(s.env, fmt.Sprintf("PORTS=%d", drainPort))
	drainRun(t, s, "closed", 2, check)
}

// drainSidecar starts a server whose clients never leave.
func drainSidecar(inside func(*testing.T, []string) []string) func(*testing.T, *drainNet) {
	return func(t *testing.T, n *drainNet) {
		command := drainNode.command(t)
		if inside != nil {
			command = inside(t, command)
		}
		p := n.start(t, setup{as: command[0], env: []string{"HOST=127.0.0.1", fmt.Sprintf("PORT=%d", drainOtherPort)}}, command[1:]...)
		l := newDrainLoad(n, fmt.Sprintf("127.0.0.1:%d", drainOtherPort), drainSeed())
		l.listens(t, drainSubject{done: p.done, log: p.err.String})
		for i := range 100 {
			c, err := l.connect(l.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			if i%10 == 0 {
				fmt.Fprint(c, "GET /?ms=600000 HTTP/1.1\r\nHost: drain\r\n\r\n")
			}
		}
		l.arrive(20, drainPaths(0, 0))
		t.Cleanup(func() {
			close(l.moved)
			l.finish(t)
		})
	}
}

// drainInCgroup returns the command preceded by what enters a cgroup first.
func drainInCgroup(t *testing.T, dir string, command []string) []string {
	return append([]string{program(t, "/bin/sh", "dash"), "-c", `echo 0 >"$0/cgroup.procs" && exec "$@"`, dir}, command...)
}

// drainCgroups makes two cgroups where version 2 is mounted, when first used.
func drainCgroups(t *testing.T) (a, b func(t *testing.T) string) {
	made := sync.OnceValues(func() (string, error) {
		mounts, err := os.ReadFile("/proc/mounts")
		if err != nil {
			return "", err
		}
		err = fmt.Errorf("no cgroup v2 is mounted")
		for line := range strings.Lines(string(mounts)) {
			f := strings.Fields(line)
			if len(f) < 3 || f[2] != "cgroup2" {
				continue
			}
			dir := filepath.Join(f[1], fmt.Sprintf("drainit-test-%d", os.Getpid()))
			dirs := []string{filepath.Join(dir, "b"), filepath.Join(dir, "a"), dir}
			t.Cleanup(func() {
				for _, d := range dirs {
					eventually(t, "the cgroup is empty", func() bool { err := os.Remove(d); return err == nil || os.IsNotExist(err) })
				}
			})
			for _, d := range []string{dir, dirs[1], dirs[0]} {
				if err = os.Mkdir(d, 0o755); err != nil {
					break
				}
			}
			if err == nil {
				return dir, nil
			}
		}
		return "", err
	})
	one := func(name string) func(t *testing.T) string {
		return func(t *testing.T) string {
			t.Helper()
			dir, err := made()
			if err != nil {
				missing(t, false, "no two cgroups can be made: %v", err)
			}
			return filepath.Join(dir, name)
		}
	}
	return one("a"), one("b")
}
