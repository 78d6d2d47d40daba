package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// measureIdle looks at all inits at once for a minute in which nothing happens,
// and then at drainit for one with a probe each second.
func measureIdle(b *bench) error {
	const row = "idle"
	if !b.wants(row) {
		return nil
	}
	share := min(b.factor, 1)
	minute := time.Duration(float64(time.Minute) * share)
	switches, cpu, probed := make(map[string][]float64), make(map[string][]float64), make(map[string][]float64)
	var all []*running
	defer func() {
		for _, r := range all {
			r.stop()
		}
	}()
	for _, c := range b.inits {
		r, err := b.launch(c)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	time.Sleep(5 * time.Second)
	type before struct {
		switches float64
		cpu      time.Duration
	}
	look := func(r *running) before { return before{switchesOf(r.pid), cpuOf(r.pid)} }
	was := make([]before, len(all))
	for i, r := range all {
		was[i] = look(r)
	}
	time.Sleep(minute)
	for i, r := range all {
		now := look(r)
		name := b.inits[i].name
		switches[name] = []float64{(now.switches - was[i].switches) * 10 * float64(time.Second) / float64(minute)}
		cpu[name] = []float64{float64((now.cpu - was[i].cpu).Microseconds()) / 1000 / share}
	}
	for i, r := range all {
		if _, err := probe(r.addr); err != nil {
			continue // it has no port
		}
		began := cpuOf(r.pid)
		for range int(minute / time.Second) {
			time.Sleep(time.Second)
			if _, err := probe(r.addr); err != nil {
				return err
			}
		}
		probed[b.inits[i].name] = []float64{float64((cpuOf(r.pid) - began).Microseconds()) / 1000 / share}
	}
	b.report.add("context switches", "", "in 10 s in which nothing happens", switches)
	b.report.add("CPU of an idle minute", "ms", "nothing happens", cpu)
	b.report.add("CPU of a minute with probes", "ms", "one readiness probe each second", probed)
	return nil
}

// probe asks for readiness as a kubelet does, on a connection of its own, and
// returns the milliseconds that took.
func probe(addr string) (float64, error) {
	began := time.Now()
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "GET /readyz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", addr)
	answer, err := io.ReadAll(c)
	if err == nil && !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
		err = fmt.Errorf("a probe was answered %.40q", answer)
	}
	return float64(time.Since(began).Microseconds()) / 1000, err
}

// measureProbes asks as fast as one client can, with a whole CPU and with a
// fiftieth of one.
func measureProbes(b *bench) error {
	const row = "probes"
	if !b.wants(row) {
		return nil
	}
	for _, c := range b.inits {
		if c.argv[len(c.argv)-1] != "--" || c.name == "tini" || c.name == "catatonit" {
			continue
		}
		if err := b.probes(c, "", 0, 3*time.Second); err != nil {
			return err
		}
		if err := b.probes(c, " at 2 % of a CPU", 0.02, 20*time.Second); err != nil {
			fmt.Fprintln(os.Stderr, "bench: not measured:", err)
		}
	}
	return nil
}

func (b *bench) probes(c candidate, where string, share float64, long time.Duration) error {
	r, err := b.launch(c)
	if err != nil {
		return err
	}
	defer r.stop()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := probe(r.addr); err == nil {
			break
		} else if time.Now().After(deadline) {
			return err
		}
	}
	if share > 0 {
		procs, end, err := cgroup("drainit-bench-"+strconv.Itoa(os.Getpid()), share)
		if err != nil {
			return err
		}
		defer end()
		defer r.stop()
		if err := os.WriteFile(procs, []byte(strconv.Itoa(r.pid)), 0); err != nil {
			return err
		}
	}
	var times []float64
	for began := time.Now(); time.Since(began) < time.Duration(float64(long)*min(1, b.factor)); {
		ms, err := probe(r.addr)
		if err != nil {
			return err
		}
		times = append(times, ms)
	}
	var sum float64
	for _, t := range times {
		sum += t
	}
	one := func(v float64) map[string][]float64 { return map[string][]float64{c.name: {v}} }
	b.report.merge("probes a second"+where, "", "one client, one after another", one(float64(len(times))/sum*1000))
	b.report.merge("probe, median"+where, "ms", "", one(median(times)))
	b.report.merge("probe, p99"+where, "ms", "", one(quantile(times, 0.99)))
	return nil
}
