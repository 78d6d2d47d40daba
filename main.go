// Drainit is a container init that drops no requests during a rolling restart.
//
//	ENTRYPOINT ["/drainit","--"]
//	CMD ["your-server"]
//
// It runs as PID 1 in front of a server, unchanged. It starts the server,
// reaps zombies, and answers readiness on a port of its own. On a stop signal
// it turns not ready while the server goes on serving, waits until load
// balancers have moved on and clients are done, forwards the signal, waits up
// to the deadline, and kills what is left. The environment configures it:
// `drainit help` lists the variables, `drainit plan` prints the timeline that
// they come to.
//
// This package is the command line, the configuration, the log and the exit
// code; main.go wires them to the rest. What happens when is decided by package
// supervisor; read on there.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/drainit/drainit/cgroup"
	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/internal/bug"
	"github.com/drainit/drainit/internal/catch"
	"github.com/drainit/drainit/notify"
	"github.com/drainit/drainit/reaper"
	"github.com/drainit/drainit/sockets"
	"github.com/drainit/drainit/supervisor"
	"golang.org/x/sys/unix"
)

// flushTime bounds how long exit waits for the last log lines. 200 ms was too
// short on a heavily loaded machine even though stderr was being read.
const flushTime = 500 * time.Millisecond

func main() { os.Exit(run(os.Args[1:])) }

// run is the program; it returns the exit code.
func run(args []string) int {
	if os.Args[0] == supervisor.Trampoline {
		catch.Release() // they are the child's
		return supervisor.ExecChild(args)
	}
	limitRuntime()
	return dispatch(args)
}

// supervise runs command to its end.
func supervise(command []string) int {
	signals, children := catch.Signals()
	stderr := newStderr(fdWriter(unix.Stderr))
	if err := checkLimits(); err != nil {
		// Without a word in the termination log: to open it takes what is
		// lacking.
		return failStart(stderr, "", err, codeError)
	}
	reserveThreads()

	config, err := load()
	terminationLog := config.TerminationLog.path
	if err != nil && !config.Bypass.on {
		return failStart(stderr, terminationLog, err, codeError)
	}
	// Look the command up before binding the port, so that `drainit hepl` in a
	// running container reports the typo and not "address already in use".
	if _, err := supervisor.Lookup(command[0]); err != nil {
		return failExec(stderr, terminationLog, command[0], err)
	}
	r := &runner{
		config: config,
		log:    newLogger(stderr, config.LogFormat.json, config.LogLevel.level),
		stderr: stderr,
		gate:   new(health.Gate),

		requests: make(chan chan<- health.Status),
	}
	if err != nil {
		config.useDefaults()
		r.config = config
		r.warnBypassed("bypassed: a default replaces what is wrong in the configuration", err)
	}
	if err := r.listen(); err != nil {
		return failStart(stderr, terminationLog, err, codeError)
	}
	if os.Getpid() != 1 {
		if err := reaper.Subreap(); err != nil {
			r.log.Debug("can't become the subreaper", "error", err)
		}
	}
	return r.run(command, signals, children)
}

// runner holds the parts of one supervised run.
type runner struct {
	config   Config
	log      *slog.Logger
	stderr   *stderr
	gate     *health.Gate
	server   *health.Server      // nil if off
	notify   *notify.Listener    // nil if there is none
	upstream supervisor.Upstream // nil if there is none
	counter  *sockets.Counter
	requests chan chan<- health.Status // of /statusz and /metrics
	dials    atomic.Uint64             // the readiness check's own connections
}

// listen opens every socket that must exist before the child starts.
func (r *runner) listen() error {
	if addr := &r.config.HealthAddr; !addr.off() {
		s, err := health.Listen(health.Options{
			Addr:   addr.String(),
			Gate:   r.gate,
			Status: r.requestStatus,
			Probed: func() { r.counter.SampleArrivals() },
			Log:    r.log,
		})
		if err != nil {
			err = wrong("HEALTH_ADDR", addr, "can't listen there: "+err.Error(),
				"free the port, or set another, or off")
		}
		switch {
		case err == nil:
			r.server = s
		case !r.config.Bypass.on:
			return err
		default:
			r.warnBypassed("bypassed: readiness is not served", err)
		}
	}
	options := sockets.Options{
		Ports:       r.config.Ports.ports,
		StreamPause: r.config.StreamPause.Duration,
		Patience:    patience(r.config.policy().Timeline),
		ClosedIdle:  max(r.config.ClosedIdle.Duration, 1), // 0 is a value here
		Log:         r.log,
		Dials:       r.dials.Load,
	}
	if r.server != nil {
		options.OwnPort = r.server.Port()
		options.OwnAccepts = r.server.Accepted
	}
	r.counter = sockets.New(options)
	if err := r.listenNotify(); err != nil {
		return err
	}
	if addr := os.Getenv("NOTIFY_SOCKET"); addr != "" {
		if u, err := notify.Dial(addr); err != nil {
			r.log.Warn("can't report readiness to NOTIFY_SOCKET", "error", err)
		} else {
			r.upstream = u
		}
	}
	return nil
}

// patience returns how long ambiguous evidence of clients may hold the stop
// signal: two thirds of the time until forward_by, so that the rest is left to
// find an instant in which nothing is in flight. Package sockets bounds it.
func patience(t supervisor.Timeline) time.Duration {
	return max(t.Window, t.ForwardAfter()*2/3)
}

// listenNotify opens the child's NOTIFY_SOCKET, if it is asked for: servers
// behave differently where there is one (Puma complains at each start). A path
// in /dev/shm, which is a tmpfs and writable also where the disk is not, is
// understood by every sender. An abstract name is not: Ruby's (Puma, Sidekiq)
// takes it for a file and fails at boot, so it is the fallback only when the
// user asked for the protocol.
func (r *runner) listenNotify() (err error) {
	policy := r.config.policy()
	required := policy.NotifyReady
	watchdog := policy.Watchdog > 0
	if !required && !watchdog && os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	if r.notify, err = notify.ListenIn("/dev/shm", os.Getpid()); err == nil {
		return nil
	}
	if !required && !watchdog {
		r.notify = nil
		r.log.Debug("no notify socket for the child", "error", err)
		return nil
	}
	if r.notify, err = notify.Listen(os.Getpid()); err != nil {
		r.notify = nil
		if required {
			return wrong("READY_CHECK", &r.config.ReadyCheck,
				"can't create a notify socket: "+err.Error(), "use listen, tcp:// or http://")
		}
		r.log.Warn("no notify socket for the child, and so no watchdog", "error", err)
	}
	return nil
}

// run starts the child, runs the loop, and cleans up.
func (r *runner) run(command []string, signals <-chan unix.Signal, children <-chan struct{}) int {
	terminationLog := r.config.TerminationLog.path
	if r.log.Enabled(context.Background(), slog.LevelDebug) {
		r.log.Debug("configuration",
			"effective", r.config.effective(), "plan", strings.Join(r.config.plan(), "; "))
	}
	if r.notify != nil {
		defer r.notify.Close()
	}
	env, pidVars := r.childEnv()
	child, err := supervisor.Start(command, env, r.config.SignalScope.group, pidVars)
	if err != nil {
		return failExec(r.stderr, terminationLog, command[0], err)
	}
	closeInherited()
	r.logStart(command[0], child.PID())

	inputs := supervisor.Inputs{Signals: signals, Children: children}
	checking, stopChecking := context.WithCancel(context.Background())
	defer stopChecking()
	r.startInputs(checking, &inputs)

	outcome := supervisor.Run(r.options(command[0], inputs, child, stopChecking))
	child.Release()
	writeTerminationLog(terminationLog, outcome.LastWords)
	r.stderr.Flush(flushTime)
	return outcome.Code
}

// logStart logs what was started, where its readiness is served, and the
// timeline in short. The command's arguments may hold secrets.
func (r *runner) logStart(command string, pid int) {
	c := &r.config
	v, _ := buildVersion()
	attrs := []any{"version", v, "command", command, "pid", pid, "health", r.healthAddr()}
	if c.Bypass.on {
		r.log.Warn("bypassed: forwards the stop signal at once and does not check readiness; "+
			"unset DRAINIT_BYPASS to drain again", attrs...)
		return
	}
	p := c.policy()
	r.log.Info("started", append(attrs,
		"readiness", c.ReadyCheck.set,
		"budget", p.Timeline.Grace,
		"budget_from", c.budgetSource(),
		"forward_after", p.Timeline.Window,
		"until", string(p.Until),
		"forward_by", p.Timeline.ForwardAfter(),
		"kill_after", p.Timeline.KillAfter())...)
}

// healthAddr returns where readiness is served, for the log.
func (r *runner) healthAddr() string {
	if addr := &r.config.HealthAddr; r.server != nil || addr.off() {
		return addr.set
	}
	return "not served" // bypassed, and the port can't be had
}

// warnBypassed logs the errors in err, which are none where drainit is
// bypassed.
func (r *runner) warnBypassed(msg string, err error) {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	for _, err := range all {
		attrs := []any{"error", err}
		if e, ok := errors.AsType[*configError](err); ok {
			u := e.user()
			attrs = []any{"error", u.msg, "hint", u.hint}
		}
		r.log.Warn(msg, attrs...)
	}
}

// startInputs starts what feeds the loop: the readiness check, which ends with
// checking, the notify socket, and the HTTP server.
func (r *runner) startInputs(checking context.Context, in *supervisor.Inputs) {
	readiness := make(chan health.Result)
	notifications := make(chan notify.Message)
	in.Readiness = readiness
	in.Notifications = notifications
	in.StatusRequests = r.requests
	r.background("memory", limitMemory)
	r.background("readiness check", func() { r.watchReadiness(checking, readiness) })
	if r.config.LiveCheck.url != nil && !r.config.Bypass.on {
		liveness := make(chan health.Result)
		in.Liveness = liveness
		r.background("liveness check", func() { r.watchLiveness(checking, liveness) })
	}
	if r.notify != nil {
		r.background("notify", func() { r.notify.Serve(notifications) })
	}
	if r.server != nil {
		r.background("health", func() {
			if err := r.server.Serve(); err != nil {
				r.log.Error("readiness is no longer answered", "error", err)
			}
		})
	}
}

// options returns all that one run needs.
func (r *runner) options(
	command string, in supervisor.Inputs, child supervisor.System, onStop func(),
) supervisor.Options {
	o := supervisor.Options{
		Policy:     r.config.policy(),
		Inputs:     in,
		System:     child,
		Clients:    r.counter,
		Gate:       r.gate,
		Upstream:   r.upstream,
		OnStop:     onStop,
		Log:        r.log,
		Command:    command,
		Config:     r.config.effective(),
		LogDropped: r.stderr.Dropped,
		OOMKills:   cgroup.OOMKills,
	}
	if r.notify != nil {
		o.NotifyRefusals = r.notifyRefusals
	}
	return o
}

// notifyRefusals reports the rejected notify datagrams, to explain why a
// READY=1 had no effect.
func (r *runner) notifyRefusals() (n health.Notify) {
	n.Malformed, n.Foreign = r.notify.Refused()
	if pid, err := r.notify.LastRefusal(); err != nil {
		n.Last = fmt.Sprintf("pid %d: %v", pid, err)
	}
	return n
}

// headStart is how long after the child's start the first readiness check is.
// It would find nothing at once, and compete with the child for the CPU; the
// next one is a fifth of a second later.
const headStart = 10 * time.Millisecond

// watchReadiness checks the child's readiness until ctx ends.
func (r *runner) watchReadiness(ctx context.Context, out chan<- health.Result) {
	c := &r.config
	kind := c.ReadyCheck.kind
	if c.Bypass.on {
		health.Watch(ctx, health.Bypassed, 0, "", out)
		return
	}
	if kind != checkStarted {
		select {
		case <-time.After(headStart):
		case <-ctx.Done():
			return
		}
	}
	interval := c.ReadyInterval.Duration
	timeout := c.ReadyTimeout.Duration
	var check health.Check
	var hint string
	switch kind {
	case checkNotify:
		return // the child reports it
	case checkStarted:
		check = health.Started
		interval = 0
	case checkListen:
		check = health.Listening(r.counter.Listening)
		interval = 0
		hint = "; a worker that serves no port wants DRAINIT_READY_CHECK=started"
	case checkTCP, checkHTTP:
		check = r.dialCheck(kind, c.ReadyCheck.url, timeout, "drainit-readiness")
	}
	health.Watch(ctx, check, interval, hint, out)
}

// dialCheck returns the check of u, a tcp:// or http:// URL.
func (r *runner) dialCheck(kind checkKind, u *url.URL, timeout time.Duration, agent string) health.Check {
	countDial := func() { r.dials.Add(1) }
	if kind == checkTCP {
		return health.TCP(u.Host, timeout, countDial)
	}
	return health.HTTP(u, timeout, agent, countDial)
}

// watchLiveness checks whether the child is alive until ctx ends.
func (r *runner) watchLiveness(ctx context.Context, out chan<- health.Result) {
	c := &r.config
	health.WatchLiveness(ctx, health.Liveness{
		Check:    r.dialCheck(c.LiveCheck.kind, c.LiveCheck.url, c.LiveTimeout.Duration, "drainit-liveness"),
		Interval: c.LiveInterval.Duration,
		Failures: c.LiveFailures.n,
	}, out)
}

// background runs f in a goroutine, and survives its panic. It ends with the
// program or with what f watches.
func (r *runner) background(what string, f func()) {
	go func() {
		defer func() {
			if p := recover(); p != nil {
				bug.Report(r.log, what, p)
			}
		}()
		f()
	}()
}

// requestStatus asks the loop for all that it knows.
func (r *runner) requestStatus(ctx context.Context) (health.Status, error) {
	answer := make(chan health.Status, 1)
	select {
	case r.requests <- answer:
	case <-ctx.Done():
		return health.Status{}, ctx.Err()
	}
	select {
	case s := <-answer:
		return s, nil
	case <-ctx.Done():
		return health.Status{}, ctx.Err()
	}
}
