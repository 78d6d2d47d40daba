// Package cgroup reads the one thing drainit wants to know of its control
// group: whether the kernel killed something in it for want of memory.
package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// root is where containers find the control groups mounted.
const root = "/sys/fs/cgroup"

// OOMKills is how many processes of this cgroup the OOM killer has ended so
// far: oom_kill in memory.events (cgroup v2) or in memory.oom_control (v1,
// Linux 4.13). Its error means that the kernel does not tell.
func OOMKills() (uint64, error) {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0, err
	}
	return oomKills(root, string(self))
}

// oomKills tries each file that may be ours. In a container the own cgroup is
// usually mounted at the root, whatever path /proc/self/cgroup names, since v1
// shows the host's path there; outside it is at that path.
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
			if data, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				if n, err := field(data, "oom_kill"); err == nil {
					return n, nil
				}
			}
		}
	}
	return 0, errors.New("no memory cgroup tells of OOM kills")
}

// field finds "name number" on a line of its own.
func field(data []byte, name string) (uint64, error) {
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseUint(strings.TrimSpace(rest), 10, 64)
		}
	}
	return 0, errors.New("no " + name)
}
