package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// soak is a long run under everything that a container meets: probes, signals,
// orphans, readiness taken away and given back, connections coming and going.
// Whatever it uses must be flat.
type soak struct {
	bench
	pid      int
	addr     string // drainit's port
	server   string // the child's
	began    time.Time
	samples  []sample
	failures map[string]int
}

// sample is one look at what drainit uses.
type sample struct {
	Minutes     float64 `json:"minutes"`
	RSS         float64 `json:"rss_mb"`
	Anonymous   float64 `json:"anonymous_mb"`
	Threads     float64 `json:"threads"`
	Descriptors float64 `json:"descriptors"`
	CPU         float64 `json:"cpu_seconds"`
}

func runSoak(args []string) error {
	flags := flag.NewFlagSet("bench soak", flag.ExitOnError)
	long := flags.Duration("for", time.Hour, "how long")
	docs := flags.String("docs", "", "directory for the pictures and soak.json; empty: none")
	drainit := flags.String("drainit", "", "the binary; empty: build it")
	flags.Parse(args)

	dir, err := os.MkdirTemp("", "drainit-soak-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &soak{bench: bench{dir: dir}, failures: make(map[string]int)}
	if err := s.build(*drainit); err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	defer func() {
		unix.Kill(s.pid, unix.SIGTERM)
		wait(s.pid)
	}()
	s.run(*long)
	for what, n := range s.failures {
		fmt.Printf("%s: %d times\n", what, n)
	}
	if *docs != "" {
		if err := s.write(*docs); err != nil {
			return err
		}
	}
	return s.flat()
}

func (s *soak) start() error {
	env, addr := environment()
	_, server := environment()
	env = append(env, "DRAINIT_DRAIN_WINDOW=0s", "DRAINIT_DRAIN_UNTIL=window")
	pid, err := spawn([]string{s.inits[0].binary(), "--", filepath.Join(s.dir, "server"), server}, env, nil)
	s.pid, s.addr, s.server, s.began = pid, addr, server, time.Now()
	return err
}

// run does something every tenth of a second, and looks every ten seconds.
func (s *soak) run(long time.Duration) {
	var held []net.Conn
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := 0; time.Since(s.began) < long; n++ {
		<-tick.C
		held = s.connections(held)
		switch {
		case n%100 == 99:
			s.sample()
		case n%10 == 5:
			if _, err := probe(s.addr); err != nil && n > 50 && n%600 > 50 { // it is held from 0 to 40 of each minute's 600
				s.failures["a probe failed"]++
			}
		case n%20 == 7:
			s.signal(unix.SIGUSR1)
		case n%20 == 17:
			s.signal(unix.SIGWINCH)
		case n%600 == 0 && n > 0:
			s.signal(61) // drain
		case n%600 == 40 && n > 100:
			s.signal(62) // undrain
		case n%50 == 33:
			s.status()
		}
	}
	for _, c := range held {
		c.Close()
	}
}

func (s *soak) signal(sig unix.Signal) {
	if unix.Kill(s.pid, sig) != nil {
		s.failures["a signal could not be sent"]++
	}
}

// connections opens one or two and closes others, up to 40.
func (s *soak) connections(held []net.Conn) []net.Conn {
	if c, err := net.Dial("tcp4", s.server); err == nil {
		fmt.Fprintln(c, "hello")
		held = append(held, c)
	}
	for len(held) > 40 || len(held) > 0 && rand.IntN(3) == 0 {
		i := rand.IntN(len(held))
		held[i].Close()
		held[i] = held[len(held)-1]
		held = held[:len(held)-1]
	}
	return held
}

// status asks for everything there is to tell.
func (s *soak) status() {
	for _, path := range []string{"/statusz", "/metrics"} {
		c, err := net.DialTimeout("tcp", s.addr, time.Second)
		if err != nil {
			s.failures["no status"]++
			continue
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, s.addr)
		io.Copy(io.Discard, c)
		c.Close()
	}
}

func (s *soak) sample() {
	m, err := memoryOf(s.pid)
	if err != nil {
		s.failures["no memory map: is drainit gone?"]++
		return
	}
	s.samples = append(s.samples, sample{time.Since(s.began).Minutes(), m.rss / 1000, m.anonymous / 1000,
		entries(s.pid, "task"), entries(s.pid, "fd"), cpuOf(s.pid).Seconds()})
}

// plotted are the quantities, and by how much the second half of a run may
// exceed the first at its highest.
var plotted = []struct {
	name  string
	slack float64
	of    func(sample) float64
}{
	{"RSS, MB", 0.5, func(s sample) float64 { return s.RSS }},
	{"anonymous, MB", 0.5, func(s sample) float64 { return s.Anonymous }},
	{"threads", 1, func(s sample) float64 { return s.Threads }},
	{"descriptors", 2, func(s sample) float64 { return s.Descriptors }},
}

// flat returns an error for what has grown, or failed.
func (s *soak) flat() error {
	var errs []error
	half := len(s.samples) / 2
	for _, p := range plotted {
		var first, second float64
		for i, v := range s.samples {
			if i < half {
				first = max(first, p.of(v))
			} else {
				second = max(second, p.of(v))
			}
		}
		fmt.Printf("%s: at most %.2f in the first half, %.2f in the second\n", p.name, first, second)
		if second > first+p.slack {
			errs = append(errs, fmt.Errorf("%s grows: %.2f, then %.2f", p.name, first, second))
		}
	}
	if half == 0 {
		errs = append(errs, errors.New("too short: nothing was seen"))
	}
	if len(s.failures) > 0 {
		errs = append(errs, fmt.Errorf("failures: %v", s.failures))
	}
	return errors.Join(errs...)
}

func (s *soak) write(dir string) error {
	raw, err := json.Marshal(s.samples)
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(string(raw), "},{", "},\n{") + "\n"
	if err := os.WriteFile(filepath.Join(dir, "soak.json"), []byte(text), 0o644); err != nil {
		return err
	}
	for name, p := range map[string]palette{"soak-light.svg": light, "soak-dark.svg": dark} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(s.picture(p)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// picture draws a line for each quantity over the minutes, from zero.
func (s *soak) picture(p palette) string {
	const width, height, left, step = 640, 70, 130, 100
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="What drainit uses over a long run">`+"\n",
		left+width+70, len(plotted)*step+24)
	long := s.samples[len(s.samples)-1].Minutes
	for i, q := range plotted {
		top, most := 16+i*step, 0.0
		for _, v := range s.samples {
			most = max(most, q.of(v))
		}
		var line strings.Builder
		for _, v := range s.samples {
			fmt.Fprintf(&line, " %.1f,%.1f", left+v.Minutes/long*width, float64(top)+height*(1-q.of(v)/most))
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s" text-anchor="end">%s</text>`, left-10, top+height/2, p.text, q.name)
		fmt.Fprintf(&b, `<path d="M%d %dv%dh%d" fill="none" stroke="%s"/>`, left, top, height, width, p.faint)
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`, strings.TrimSpace(line.String()), p.own)
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", left+width+6, top+5, p.text, figure(most))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s" text-anchor="end">%.0f minutes</text>`+"\n</svg>\n", left+width, len(plotted)*step+12, p.text, long)
	return b.String()
}
