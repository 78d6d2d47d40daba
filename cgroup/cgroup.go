// Package cgroup reads from drainit's control group whether the kernel's OOM
// killer has ended a process in it. It reads nothing else.
package cgroup

import (
	"errors"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/drainit/drainit/internal/proc"
)

// root is where control groups are mounted in containers.
const root = "/sys/fs/cgroup"

// OOMKills returns how many processes of this cgroup the OOM killer has ended
// so far: oom_kill in memory.events (cgroup v2) or in memory.oom_control (v1,
// since Linux 4.13). It returns an error if the kernel reports neither.
func OOMKills() (uint64, error) {
	self, err := proc.ReadFile("/proc/self/cgroup", nil)
	if err != nil {
		return 0, err
	}
	return oomKills(root, string(self))
}

// oomKills tries each file that may belong to this cgroup. In a container the
// cgroup is usually mounted at root, and the path in /proc/self/cgroup may be
// the host's (always with v1); outside a container it is at that path.
func oomKills(root, self string) (uint64, error) {
	for line := range strings.Lines(self) {
		// hierarchy-ID:controllers:path (cgroups(7)); v2 has ID 0 and none.
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var base, file string
		switch {
		case parts[0] == "0":
			base, file = root, "memory.events"
		case strings.Contains(","+parts[1]+",", ",memory,"):
			base, file = filepath.Join(root, parts[1]), "memory.oom_control"
		default:
			continue
		}
		for _, dir := range []string{filepath.Join(base, parts[2]), base} {
			if data, err := proc.ReadFile(filepath.Join(dir, file), nil); err == nil {
				if n, err := field(data, "oom_kill"); err == nil {
					return n, nil
				}
			}
		}
	}
	return 0, errors.New("no memory cgroup counts OOM kills")
}

// field returns the number in the line "name number".
func field(data []byte, name string) (uint64, error) {
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseUint(strings.TrimSpace(rest), 10, 64)
		}
	}
	return 0, errors.New("no " + name)
}
