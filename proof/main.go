// Proof restarts real servers behind real balancers, under traffic of up to
// seven kinds at once, in every way that people stop containers, and counts
// what clients lose and how long it takes.
//
//	proof run         everything; writes docs/proof.md, its pictures and raw results
//	proof quick       the rows that must lose nothing; fails if one does
//	proof mutants     the same against a drainit that is broken on purpose
//	proof kubernetes  through the Services of the cluster that kubectl points at
//	proof report      writes the report again from the raw results
//
// It needs Linux, root, Docker and the Debian packages of proof/setup.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
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
	switch args[0] {
	case "try":
		name := flags.String("server", "Go", "")
		w := flags.String("way", "drainit closed", "")
		p := flags.String("plan", "haproxy", "")
		delay := flags.Duration("delay", 2*time.Second, "")
		n := flags.Int("restarts", 3, "")
		flags.Parse(args[1:])
		return try(ctx, cell{server: serverNamed(*name), way: wayNamed(*w), plan: plan{*p, *delay}, restarts: *n, limit: time.Hour})
	}
	return fmt.Errorf("%s: say run, quick, mutants, kubernetes or report", args[0])
}

func try(ctx context.Context, c cell) error {
	e, clean, err := prepare(ctx, "")
	if err != nil {
		return err
	}
	defer clean()
	records, _, err := c.run(ctx, e)
	for _, r := range records {
		fmt.Printf("%+v\n", r)
	}
	return err
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
func build(ctx context.Context, what, out, pkg string) error {
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, pkg)
	if pkg == ".." {
		c.Dir, c.Args[len(c.Args)-1] = "..", "."
	}
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", what, err, text)
	}
	return nil
}
