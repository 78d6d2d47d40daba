package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// memory is in kB, as /proc/PID/smaps_rollup has it.
type memory struct{ rss, anonymous, pss float64 }

func memoryOf(pid int) (m memory, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	return memory{number(b, "Rss"), number(b, "Anonymous"), number(b, "Pss")}, err
}

// number returns one number of a file whose lines are "name: number unit".
func number(file []byte, name string) float64 {
	m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+)`).FindSubmatch(file)
	if m == nil {
		return 0
	}
	n, _ := strconv.ParseFloat(string(m[1]), 64)
	return n
}

// switchesOf sums the context switches of a process's threads.
func switchesOf(pid int) (sum float64) {
	for _, b := range tasks(pid, "status") {
		sum += number(b, "voluntary_ctxt_switches") + number(b, "nonvoluntary_ctxt_switches")
	}
	return sum
}

// cpuOf sums the time that a process's threads have run.
func cpuOf(pid int) (sum time.Duration) {
	for _, b := range tasks(pid, "schedstat") {
		if f := bytes.Fields(b); len(f) > 0 {
			n, _ := strconv.ParseInt(string(f[0]), 10, 64)
			sum += time.Duration(n)
		}
	}
	return sum
}

func tasks(pid int, file string) (all [][]byte) {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/%s", pid, file))
	for _, p := range paths {
		if b, err := os.ReadFile(p); err == nil {
			all = append(all, b)
		}
	}
	return all
}

// entries counts a directory's entries: a process's threads or descriptors.
func entries(pid int, dir string) float64 {
	all, _ := os.ReadDir(fmt.Sprintf("/proc/%d/%s", pid, dir))
	return float64(len(all))
}
