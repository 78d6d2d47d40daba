// Package cgroup reads from drainit's control group whether the kernel's OOM
// killer has ended a process in it, and how many processes it may have. It
// reads nothing else.
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

func oomKills(root, self string) (uint64, error) {
	for _, dir := range directories(root, self, "memory") {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			if data, err := proc.ReadFile(filepath.Join(dir, file), nil); err == nil {
				if n, err := field(data, "oom_kill"); err == nil {
					return n, nil
				}
			}
		}
	}
	return 0, errors.New("no memory cgroup counts OOM kills")
}

// FreeProcesses returns how many more processes and threads the cgroup may
// have. It returns an error if there is no limit.
func FreeProcesses() (uint64, error) {
	self, err := proc.ReadFile("/proc/self/cgroup", nil)
	if err != nil {
		return 0, err
	}
	return freeProcesses(root, string(self))
}

func freeProcesses(root, self string) (uint64, error) {
	for _, dir := range directories(root, self, "pids") {
		limit, err := number(filepath.Join(dir, "pids.max"))
		if err != nil {
			continue // also "max", which is no limit
		}
		used, err := number(filepath.Join(dir, "pids.current"))
		return limit - min(used, limit), err
	}
	return 0, errors.New("no pids cgroup has a limit")
}

// directories returns those that may belong to this cgroup, the likelier first.
// In a container the cgroup is usually mounted at root, and the path in
// /proc/self/cgroup may be the host's (always with v1); outside a container it
// is at that path.
func directories(root, self, controller string) (dirs []string) {
	for line := range strings.Lines(self) {
		// hierarchy-ID:controllers:path (cgroups(7)); v2 has ID 0 and none.
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		base := root
		if parts[0] != "0" {
			if !strings.Contains(","+parts[1]+",", ","+controller+",") {
				continue
			}
			base = filepath.Join(root, parts[1])
		}
		dirs = append(dirs, filepath.Join(base, parts[2]), base)
	}
	return dirs
}

// number returns the number that is all of a file.
func number(file string) (uint64, error) {
	data, err := proc.ReadFile(file, nil)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
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
