// Bench measures what an init costs: drainit, tini, dumb-init and catatonit in
// turn, on one machine, in one run. `make bench` writes docs/cost.md's table,
// its picture and the raw figures.
//
// What is compared is measured in rounds, each of which has every init once, in
// another order each time: what disturbs the machine for a moment disturbs all
// of them. Figures are medians over the rounds. Each init is the first process
// of a PID namespace with a /proc of its own, as in a container.
//
// `bench soak` is one long run instead (`make soak FOR=2h`).
//
// As root, with gcc, and Debian's packages of the three other inits.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// candidate is an init: its name and the words before the command.
type candidate struct {
	name string
	argv []string
}

func (c candidate) binary() string { return c.argv[0] }

// bench is one run.
type bench struct {
	dir    string // for what is built, removed at the end
	child  string
	inits  []candidate
	floors []candidate // what Go itself costs
	factor float64     // of how often things are measured
	only   *regexp.Regexp
	report report
}

func run(args []string) error {
	if len(args) > 0 && args[0] == "soak" {
		return runSoak(args[1:])
	}
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	docs := flags.String("docs", "", "directory whose cost.md is to have the table, beside the picture and the raw figures; empty: print")
	drainit := flags.String("drainit", "", "the binary; empty: build it")
	also := flags.String("also", "", "another binary to measure, as NAME=PATH")
	factor := flags.Float64("factor", 1, "of how often things are measured")
	only := flags.String("only", "", "regular expression of the rows to measure; empty: all")
	flags.Parse(args)

	dir, err := os.MkdirTemp("", "drainit-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, factor: *factor, only: regexp.MustCompile(*only)}
	if err := b.build(*drainit); err != nil {
		return err
	}
	if err := b.find(*also); err != nil {
		return err
	}
	for _, measure := range []func(*bench) error{
		measureBinary, measureStart, measureSystemCalls, measureSignal, measureExit, measureStorm,
		measureOrphans, measureMemory, measureCopies, measureIdle, measureProbes, measureTables,
	} {
		if err := measure(b); err != nil {
			return err
		}
	}
	b.report.describe()
	return b.report.write(*docs)
}

// build makes what is measured and what measures.
func (b *bench) build(drainit string) error {
	b.child = filepath.Join(b.dir, "child")
	if out, err := exec.Command("gcc", "-O2", "-static", "-o", b.child, "bench/child/child.c").CombinedOutput(); err != nil {
		return fmt.Errorf("build bench/child: %v\n%s", err, out)
	}
	programs := map[string]string{"empty": "./bench/reference/empty", "start": "./bench/reference/start", "server": "./bench/reference/server"}
	if drainit == "" {
		drainit = filepath.Join(b.dir, "drainit")
		programs["drainit"] = "."
	}
	for name, pkg := range programs {
		c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X runtime.godebugDefault=disablethp=1", "-o", filepath.Join(b.dir, name), pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %v\n%s", pkg, err, out)
		}
	}
	b.inits = []candidate{{"drainit", []string{drainit, "--"}}}
	b.floors = []candidate{{"empty Go program", []string{filepath.Join(b.dir, "empty")}}, {"least Go init", []string{filepath.Join(b.dir, "start")}}}
	return nil
}

// find adds the other inits.
func (b *bench) find(also string) error {
	for _, c := range []candidate{{"tini", []string{"tini-static", "-s", "--"}}, {"dumb-init", []string{"dumb-init"}}, {"catatonit", []string{"catatonit", "--"}}} {
		path, err := exec.LookPath(c.argv[0])
		if err != nil {
			return fmt.Errorf("apt-get install %s: %w", c.name, err)
		}
		c.argv[0] = path
		b.inits = append(b.inits, c)
	}
	if name, path, ok := strings.Cut(also, "="); ok {
		b.inits = slices.Insert(b.inits, 1, candidate{name, []string{path, "--"}})
	}
	return nil
}

// times scales a number of rounds.
func (b *bench) times(n int) int { return max(1, int(float64(n)*b.factor)) }

// wants reports whether a row is to be measured.
func (b *bench) wants(row string) bool { return b.only.MatchString(row) }

// rounds runs each of candidates n times, in turn and from another one on each
// time, and collects what measure returns by name.
func rounds(n int, candidates []candidate, measure func(candidate) (float64, error)) (map[string][]float64, error) {
	all := make(map[string][]float64)
	for i := range n {
		for j := range candidates {
			c := candidates[(i+j)%len(candidates)]
			v, err := measure(c)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			all[c.name] = append(all[c.name], v)
		}
	}
	return all, nil
}
