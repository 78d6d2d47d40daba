package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func measureBinary(b *bench) error {
	const row = "binary"
	if !b.wants(row) {
		return nil
	}
	sizes, err := rounds(1, b.inits, func(c candidate) (float64, error) {
		info, err := os.Stat(c.binary())
		if err != nil {
			return 0, err
		}
		return float64(info.Size()) / 1e6, nil
	})
	b.report.add(row, "MB", "size of the file", sizes)
	return err
}

// measureStart compares each init's run of true with that of true alone in the
// same round.
func measureStart(b *bench) error {
	const row, cpu = "start-up", "start-up: CPU"
	if !b.wants(row) {
		return nil
	}
	env, _ := environment()
	alone := candidate{"", nil}
	cpus := make(map[string][]float64)
	times, err := rounds(b.times(200), slices.Concat([]candidate{alone}, b.inits, b.floors), func(c candidate) (float64, error) {
		elapsed, used, err := took(b.staged(append(slices.Clip(c.argv), "/bin/true")), env)
		cpus[c.name] = append(cpus[c.name], used)
		return elapsed, err
	})
	if err != nil {
		return err
	}
	b.report.add(row, "ms", "what the init adds to the run of `true`; the empty program replaces it", less(times, alone.name))
	b.report.add(cpu, "ms", "CPU time of the same", less(cpus, alone.name))
	return nil
}

// less returns what each value is above that of alone in the same round.
func less(all map[string][]float64, alone string) map[string][]float64 {
	added := make(map[string][]float64)
	for name, values := range all {
		for i, v := range values {
			if name != alone {
				added[name] = append(added[name], v-all[alone][i])
			}
		}
	}
	return added
}

// measureSystemCalls counts those of a start, all threads and the child's fork
// included, `true`'s own not.
func measureSystemCalls(b *bench) error {
	const row = "system calls of a start"
	strace, err := exec.LookPath("strace")
	if !b.wants(row) || err != nil {
		return nil
	}
	calls, err := rounds(b.times(5), slices.Concat(b.inits, b.floors), func(c candidate) (float64, error) {
		own, err := countCalls(strace, append(slices.Clip(c.argv), "/bin/true"))
		if err != nil || c.name == b.floors[0].name {
			return own, err
		}
		alone, err := countCalls(strace, []string{"/bin/true"})
		return own - alone, err
	})
	b.report.add(row, "", "of a run of `true`, less those of `true`", calls)
	return err
}

var totalLine = regexp.MustCompile(`(?m)^100\.00\s+\S+\s+\d*\s+(\d+)\s+(\d+ )?\s*total`)

func countCalls(strace string, argv []string) (float64, error) {
	env, _ := environment()
	c := exec.Command(strace, slices.Concat([]string{"-f", "-qq", "-c"}, argv)...)
	c.Env = env
	out, err := c.CombinedOutput()
	if err != nil {
		return 0, err
	}
	m := totalLine.FindSubmatch(out)
	if m == nil {
		return 0, os.ErrNotExist
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// measureSignal sends signals one by one, and takes the time until the child's
// handler runs.
func measureSignal(b *bench) error {
	const row = "signal"
	if !b.wants(row) {
		return nil
	}
	all := make(map[string][]float64)
	each := b.times(30)
	_, err := rounds(b.times(10), b.inits, func(c candidate) (float64, error) {
		r, err := b.launch(c)
		if err != nil {
			return 0, err
		}
		defer r.stop()
		time.Sleep(300 * time.Millisecond) // until it has settled
		for range each {
			latency, err := r.signal(unix.SIGUSR1)
			if err != nil {
				return 0, err
			}
			all[c.name] = append(all[c.name], latency)
			time.Sleep(3 * time.Millisecond)
		}
		return 0, nil
	})
	b.report.add(row, "µs", "from kill(2) to the child's handler", all)
	return err
}

// signal sends one and returns the microseconds until the child's handler ran.
func (r *running) signal(sig unix.Signal) (float64, error) {
	seen := r.shared.signals[sig].Load()
	sent := monotonic()
	if err := unix.Kill(r.pid, sig); err != nil {
		return 0, err
	}
	if err := await(&r.shared.signals[sig], seen+1, sig.String()); err != nil {
		return 0, err
	}
	return float64(r.shared.last[sig].Load()-sent) / 1000, nil
}

// measureExit takes the time from the child's exit to its init's, outside a PID
// namespace: the kernel takes milliseconds to end one.
func measureExit(b *bench) error {
	const row = "exit"
	if !b.wants(row) {
		return nil
	}
	all, err := rounds(b.times(40), append(slices.Clip(b.inits), b.floors[1]), func(c candidate) (float64, error) {
		r, err := b.launchIn(c, nil)
		if err != nil {
			return 0, err
		}
		time.Sleep(100 * time.Millisecond)
		child, err := r.child()
		if err != nil {
			return 0, err
		}
		r.ended = true
		unix.Kill(child, unix.SIGUSR2)
		_, err = wait(r.pid)
		return float64(monotonic()-r.shared.done.Load()) / 1000, err
	})
	b.report.add(row, "µs", "from the child's exit to the init's", all)
	return err
}

// measureStorm sends 10,000 signals as fast as they can be sent, and another
// one in their midst, which must not be lost.
func measureStorm(b *bench) error {
	const row, other, cpu, got = "storm", "storm: another signal", "storm: CPU", "storm: arrived"
	if !b.wants(row) {
		return nil
	}
	const many = 10_000
	latencies, times, arrived := make(map[string][]float64), make(map[string][]float64), make(map[string][]float64)
	_, err := rounds(b.times(5), b.inits, func(c candidate) (float64, error) {
		r, err := b.launch(c)
		if err != nil {
			return 0, err
		}
		defer r.stop()
		time.Sleep(300 * time.Millisecond)
		before := cpuOf(r.pid)
		var sent uint64
		for i := range many {
			if i == many/2 {
				sent = monotonic()
				unix.Kill(r.pid, unix.SIGHUP)
			}
			unix.Kill(r.pid, unix.SIGUSR1)
		}
		if err := await(&r.shared.signals[unix.SIGHUP], 1, "a signal in a storm of another"); err != nil {
			return 0, err
		}
		time.Sleep(100 * time.Millisecond)
		latencies[c.name] = append(latencies[c.name], float64(r.shared.last[unix.SIGHUP].Load()-sent)/1000)
		times[c.name] = append(times[c.name], float64((cpuOf(r.pid)-before).Microseconds())/1000)
		arrived[c.name] = append(arrived[c.name], float64(r.shared.signals[unix.SIGUSR1].Load()))
		return 0, nil
	})
	b.report.add(other, "µs", "another signal amid 10,000 of one, to the child's handler", latencies)
	b.report.add(cpu, "ms", "CPU time of the init for 10,000 signals", times)
	b.report.add(got, "", "of the 10,000: equal ones merge while they wait, as everywhere", arrived)
	return err
}

// measureOrphans takes the time to make orphans one after another until the
// last one has been reaped.
func measureOrphans(b *bench) error {
	for _, size := range []struct {
		row      string
		n, times int
	}{{"5,000 orphans", 5_000, 5}, {"20,000 orphans", 20_000, 2}} {
		if !b.wants(size.row) {
			continue
		}
		all, err := rounds(b.times(size.times), b.inits, func(c candidate) (float64, error) {
			s, file, err := newShared(b.dir)
			if err != nil {
				return 0, err
			}
			env, _ := environment()
			argv := slices.Concat(c.argv, []string{b.child, "orphans", file, strconv.Itoa(size.n)})
			_, _, err = took(b.staged(argv), env)
			return float64(s.done.Load()-s.begun.Load()) / 1e6, err
		})
		if err != nil {
			return err
		}
		b.report.add(size.row, "ms", "made one after another, until the last one is reaped", all)
	}
	return nil
}

// measureMemory looks after a start and after 300 forwarded signals.
func measureMemory(b *bench) error {
	const row = "memory"
	if !b.wants(row) {
		return nil
	}
	rss, anonymous, fresh := make(map[string][]float64), make(map[string][]float64), make(map[string][]float64)
	_, err := rounds(b.times(7), b.inits, func(c candidate) (float64, error) {
		r, err := b.launch(c)
		if err != nil {
			return 0, err
		}
		defer r.stop()
		time.Sleep(3 * time.Second)
		m, err := memoryOf(r.pid)
		if err != nil {
			return 0, err
		}
		fresh[c.name] = append(fresh[c.name], m.anonymous/1000)
		for range 300 {
			if _, err := r.signal(unix.SIGUSR1); err != nil {
				return 0, err
			}
		}
		time.Sleep(3 * time.Second)
		m, err = memoryOf(r.pid)
		rss[c.name] = append(rss[c.name], m.rss/1000)
		anonymous[c.name] = append(anonymous[c.name], m.anonymous/1000)
		return 0, err
	})
	b.report.add("anonymous memory at first", "MB", "three seconds after the start", fresh)
	b.report.add("anonymous memory", "MB", "after 300 forwarded signals", anonymous)
	b.report.add("RSS", "MB", "after 300 forwarded signals, pages of the file included", rss)
	return err
}

// measureCopies takes the share of each of 20 copies.
func measureCopies(b *bench) error {
	const row, copies = "PSS of 20 copies", 20
	if !b.wants(row) {
		return nil
	}
	all, err := rounds(b.times(2), b.inits, func(c candidate) (float64, error) {
		var sum float64
		var started []*running
		defer func() {
			for _, r := range started {
				r.stop()
			}
		}()
		for range copies {
			r, err := b.launch(c)
			if err != nil {
				return 0, err
			}
			started = append(started, r)
		}
		time.Sleep(time.Second)
		for _, r := range started {
			m, err := memoryOf(r.pid)
			if err != nil {
				return 0, err
			}
			sum += m.pss
		}
		return sum / copies / 1000, nil
	})
	b.report.add(row, "MB", "of each: shared pages count in part", all)
	return err
}

// measureTables runs the benchmark of package sockets.
func measureTables(b *bench) error {
	const row = "socket tables"
	if !b.wants(row) {
		return nil
	}
	out, err := output("go", "test", "-run", "^$", "-bench", "Poll", "-benchtime", "20x", "./sockets")
	if err != nil {
		return err
	}
	found := regexp.MustCompile(`BenchmarkPoll/(\d+)_connections\S*.*?([\d.]+) least-cpu-µs`).FindAllStringSubmatch(string(out), -1)
	if found == nil {
		return fmt.Errorf("no figures in what the benchmark printed:\n%s", out)
	}
	for _, m := range found {
		v, _ := strconv.ParseFloat(m[2], 64)
		b.report.add("a look at "+grouped(m[1])+" connections", "ms", "CPU time, at least; only during a stop, with `quiet`, `idle` and `closed`", map[string][]float64{"drainit": {v / 1000}})
	}
	return nil
}

// grouped writes a number with commas.
func grouped(digits string) string {
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// cgroup makes one that may use the share of one CPU. end removes it.
func cgroup(name string, share float64) (procs string, end func(), err error) {
	const period = 100_000
	quota := strconv.Itoa(int(share * period))
	dir := filepath.Join("/sys/fs/cgroup/cpu", name) // version 1
	files := map[string]string{"cpu.cfs_period_us": strconv.Itoa(period), "cpu.cfs_quota_us": quota}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		dir = filepath.Join("/sys/fs/cgroup", name)
		files = map[string]string{"cpu.max": quota + " " + strconv.Itoa(period)}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", nil, err
	}
	end = func() {
		for range 50 {
			if os.Remove(dir) == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	for f, v := range files {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(v), 0); err != nil {
			end()
			return "", nil, err
		}
	}
	return filepath.Join(dir, "cgroup.procs"), end, nil
}
