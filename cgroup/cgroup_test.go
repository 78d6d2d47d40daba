package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOOMKills(t *testing.T) {
	const (
		v2     = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n"
		v1     = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"
		old    = "oom_kill_disable 0\nunder_oom 0\n" // before Linux 4.13
		events = "memory.events"
		oom    = "memory.oom_control"
	)
	const v1Self = "12:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc\n1:name=systemd:/docker/abc\n"
	const unknown = -1
	for _, c := range []struct {
		name  string
		self  string // /proc/self/cgroup
		files map[string]string
		want  int
	}{
		{"v2 in a container: the own cgroup is the root", "0::/\n", map[string]string{events: v2}, 2},
		{"v2 outside: it is at its path", "0::/system.slice/x.service\n",
			map[string]string{"system.slice/x.service/" + events: v2, events: "oom_kill 99\n"}, 2},
		{"v2 with the host's path and the own root", "0::/kubepods/pod1/c\n", map[string]string{events: v2}, 2},
		{"v2 above the namespace", "0::/../other\n", map[string]string{events: v2}, 2},
		{"v2 with a colon in its path", "0::/a:b\n", map[string]string{"a:b/" + events: v2, events: "oom_kill 99\n"}, 2},
		{"v1 in a container", v1Self, map[string]string{"memory/" + oom: v1}, 5},
		{"v1 outside", v1Self, map[string]string{"memory/docker/abc/" + oom: v1, "memory/" + oom: "oom_kill 99\n"}, 5},
		{"v1 with memory beside another controller", "4:cpu,memory:/x\n", map[string]string{"cpu,memory/x/" + oom: v1}, 5},
		{"v1 before it counted", v1Self, map[string]string{"memory/" + oom: old}, unknown},
		{"hybrid: memory is v1's", v1Self + "0::/docker/abc\n", map[string]string{"memory/docker/abc/" + oom: v1, "unified/cgroup.procs": ""}, 5},
		{"hybrid, told in the other order", "0::/docker/abc\n" + v1Self, map[string]string{"memory/docker/abc/" + oom: v1}, 5},
		{"the root of a machine has no events", "0::/\n", map[string]string{"cgroup.procs": ""}, unknown},
		{"nothing mounted", "0::/\n", nil, unknown},
		{"no cgroup", "", map[string]string{events: v2}, unknown},
		{"nonsense", "what\n:::\n0:\n", map[string]string{"x": ""}, unknown},
		{"a count that is none", "0::/\n", map[string]string{events: "oom_kill many\n"}, unknown},
		{"a controller whose name only ends like it", "5:notmemory:/x\n", map[string]string{"notmemory/" + oom: v1}, unknown},
		{"oom and oom_group_kill are others", "0::/\n", map[string]string{events: "oom 3\noom_group_kill 1\n"}, unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for name, content := range c.files {
				file := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := oomKills(root, c.self)
			if err != nil && c.want != unknown || err == nil && int(got) != c.want {
				t.Errorf("got %d, %v; want %d", got, err, c.want)
			}
		})
	}
}

// TestOOMKillsHere: the call is harmless on any machine.
func TestOOMKillsHere(t *testing.T) {
	n, err := OOMKills()
	t.Logf("%d, %v", n, err)
}

func TestFreeProcesses(t *testing.T) {
	const v1Self = "5:pids:/docker/abc\n"
	const unknown = -1
	for _, c := range []struct {
		name         string
		self, dir    string
		max, current string
		want         int
	}{
		{"v2 in a container", "0::/\n", "", "10\n", "4\n", 6},
		{"v2 outside", "0::/x\n", "x", "10\n", "4\n", 6},
		{"v1 in a container", v1Self, "pids", "80\n", "80\n", 0},
		{"more than the limit, which was lowered", v1Self, "pids/docker/abc", "8\n", "9\n", 0},
		{"no limit", "0::/\n", "", "max\n", "4\n", unknown},
		{"no count", "0::/\n", "", "10\n", "", unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, c.dir)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for name, content := range map[string]string{"pids.max": c.max, "pids.current": c.current} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got, err := freeProcesses(root, c.self)
			if err != nil && c.want != unknown || err == nil && int(got) != c.want {
				t.Errorf("got %d, %v; want %d", got, err, c.want)
			}
		})
	}
}
