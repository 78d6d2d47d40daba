// Proof restarts real servers behind real balancers, under traffic of up to
// seven kinds at once, in every way that people stop containers, and counts
// what clients lose and how long it takes.
//
//	proof run         everything; writes docs/proof.md, its pictures and raw results
//	proof quick       the rows that must lose nothing; fails if one does
//	proof mutants     the same against a drainit that is broken on purpose
//	proof kubernetes  through the Services of the cluster that kubectl points at
//	proof load        what it runs in the cluster to send requests
//	proof report      writes the report again from the raw results
//
// It needs Linux, root, Docker and the Debian packages of proof/setup.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "proof:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say run, quick, mutants, kubernetes or report")
	}
	flags := flag.NewFlagSet(args[0], flag.ExitOnError)
	parallel := flags.Int("parallel", atOnce(args[0])*runtime.NumCPU(), "how many servers are tried at the same time, if there is CPU for them")
	only := flags.String("only", "", "only the cells or mutants whose names match this regular `expression`")
	binary := flags.String("drainit", "", "this `program` in place of the repository's")
	limit := flags.Duration("limit", 24*time.Minute, "end after this time, whatever is left to do")
	keep := flags.Bool("keep", false, "add to the raw results that are there")
	restarts := flags.Int("restarts", 0, "of each cell, in place of the usual number")
	out := flags.String("out", filepath.Join("..", "docs", "proof"), "the `folder` of pictures and raw results; the report is beside it")
	httpAddr := flags.String("http", "", "`host:port` of HTTP, for load")
	rpcAddr := flags.String("grpc", "", "`host:port` of gRPC, for load")
	kinds := flags.String("kinds", strings.Join(web, ","), "what load sends")
	flags.Parse(args[1:])
	m := measurement{parallel: *parallel, drainit: *binary, limit: *limit, out: *out, keep: *keep}
	switch args[0] {
	case "run":
		m.cells = matching(full.cells(), *only, *restarts)
		return m.run(ctx)
	case "quick":
		m.cells = matching(quick(), *only, *restarts)
		return m.quick(ctx)
	case "mutants":
		return m.mutants(ctx, *only)
	case "kubernetes":
		return m.kubernetes(ctx, os.Getenv("PROOF_LOAD"), *only, cmp.Or(*restarts, 3))
	case "load":
		return load(ctx, *httpAddr, *rpcAddr, *kinds)
	case "report":
		err := writeReport(*out)
		if _, missing := os.Stat(filepath.Join(*out, clusterResults)); missing == nil {
			err = errors.Join(err, writeClusterReport(*out))
		}
		return err
	}
	return fmt.Errorf("%s: say run, quick, mutants, kubernetes or report", args[0])
}

// atOnce is how many cells, or trials in a cluster, a CPU has to do with at the
// same time. A cell waits most of its time: 16 of those that cost most, of Go
// with gRPC and of FastAPI, use 0.9 CPUs. Pods cost more.
func atOnce(command string) int {
	if command == "kubernetes" {
		return 5
	}
	return 8
}

// measurement is a run of some cells.
type measurement struct {
	cells    []cell
	parallel int
	drainit  string
	limit    time.Duration
	out      string
	keep     bool
}

// matching returns the cells whose names match expr, with another number of
// restarts if that is not 0.
func matching(cells []cell, expr string, restarts int) (some []cell) {
	for _, c := range cells {
		if matches(expr, c.name()) {
			if restarts != 0 {
				c.restarts = restarts
			}
			some = append(some, c)
		}
	}
	return some
}

func matches(expr, name string) bool { return regexp.MustCompile(expr).MatchString(name) }

// run measures everything and writes the report.
func (m measurement) run(ctx context.Context) error {
	began := time.Now()
	j, err := newJournal(filepath.Join(m.out, "results.jsonl"), m.keep)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	e, clean, err := prepare(ctx, m.drainit)
	if err != nil {
		return err
	}
	defer clean()
	env := where("proof "+strings.Join(os.Args[1:], " "), m.parallel)
	runAll(limited, e, m.cells, m.parallel, j)
	env.Took = time.Since(began).Round(time.Second).String()
	j.write(line{Environment: &env})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return writeReport(m.out)
}

// quick fails if a row loses that must not, or if none loses that must.
func (m measurement) quick(ctx context.Context) error {
	e, clean, err := prepare(ctx, m.drainit)
	if err != nil {
		return err
	}
	defer clean()
	r := runAll(ctx, e, m.cells, min(m.parallel, 6), nil)
	if len(r.errors) > 0 {
		return errors.New(strings.Join(r.errors, "; "))
	}
	return verdict(r)
}

func verdict(r *results) error {
	var wrong []string
	for _, w := range r.rows() {
		lost := total(w.lost)
		switch {
		case w.until != "" && w.harm() > 0:
			wrong = append(wrong, fmt.Sprintf("%s, %s: %s, of %s", w.server, w.way, shown(w), kindsOf(w)))
		case w.until == "" && lost == 0:
			wrong = append(wrong, fmt.Sprintf("%s, %s lost nothing: this has shown nothing", w.server, w.way))
		}
	}
	if wrong != nil {
		return errors.New(strings.Join(wrong, "\n"))
	}
	return nil
}

// prepare builds what containers are made of. drainit is a program to use in
// place of this repository's.
func prepare(ctx context.Context, drainit string) (*engine, func(), error) {
	dir, err := os.MkdirTemp("", "drainit-proof-bin-")
	if err != nil {
		return nil, nil, err
	}
	e := newEngine()
	clean := func() { e.tearDown(); os.RemoveAll(dir) }
	e.apps, err = filepath.Abs("apps")
	if err == nil {
		err = build(ctx, "server", filepath.Join(dir, "server"), "./server")
	}
	if err == nil && drainit == "" {
		drainit = filepath.Join(dir, "drainit")
		err = build(ctx, "drainit", drainit, "..")
	}
	if err == nil {
		e.classes = filepath.Join(dir, "classes")
		err = compileJava(ctx, e.classes)
	}
	if err == nil {
		err = e.setUp(ctx, map[string]string{"server": filepath.Join(dir, "server"), "drainit": drainit})
	}
	if err != nil {
		clean()
		return nil, nil, err
	}
	return e, clean, nil
}

// compileJava leaves the folder empty where there is no compiler: those rows
// then fail to start.
func compileJava(ctx context.Context, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	c := exec.CommandContext(ctx, "javac", "-nowarn", "-d", dir, "-cp", "/usr/share/java/*", "apps/HttpApp.java", "apps/TomcatApp.java")
	if text, err := c.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "proof: javac: %v\n%s", err, text)
	}
	return nil
}

// build compiles a package of this directory, statically.
func build(ctx context.Context, what, out, pkg string, options ...string) error {
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X runtime.godebugDefault=disablethp=1", "-o", out)
	c.Args = append(c.Args, options...)
	if pkg == ".." { // another module
		c.Dir, pkg = "..", "."
	}
	c.Args = append(c.Args, pkg)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", what, err, text)
	}
	return nil
}
