package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	headline  = plan{"haproxy", 2 * time.Second}
	balancers = []plan{
		{"haproxy-checks", 0}, {"nginx", 2 * time.Second},
		{"follow", 0}, {"follow", 2 * time.Second}, {"follow", 8 * time.Second}, {"follow", 20 * time.Second},
	}
)

// effort is how much a run does: restarts of each cell.
type effort struct {
	headline int // with every way
	python   int // the same for FastAPI, whose start costs a second of CPU
	drainit  int // of other cells, under drainit
	others   int // and under something else
	limit    time.Duration
}

var full = effort{headline: 30, python: 12, drainit: 6, others: 3, limit: 10 * time.Minute}

// cells are all of a full run. Those that take longest come first, and last the
// ones that would be missed least, should there not be enough time.
func (e effort) cells() (all []cell) {
	for _, s := range []server{servers[0], plainGo, servers[1]} {
		for _, w := range slices.Backward(ways) {
			if s.tried(w) {
				all = append(all, e.split(s, w)...)
			}
		}
	}
	for _, s := range servers[3:] {
		for _, w := range []string{"drainit " + s.until, "sleep 5", "tini"} {
			all = append(all, e.cell(s, wayNamed(w), s.plan()))
		}
	}
	for _, w := range []string{"drainit idle", "sleep 5", "tini"} {
		all = append(all, e.cell(channels, wayNamed(w), plan{"follow", 2 * time.Second}))
	}
	for _, p := range slices.Backward(balancers) {
		for _, w := range []string{"drainit idle, 60 s", "drainit idle", "drainit quiet", "sleep 25", "sleep 15", "sleep 5", "tini"} {
			all = append(all, e.cell(requests, wayNamed(w), p))
		}
	}
	return all
}

func (e effort) cell(s server, w way, p plan) cell {
	n := e.others
	if w.drains() {
		n = e.drainit
	}
	return cell{server: s, way: w, plan: p, restarts: n, limit: e.limit / 2}
}

// split divides the restarts of a headline cell whose stops take long between
// several sites, which run at the same time.
func (e effort) split(s server, w way) (parts []cell) {
	restarts, n := e.headline, 1
	if s.name == servers[1].name {
		restarts = e.python
	}
	switch {
	case w.until == "closed":
		n = 3
	case w.sleep > 10*time.Second, w.until == "idle":
		n = 2
	}
	for range n {
		parts = append(parts, cell{server: s, way: w, plan: headline, restarts: restarts / n, limit: e.limit})
	}
	return parts
}

// tried reports whether a headline server is restarted in this way. The first
// is in all but the longest, which are for balancers that are later; what
// passes the signal on at once differs so little that tini is enough for the
// others.
func (s server) tried(w way) bool {
	switch {
	case w.sleep > 20*time.Second, w.longer > 0:
		return false
	case s.name == servers[0].name:
		return true
	case s.name == plainGo.name:
		return w.name == "tini" || w.sleep > 0 || w.until == s.until
	}
	return w.name != "dumb-init" && w.name != "catatonit"
}

// quick are the rows that must lose nothing, and one that must lose.
func quick() (all []cell) {
	for _, n := range []string{"Go", "FastAPI on uvicorn", "node", "gunicorn --threads", "nginx"} {
		s := serverNamed(n)
		all = append(all, cell{server: s, way: wayNamed("drainit " + s.until), plan: s.plan(), restarts: replicas, limit: time.Minute})
	}
	return append(all, cell{server: serverNamed("node"), way: wayNamed("tini"), plan: headline, restarts: replicas, limit: time.Minute})
}

// plan returns the balancer that a server's row is measured with.
func (s server) plan() plan {
	switch {
	case s.fcgi:
		return plan{"nginx", 2 * time.Second}
	case s.path == "":
		return plan{"follow", 2 * time.Second}
	}
	return headline
}

// runAll runs cells, as many at a time as there is CPU for, until all have been
// run or there is no more time. A cell that fails is reported, and the others go
// on.
func runAll(ctx context.Context, e *engine, cells []cell, parallel int, j *journal) *results {
	r := new(results)
	var mu sync.Mutex
	next := make(chan cell)
	var workers sync.WaitGroup
	done := 0
	var running atomic.Int32
	for range parallel {
		workers.Go(func() {
			for c := range next {
				x, err := c.run(ctx, e)
				running.Add(-1)
				mu.Lock()
				done++
				progress(done, len(cells), c, x.restarts, err)
				r.restarts = append(r.restarts, x.restarts...)
				if err != nil {
					r.errors = append(r.errors, err.Error())
				}
				mu.Unlock()
				writeCell(j, x, err)
			}
		})
	}
	for _, c := range cells {
		for running.Load() > 0 && ctx.Err() == nil && idleCPU(ctx, settling) < enoughIdle {
		}
		running.Add(1)
		select {
		case next <- c:
		case <-ctx.Done():
		}
	}
	close(next)
	workers.Wait()
	return r
}

// A further cell begins once so much of the machine has been idle for as long as
// the last one took to begin. On two slow CPUs 16 at a time left Docker none: it
// took a minute to start a container.
const (
	enoughIdle = 0.25
	settling   = 6 * time.Second
)

// idleCPU returns which part of all CPUs is idle over a time; 1 where that can't
// be known.
func idleCPU(ctx context.Context, d time.Duration) float64 {
	idle, all := cpuTimes()
	pause(ctx, d)
	idle2, all2 := cpuTimes()
	if all2 <= all {
		return 1
	}
	return float64(idle2-idle) / float64(all2-all)
}

// cpuTimes returns the time that all CPUs have been idle, and all time, in the
// kernel's ticks.
func cpuTimes() (idle, all uint64) {
	b, _ := os.ReadFile("/proc/stat")
	first, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(first) {
		n, _ := strconv.ParseUint(f, 10, 64) // the first is a name
		if i == 4 || i == 5 {                // idle, and idle but for a disk
			idle += n
		}
		all += n
	}
	return idle, all
}

func writeCell(j *journal, m measured, err error) {
	if j == nil {
		return
	}
	if m.before.Sent != nil {
		j.write(line{Restart: &m.before})
	}
	for _, x := range m.restarts {
		if x.Stop > 0 {
			j.write(line{Restart: &x})
		}
	}
	if len(m.restarts) > 0 && isHeadline(m.strip.Server) {
		j.write(line{Strip: &m.strip})
	}
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		j.write(line{Error: err.Error()})
	}
}

func isHeadline(name string) bool {
	return slices.ContainsFunc(servers[:3], func(s server) bool { return s.name == name })
}

func progress(done, all int, c cell, records []record, err error) {
	lost, sent := 0, 0
	var stops []float64
	for _, x := range records {
		lost, sent = lost+x.lost(), sent+x.sent()
		if x.Stop > 0 {
			stops = append(stops, x.Stop)
		}
	}
	fmt.Fprintf(os.Stderr, "%3d/%d  %-62s %5d of %6d lost in %2d restarts, median %.1f s\n", done, all, c.name(), lost, sent, len(stops), quantile(stops, 0.5))
	if err != nil {
		fmt.Fprintf(os.Stderr, "         %v\n", err)
	}
}
