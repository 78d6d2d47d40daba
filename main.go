// Drainit is a container init that loses nobody in a rolling restart.
//
//	ENTRYPOINT ["/drainit","--"]
//	CMD ["your-server"]
//
// It runs as PID 1 in front of a server, unchanged. It starts the server,
// reaps zombies, and answers readiness on a port of its own. On a stop signal
// it turns not ready while the server goes on serving, waits until load
// balancers have moved on and clients are done, forwards the signal, waits up
// to the deadline, and kills what is left. The environment configures it:
// `drainit help` lists the variables, `drainit plan` says what they come to.
//
// This package is the wiring: the command line, the configuration, the log and
// the exit code. What happens when is package supervisor's; it starts there.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drainit/drainit/cgroup"
	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/notify"
	"github.com/drainit/drainit/reaper"
	"github.com/drainit/drainit/sockets"
	"github.com/drainit/drainit/supervisor"
	"golang.org/x/sys/unix"
)

// flushTime is how long the end of the program may be put off for the log. On a
// machine with no time 200 ms have been too little for a stderr that was read.
const flushTime = 500 * time.Millisecond

// codeError is the exit code for drainit's own failures, as docker run has it.
const codeError = 125

func main() { os.Exit(run(os.Args[1:])) }

// run is the program; its result is the exit code.
func run(args []string) int {
	if os.Args[0] == supervisor.Trampoline {
		return supervisor.ExecChild(args)
	}
	// Fixed, or Go re-reads the CPU limit from the cgroup while running: wake-ups
	// in an idle container. One, and an eager collector: memory is what an init
	// is asked to save (measured after 1,000 probes: 1.9 MB instead of 5.8). It
	// comes late: the runtime has made a processor for each CPU by then, and never
	// gives back the 20 KB of each.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(10)
	if len(args) == 0 {
		return fail("no command to run", "ENTRYPOINT [\"/drainit\",\"--\"] and CMD [\"your-server\"]; `drainit help` tells more")
	}
	word, rest := args[0], args[1:]
	if word == "--" {
		if len(rest) == 0 {
			return fail("no command after --", "the image needs a CMD, or the container a command")
		}
		return supervise(rest)
	}
	if f, ok := words[word]; ok {
		return f(rest)
	}
	if strings.HasPrefix(word, "-") {
		return fail(fmt.Sprintf("unknown option %q: variables configure drainit, options don't", word), optionHint(word))
	}
	return supervise(args)
}

// supervise runs command to its end.
func supervise(command []string) int {
	// Before anything else: a signal that comes while the child starts waits
	// here and is dealt with when it runs.
	signals, children := catch()

	reserveThreads()

	stderr := newStderr(os.Stderr)
	config, err := load()
	if err != nil {
		return give(stderr, config.TerminationLog.value, err.Error(), "", codeError)
	}
	log := newLogger(stderr, config.LogFormat.value, config.LogLevel.value)

	// Before the port is bound: a word mistyped in a running container is to be
	// called that, and not a port that is taken.
	if _, err := supervisor.Lookup(command[0]); err != nil {
		return giveStart(stderr, config.TerminationLog.value, command[0], err)
	}
	r := &runner{config: config, log: log, stderr: stderr, gate: new(health.Gate),
		asks: make(chan chan<- health.Status)}
	if err := r.listen(); err != nil {
		return give(stderr, config.TerminationLog.value, err.Error(), "", codeError)
	}
	if os.Getpid() != 1 {
		if err := reaper.Subreap(); err != nil {
			log.Debug("can't become the subreaper", "error", err)
		}
	}
	return r.run(command, signals, children)
}

// runner is one supervised run's parts.
type runner struct {
	config   Config
	log      *slog.Logger
	stderr   *stderr
	gate     *health.Gate
	server   *health.Server   // nil if off
	notify   *notify.Listener // nil if there is none
	upstream supervisor.Upstream
	counter  *sockets.Counter
	asks     chan chan<- health.Status
	dials    atomic.Uint64 // the readiness check's own connections
}

// listen opens everything that others may look for from the child's first
// moment on.
func (r *runner) listen() error {
	if addr := r.config.HealthAddr.value; addr != "off" {
		s, err := health.Listen(health.Options{
			Addr: addr, Gate: r.gate, Log: r.log,
			Status: func(ctx context.Context) (health.Status, error) { return ask(ctx, r.asks) },
			Probed: func() { r.counter.SampleArrivals() },
		})
		if err != nil {
			return &problem{"DRAINIT_HEALTH_ADDR", addr, "can't listen there: " + err.Error(), "free the port, or set another, or off"}
		}
		r.server = s
	}
	options := sockets.Options{Ports: r.config.Ports.ports, Log: r.log, Dials: r.dials.Load}
	if r.server != nil {
		options.OwnPort, options.OwnAccepts = r.server.Port(), r.server.Accepted
	}
	r.counter = sockets.New(options)
	if err := r.listenNotify(); err != nil {
		return err
	}
	if addr := os.Getenv("NOTIFY_SOCKET"); addr != "" {
		if u, err := notify.Dial(addr); err != nil {
			r.log.Warn("can't tell NOTIFY_SOCKET of readiness", "error", err)
		} else {
			r.upstream = u
		}
	}
	return nil
}

// listenNotify opens the child's NOTIFY_SOCKET. A path in /dev/shm, which is a
// tmpfs and writable also where the disk is not, is understood by every sender.
// An abstract name is not: Ruby's (Puma, Sidekiq) takes it for a file and fails
// at boot, so it is used only for who asked for the protocol.
func (r *runner) listenNotify() (err error) {
	if r.notify, err = notify.ListenIn("/dev/shm", os.Getpid()); err == nil {
		return nil
	}
	wanted := r.config.ReadyCheck.value == "notify"
	if !wanted && r.config.Watchdog.Duration == 0 {
		r.notify = nil
		r.log.Debug("no notify socket for the child", "error", err)
		return nil
	}
	if r.notify, err = notify.Listen(os.Getpid()); err != nil {
		r.notify = nil
		if wanted {
			return &problem{"DRAINIT_READY_CHECK", "notify", "no notify socket can be made: " + err.Error(), "use listen, tcp:// or http://"}
		}
		r.log.Warn("no notify socket for the child, and so no watchdog", "error", err)
	}
	return nil
}

// run starts the child, runs the loop, and puts everything away.
func (r *runner) run(command []string, signals <-chan unix.Signal, children <-chan struct{}) int {
	lastWords := r.config.TerminationLog.value
	if r.log.Enabled(context.Background(), slog.LevelDebug) {
		r.log.Debug("configuration", "in_force", r.config.inForce(), "plan", strings.Join(r.config.plan(), "; "))
	}
	if r.notify != nil {
		defer r.notify.Close()
	}
	env, watched := r.childEnv()
	child, err := supervisor.Start(command, env, r.config.SignalScope.value == "group", watched)
	if err != nil {
		return giveStart(r.stderr, lastWords, command[0], err)
	}

	readiness := make(chan health.Result)
	notices := make(chan notify.Message)
	checking, stopChecking := context.WithCancel(context.Background())
	defer stopChecking()
	r.background("readiness check", func() { r.check(checking, readiness) })
	if r.notify != nil {
		r.background("notify", func() { r.notify.Serve(notices) })
	}
	if r.server != nil {
		r.background("health", func() {
			if err := r.server.Serve(); err != nil {
				r.log.Error("readiness is no longer answered", "error", err)
			}
		})
		defer r.server.Close()
	}

	health.ReleaseMemory() // of what reading the configuration took
	outcome := supervisor.Run(r.options(supervisor.Options{
		Inputs: supervisor.Inputs{
			Signals: signals, Children: children, Readiness: readiness,
			Notifications: notices, StatusRequests: r.asks,
		},
		System: child, OnStop: stopChecking,
	}))
	child.Release()
	leaveWords(lastWords, outcome.LastWords)
	r.stderr.Flush(flushTime)
	return outcome.Code
}

// options fills in what the configuration says.
func (r *runner) options(o supervisor.Options) supervisor.Options {
	c := &r.config
	o.Timeline, o.Until, o.Clients = c.timeline(), c.until(), r.counter
	o.StopOn, o.StopSignal, o.DrainSignal = c.StopOn.signals, c.StopSignal.signal, c.DrainSignal.signal
	o.Group, o.SignalMap, o.ExitCodes = c.SignalScope.value == "group", c.SignalMap.signals, c.ExitCodes.codes
	o.NotifyReady, o.Watchdog = c.ReadyCheck.value == "notify", c.Watchdog.Duration
	o.Config, o.LogDropped, o.OOMKills = c.inForce(), r.stderr.Dropped, cgroup.OOMKills
	if r.notify != nil {
		o.NotifyRefusals = r.refused
	}
	o.Upstream, o.Gate, o.Log = r.upstream, r.gate, r.log
	return o
}

// refused tells of the notify datagrams that were not taken, for who wonders why
// a READY=1 has no effect.
func (r *runner) refused() (n health.Notify) {
	n.Malformed, n.Foreign = r.notify.Refused()
	if pid, err := r.notify.LastRefusal(); err != nil {
		n.Last = fmt.Sprintf("pid %d: %v", pid, err)
	}
	return n
}

// childEnv is the child's environment: drainit's own, but for the notify
// protocol's variables, which name whom the child is to speak to. watched says
// that it is to send WATCHDOG=1, and so needs its WATCHDOG_PID: to drainit, or
// through drainit to who asked drainit for it.
func (r *runner) childEnv() (env []string, watched bool) {
	if r.notify == nil {
		return os.Environ(), false
	}
	replaced, set := []string{"NOTIFY_SOCKET", "WATCHDOG_PID"}, []string{"NOTIFY_SOCKET=" + r.notify.Addr()}
	watched = os.Getenv("WATCHDOG_USEC") != ""
	if w := r.config.Watchdog.Duration; w > 0 {
		watched = true
		replaced, set = append(replaced, "WATCHDOG_USEC"), append(set, fmt.Sprintf("WATCHDOG_USEC=%d", w.Microseconds()))
	}
	return append(environ(replaced...), set...), watched
}

// check watches the child's readiness until ctx ends.
func (r *runner) check(ctx context.Context, out chan<- health.Result) {
	c := &r.config
	var check health.Check
	var hint string
	var interval = c.ReadyInterval.Duration
	switch v := c.ReadyCheck.value; {
	case v == "notify":
		return // the child speaks for itself
	case v == "started":
		check, interval = health.Started, 0
	case v == "listen":
		check, interval = health.Listening(r.counter.Listening), 0
		hint = "; a worker that serves no port wants DRAINIT_READY_CHECK=started"
	case strings.HasPrefix(v, "tcp://"):
		check = health.TCP(strings.TrimPrefix(v, "tcp://"), c.ReadyTimeout.Duration, r.dialed)
	default:
		u, _ := url.Parse(v) // checked with the configuration
		check = health.HTTP(u, c.ReadyTimeout.Duration, r.dialed)
	}
	health.Watch(ctx, check, interval, hint, out)
}

func (r *runner) dialed() { r.dials.Add(1) }

// background runs f, and survives it. It ends with the program or with what f
// watches.
func (r *runner) background(what string, f func()) {
	go func() {
		defer func() {
			if p := recover(); p != nil {
				r.log.Error("internal error, please report it", "in", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			}
		}()
		f()
	}()
}

// ask fetches the loop's view of things.
func ask(ctx context.Context, asks chan<- chan<- health.Status) (health.Status, error) {
	answer := make(chan health.Status, 1)
	select {
	case asks <- answer:
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

// spareThreads are made while there are processes to be had. Go makes another
// when a system call takes long and something else is to run, never gives one
// back, and ends the program if it can't: a server that has used up the pids
// limit would take PID 1 with it. Five are for those that can be caught in one at a
// time: the loop, the log, the look at clients, a readiness check, and one probe's
// connection being closed (what else probes do, package health does otherwise).
const spareThreads = 5

// reserveThreads has the runtime make them, and keep them idle. Each costs some
// 20 KB.
func reserveThreads() {
	var all, made sync.WaitGroup
	made.Add(spareThreads)
	for range spareThreads {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread() // or the thread would end with us
			made.Done()
			made.Wait() // until each has one of its own
		})
	}
	all.Wait()
}

// catch takes over every signal there is to catch. Each has a slot of its own,
// so that a storm of one can't push out another; two of the same that wait at
// once merge, as they do in the kernel. SIGCHLD has its own channel: its edges
// may merge, and Reap collects all. SIGPIPE is caught so that writing to a
// closed stderr does not end PID 1, and discarded; ignoring it would let the
// child inherit that.
func catch() (<-chan unix.Signal, <-chan struct{}) {
	var slots []reflect.SelectCase
	var caught []unix.Signal
	notify := func(s unix.Signal) {
		slot := make(chan os.Signal, 1)
		signal.Notify(slot, s)
		slots = append(slots, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(slot)})
		caught = append(caught, s)
	}
	for s := unix.Signal(1); s <= 64; s++ {
		if !slices.Contains(uncatchable, s) {
			notify(s)
		}
	}
	notify(unix.SIGCHLD)
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)

	signals, children := make(chan unix.Signal), make(chan struct{}, 1)
	go func() { // ends with the program
		for {
			// One goroutine over all slots: one each would cost 150 KB. Those that
			// wait together go in the order of their numbers, as from the kernel:
			// a stop before the control signals, and undrain after drain.
			first, _, _ := reflect.Select(slots)
			for i, s := range caught {
				if i != first {
					if _, ok := slots[i].Chan.TryRecv(); !ok {
						continue
					}
				}
				if s != unix.SIGCHLD {
					signals <- s
					continue
				}
				select {
				case children <- struct{}{}:
				default:
				}
			}
		}
	}()
	return signals, children
}

// give ends a run that did not come to be: the reason to stderr and to the
// termination log, and the code.
func give(s *stderr, lastWords, wrong, mend string, code int) int {
	if lastWords == "" {
		lastWords = "/dev/termination-log"
	}
	words := wrong
	if mend != "" {
		words += "\n" + mend
	}
	leaveWords(lastWords, words)
	complain(s, wrong, mend)
	return code
}

// giveStart is give for a command that can't be started, which may have been
// meant for one of drainit's own words.
func giveStart(s *stderr, lastWords, command string, err error) int {
	e := new(supervisor.StartError)
	errors.As(err, &e)
	for own := range words {
		if e.Code == supervisor.CodeNotFound && !strings.HasPrefix(own, "-") && distance(command, own) <= 2 {
			e.Hint += "; or did you mean `drainit " + own + "`?"
			break
		}
	}
	return give(s, lastWords, e.Msg, e.Hint, e.Code)
}

// fail is give for mistakes on the command line.
func fail(wrong, mend string) int {
	complain(newStderr(os.Stderr), wrong, mend)
	return codeError
}

// optionHint tells users of other inits where their option went.
func optionHint(option string) string {
	hints := map[string]string{
		"-g": "DRAINIT_SIGNAL_SCOPE=group", "-e": "DRAINIT_EXIT_CODES=143=0", "-s": "nothing to do: drainit makes itself the subreaper",
		"-w": "nothing to do: drainit does not warn", "-v": "DRAINIT_LOG_LEVEL=debug", "-c": "DRAINIT_SIGNAL_SCOPE=child, the default",
		"--single-child": "DRAINIT_SIGNAL_SCOPE=child, the default", "-r": "DRAINIT_SIGNAL_MAP=SIGTERM=SIGQUIT, or DRAINIT_STOP_SIGNAL",
		"--rewrite": "DRAINIT_SIGNAL_MAP=SIGHUP=SIGUSR2, or DRAINIT_STOP_SIGNAL", "-h": "`drainit help`",
	}
	if h, ok := hints[option]; ok {
		return "instead of " + option + ": " + h
	}
	return fmt.Sprintf("a command that begins with a dash goes after --: %s -- %s", filepath.Base(os.Args[0]), option)
}
