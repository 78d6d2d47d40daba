//go:build linux

// Demo shows what drainit is for, with nothing but Go: go run ./examples/demo.
//
// Two replicas of examples/server are restarted one after the other under
// traffic, in four ways at the same time: bare; bare but with the graceful
// shutdown that Go's http.Server offers; with a sleep before the signal, as a
// preStop hook has it; and under drainit. In the last two the server does not
// handle signals. In front of each pair is the same balancer. It follows what
// happens as load balancers do: late. Lost requests are counted.
//
// It exits 1 if drainit lost a request, or the bare server none.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options holds the flags; see main for their defaults.
type options struct {
	poll, lag  time.Duration // of the balancer
	sleep      time.Duration // before SIGTERM, in the way with a sleep
	rate       int           // requests per second and pair
	long       time.Duration // how long slow answers and streams take
	startDelay time.Duration // from a server's start to its listening
	window     time.Duration // DRAINIT_DRAIN_WINDOW
	until      string        // DRAINIT_DRAIN_UNTIL
}

func main() {
	var o options
	flag.DurationVar(&o.poll, "poll", 500*time.Millisecond, "how often the balancer asks for readiness")
	flag.DurationVar(&o.lag, "lag", 2*time.Second, "how long an answer takes to have an effect")
	flag.DurationVar(&o.sleep, "sleep", 5*time.Second, "how long the way with a sleep waits before SIGTERM")
	flag.IntVar(&o.rate, "rate", 100, "requests a second, for each pair of replicas")
	flag.DurationVar(&o.long, "long", time.Second, "how long slow answers and streams take; a fifth of the requests are such")
	flag.DurationVar(&o.startDelay, "start-delay", 500*time.Millisecond, "how long a server takes until it listens")
	flag.DurationVar(&o.window, "window", 0, "DRAINIT_DRAIN_WINDOW (default poll + lag + long + 1s)")
	flag.StringVar(&o.until, "until", "window", "DRAINIT_DRAIN_UNTIL: window, quiet, idle or closed")
	flag.Parse()
	if o.window == 0 {
		o.window = o.poll + o.lag + o.long + time.Second
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	good, err := demo(ctx, o)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "demo: interrupted")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	case !good:
		os.Exit(1)
	}
}

// demo runs everything. What it started has ended when it returns.
func demo(ctx context.Context, o options) (good bool, err error) {
	dir, err := os.MkdirTemp("", "drainit-demo-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	if err := progress("compiling drainit and examples/server", func() error { return build(ctx, dir) }); err != nil {
		return false, err
	}

	d := new(display)
	sites := []*site{
		newSite("bare", "the server dies on SIGTERM", d),
		newSite("graceful", "on SIGTERM the server does Go's http.Server.Shutdown", d),
		newSite("sleep", fmt.Sprintf("the server dies on SIGTERM, which comes %s late (preStop)", o.sleep), d),
		newSite("drainit", "the server dies on SIGTERM, drainit is in front of it", d),
	}
	defer func() {
		var ended sync.WaitGroup
		for _, s := range sites {
			ended.Go(s.end)
		}
		ended.Wait()
	}()
	fmt.Println()
	for _, s := range sites {
		fmt.Printf("  %-8s  %s\n", s.name, s.about)
		if err := s.place(dir, o); err != nil {
			return false, err
		}
	}
	fmt.Printf(`
%d requests a second go to each pair of replicas, a fifth of them %s long.
None is sent twice. The balancer asks for readiness every %s, and whether a
replica is to be stopped; what it learns has an effect %s later.

`, o.rate, o.long, o.poll, o.lag)
	if err := run(ctx, sites, o); err != nil {
		return false, err
	}
	return report(sites), nil
}

// build builds both binaries with the settings of a release.
func build(ctx context.Context, dir string) error {
	const module = "github.com/drainit/drainit"
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X runtime.godebugDefault=disablethp=1",
		"-o", dir+string(filepath.Separator), module, module+"/examples/server")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(c.Args, " "), err, out)
	}
	return nil
}

// run starts every site, and then restarts their replicas under traffic.
func run(ctx context.Context, sites []*site, o options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := each(sites, func(s *site) error { return s.up(ctx) }); err != nil {
		return err
	}
	sites[0].display.begin()
	defer sites[0].display.end()

	loading, unload := context.WithCancel(ctx)
	var loaded sync.WaitGroup
	loaded.Go(func() { load(loading, sites, o) })
	pause(ctx, o.long) // until the number of requests in flight is steady
	err := each(sites, func(s *site) error { return s.roll(ctx) })
	unload()
	loaded.Wait()
	return errors.Join(err, ctx.Err())
}

// each runs f for all sites at once.
func each(sites []*site, do func(*site) error) error {
	errs := make([]error, len(sites))
	var wg sync.WaitGroup
	for i, s := range sites {
		wg.Go(func() { errs[i] = do(s) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// report prints what was lost, and reports whether it is what drainit promises.
func report(sites []*site) (good bool) {
	fmt.Print(`
A graceful server may lose more than a bare one: it closes its port at once, and
refuses what the balancer still sends for as long as its last requests take. The
bare one drops those, but is back sooner.

lost, of these kinds:
  refused  no connection came to be       timeout  nothing for 10 s
  reset    ended before an answer began   status   an answer, but not 200
  cut      the answer ended too soon      nowhere  no replica to send it to

`)
	fmt.Printf("%-8s", "")
	for _, f := range failures {
		fmt.Printf("%9s", f)
	}
	fmt.Printf("%11s\n", "took")
	var price []string
	lost := make(map[string]int)
	for _, s := range sites {
		sent, failed := s.tally.counts()
		fmt.Printf("%-8s", s.name)
		for _, f := range failures {
			fmt.Print(paint(failed[f], fmt.Sprintf("%9d", failed[f])))
			lost[s.name] += failed[f]
		}
		fmt.Printf("%9.1f s\n", s.took.Seconds())
		price = append(price, paint(lost[s.name], fmt.Sprintf("%s %d of %d lost in %.1f s", s.name, lost[s.name], sent, s.took.Seconds())))
	}
	fmt.Printf("\n%s,\n%s\n", strings.Join(price[:2], ", "), strings.Join(price[2:], ", "))
	switch {
	case lost["drainit"] > 0:
		fmt.Println("drainit lost requests: is the machine so busy that the window was too short\nfor the balancer? Try -window 8s.")
	case lost["bare"] == 0:
		fmt.Println("bare lost none, so this has shown nothing. Try a higher -rate.")
	default:
		return true
	}
	return false
}

// pause waits for d, or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
