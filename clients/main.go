// Clients measures what real clients lose, and how long a stop takes, when a
// real server behind drainit is stopped.
//
//	go run ./clients -drainit ./drainit [-before OLD] [-run REGEXP] [-n 3]
//
// A case is a server, the traffic of its clients, and the balancer that
// follows readiness late. Each is stopped once for each value of DRAIN_UNTIL
// it is about. Clients never retry: a request that gets no whole answer is
// lost.
//
//	this process ──► one process a stop (network, PID and mount namespaces)
//	                   │ 10.99.0.1 the node; 10.99.0.10… balancers; .100… clients
//	                   │ veth
//	                   └► drainit ──► server (namespaces of its own) 10.99.0.2:8000
//
// The invariant: a stop shares nothing with another one but the CPUs.
// PassiveOpens is counted for each network namespace, and so is everything
// else that drainit reads.
package main

import (
	"context"
	"embed"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed servers
var servers embed.FS

// subject is what is in front of the server.
type subject struct {
	Label string // before or now
	Path  string // of drainit, or of tini
}

// order is one stop to make: it goes to a process of its own.
type order struct {
	Case    string
	Until   string // empty: not set, the default rule
	Budget  time.Duration
	Subject subject
	Round   int
	Dir     string // the servers' files and certificates
}

func main() {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "-enter":
		enter(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "-server":
		serve(os.Args[2], os.Args[3:])
	case os.Getenv(orderVariable) != "":
		stopOnce()
	default:
		if err := run(); err != nil {
			fmt.Fprintln(os.Stderr, "clients:", err)
			os.Exit(1)
		}
	}
}

// settings are the command line's.
type settings struct {
	now, before   string
	match         *regexp.Regexp
	rounds        int
	parallel      int
	out           string
	keep          bool
	defaults      bool
	value         string
	list, verbose bool
}

func parse() (s settings, err error) {
	flag.StringVar(&s.now, "drainit", "", "path of the drainit to measure, or of tini")
	flag.StringVar(&s.before, "before", "", "path of one to measure beside it")
	match := flag.String("run", "", "only cases whose `name/value` matches")
	flag.IntVar(&s.rounds, "n", 1, "rounds")
	flag.IntVar(&s.parallel, "p", 12, "stops at a time: they mostly wait")
	flag.StringVar(&s.out, "out", "", "write the table into this file, and the results beside it")
	flag.BoolVar(&s.keep, "keep", false, "add to the results that are there")
	flag.BoolVar(&s.defaults, "default", false, "compare DRAIN_UNTIL=window with no value, at budgets of 10, 30 and 60 s")
	flag.StringVar(&s.value, "value", "", "with -default: compare this `value` instead of none")
	flag.BoolVar(&s.list, "list", false, "list the stops")
	flag.BoolVar(&s.verbose, "v", false, "print drainit's log and the losses")
	flag.Parse()
	s.match, err = regexp.Compile(*match)
	switch {
	case err != nil || s.list:
	case s.now == "":
		err = fmt.Errorf("-drainit names the binary to measure")
	case os.Geteuid() != 0:
		err = fmt.Errorf("only root can make network namespaces")
	}
	return s, err
}

// subjects are what is measured.
func (s *settings) subjects() (all []subject, err error) {
	for _, x := range []subject{{"before", s.before}, {"now", s.now}} {
		if x.Path == "" {
			continue
		}
		if x.Path, err = filepath.Abs(x.Path); err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	return all, nil
}

func run() error {
	s, err := parse()
	if err != nil {
		return err
	}
	if s.list {
		for _, o := range s.orders([]subject{{}}, "") {
			fmt.Println(o.name())
		}
		return nil
	}
	subjects, err := s.subjects()
	if err != nil {
		return err
	}
	dir, err := prepare()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer cancel()
	results := measure(ctx, s.orders(subjects, dir), s.parallel, s.verbose)
	switch {
	case s.out == "":
		return nil
	case s.defaults:
		return report(s.out, ofDefault, results, s.keep)
	}
	return report(s.out, whole, results, s.keep)
}

// orders lists the stops to make: one round after the other, and in it the
// subjects side by side.
func (s *settings) orders(subjects []subject, dir string) (all []order) {
	for round := range s.rounds {
		for _, c := range cases {
			for _, o := range s.rows(&c) {
				if !s.match.MatchString(o.name()) {
					continue
				}
				for _, x := range subjects {
					o.Round, o.Subject, o.Dir = round+1, x, dir
					all = append(all, o)
				}
			}
		}
	}
	return all
}

// rows are a case's stops: one for each value it is about; or for the default
// rule, window and the other value at each of the budgets.
func (s *settings) rows(c *scenario) (all []order) {
	if !s.defaults {
		for _, r := range c.rows {
			all = append(all, order{Case: c.name, Until: r.until, Budget: fullBudget})
		}
		return all
	}
	for _, budget := range budgets {
		for _, until := range []string{"window", s.value} {
			all = append(all, order{Case: c.name, Until: until, Budget: budget})
		}
	}
	return all
}

func (o order) name() string {
	until := o.Until
	if until == "" {
		until = "default"
	}
	if o.Budget != fullBudget {
		until += fmt.Sprintf(" of %.0f s", o.Budget.Seconds())
	}
	return o.Case + "/" + until
}

// measure makes the stops, so many at a time, and prints a line for each.
func measure(ctx context.Context, todo []order, parallel int, verbose bool) []result {
	var (
		mu      sync.Mutex
		results []result
		slots   = make(chan struct{}, parallel)
		all     sync.WaitGroup
	)
	for _, o := range todo {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		all.Go(func() {
			defer func() { <-slots }()
			r := elsewhere(ctx, o)
			mu.Lock()
			defer mu.Unlock()
			results = append(results, r)
			fmt.Println(r.line())
			if verbose {
				fmt.Printf("%s\n%s", strings.Join(r.Losses, "\n"), r.log)
			}
		})
	}
	all.Wait()
	return results
}

const orderVariable = "CLIENTS_ORDER"

// elsewhere makes a stop in a process with namespaces of its own: whatever is
// left of it ends with that process.
func elsewhere(ctx context.Context, o order) result {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Minute)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return o.error(err, "")
	}
	spec, _ := json.Marshal(o)
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), orderVariable+"="+string(spec))
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	var r result
	if err == nil {
		err = json.Unmarshal(stdout, &r)
	}
	if err != nil {
		return o.error(err, stderr.String())
	}
	r.log = stderr.String()
	return r
}

// prepare writes the servers' files and a certificate to a new folder.
func prepare() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "clients"); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	files, err := fs.Sub(servers, "servers")
	if err == nil {
		err = os.CopyFS(dir, files)
	}
	if err == nil {
		err = build(dir)
	}
	return dir, err
}

// build makes a certificate that nothing checks (PEM, and PKCS 12 for Java),
// and the Java server.
func build(dir string) error {
	for _, args := range [][]string{
		{"javac", "Server.java"},
		{"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
			"-subj", "/CN=server", "-keyout", "key.pem", "-out", "cert.pem"},
		{"openssl", "pkcs12", "-export", "-in", "cert.pem", "-inkey", "key.pem", "-passout", "pass:secret", "-out", "both.p12"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %v: %s", args[0], err, out)
		}
	}
	return nil
}
