package supervisor

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/notify"
	"github.com/drainit/drainit/sockets"
	"golang.org/x/sys/unix"
)

const s = time.Second

// What others do in most of the tests.
var (
	ready   = health.Result{OK: true, Reason: "it listens"}
	unready = health.Result{Reason: "it does not listen"}
	term    = unix.SIGTERM

	readyAtOnce = act{0, ready}
	termAtOnce  = act{0, term}

	met     = sockets.Verdict{Met: true, Known: true}
	waiting = sockets.Verdict{Known: true, Open: 3, InFlight: 1, Waiting: "1 request"}
	blind   = sockets.Verdict{Blind: true, Err: errors.New("no netlink")}
)

// scenario is a run, and everything it does with the instant it does it at.
type scenario struct {
	name    string
	world   setup
	options func(*Options)
	acts    []act
	want    []string
}

func (c scenario) run(t *testing.T) {
	t.Helper()
	t.Run(c.name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(c.world)
			if c.options != nil {
				c.options(&w.options)
			}
			w.run(c.acts)
			compare(t, w.record, c.want)
		})
	})
}

func runAll(t *testing.T, all []scenario) {
	for _, c := range all {
		c.run(t)
	}
}

func TestTimeline(t *testing.T) {
	finishes := setup{child: process{after: 2 * s}}
	runAll(t, []scenario{
		{name: "a cooperative child gets the window, and then ends when it likes",
			world: finishes, acts: []act{readyAtOnce, termAtOnce},
			want: []string{"0s ready", "0s not ready", "5s SIGTERM", "5s watch rarely", "7s end 0"}},
		{name: "t0 is when the signal comes, not when the child started",
			world: finishes, acts: []act{readyAtOnce, {100 * s, term}},
			want: []string{"0s ready", "1m40s not ready", "1m45s SIGTERM", "1m45s watch rarely", "1m47s end 0"}},
		{name: "a stubborn child is killed at kill_at",
			world: setup{child: process{stubborn: true}}, acts: []act{readyAtOnce, termAtOnce},
			want: []string{"0s ready", "0s not ready", "5s SIGTERM", "5s watch rarely", "28s SIGKILL to the rest", "28s SIGKILL", "28s end 137"}},
		{name: "an immortal child is given up after half the margin",
			world: setup{child: process{immortal: true}}, acts: []act{termAtOnce},
			want: []string{"5s SIGTERM", "5s watch rarely", "28s SIGKILL to the rest", "28s SIGKILL", "29s end 137"}},
		{name: "a second SIGTERM changes nothing",
			world: finishes, acts: []act{readyAtOnce, termAtOnce, {2 * s, term}, {3 * s, term}},
			want: []string{"0s ready", "0s not ready", "5s SIGTERM", "5s watch rarely", "7s end 0"}},
		{name: "another stop signal changes nothing either",
			world: finishes, acts: []act{termAtOnce, {2 * s, unix.SIGINT}},
			want: []string{"5s SIGTERM", "5s watch rarely", "7s end 0"}},
		{name: "after the forwarding a stop signal is forwarded as it comes",
			world: setup{child: process{after: 10 * s}}, acts: []act{termAtOnce, {6 * s, term}, {7 * s, unix.SIGINT}},
			want: []string{"5s SIGTERM", "5s watch rarely", "6s SIGTERM", "7s SIGINT", "15s end 0"}},
		{name: "the signal received is the one forwarded",
			world: setup{child: process{on: unix.SIGINT}}, acts: []act{{0, unix.SIGINT}},
			want: []string{"5s SIGINT", "5s watch rarely", "5s end 0"}},
		{name: "a child that dies of the signal is 128 + n",
			world: setup{child: process{status: killedBy(term)}}, acts: []act{termAtOnce},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s end 143"}},
		{name: "SIGINT on a terminal forwards at once",
			world: setup{child: process{on: unix.SIGINT, status: killedBy(unix.SIGINT)}, terminal: true},
			acts:  []act{readyAtOnce, {s, unix.SIGINT}},
			want:  []string{"0s ready", "1s SIGINT", "1s watch rarely", "1s not ready", "1s end 130"}},
		{name: "SIGINT on a terminal ends the wait another signal began, which is the one sent",
			world: setup{terminal: true}, acts: []act{termAtOnce, {s, unix.SIGINT}},
			want: []string{"1s SIGTERM", "1s watch rarely", "1s end 0"}},
		{name: "SIGTERM on a terminal has its window",
			world: setup{terminal: true}, acts: []act{termAtOnce},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s end 0"}},
		{name: "no window forwards at once",
			options: func(o *Options) { o.Timeline.Window = 0 }, acts: []act{readyAtOnce, {s, term}},
			want: []string{"0s ready", "1s SIGTERM", "1s watch rarely", "1s not ready", "1s end 0"}},
		{name: "a window that ends at forward_by is waited out",
			options: func(o *Options) { o.Timeline.Window = 18 * s }, acts: []act{termAtOnce},
			want: []string{"18s SIGTERM", "18s watch rarely", "18s end 0"}},
		{name: "a budget without reserve and margin",
			world:   setup{child: process{stubborn: true}},
			options: func(o *Options) { o.Timeline = Timeline{Grace: 10 * s, Window: 10 * s} }, acts: []act{termAtOnce},
			want: []string{"10s SIGTERM", "10s watch rarely", "10s SIGKILL to the rest", "10s SIGKILL", "10s end 137"}},
	})
}

func TestTheChildsExitEndsEveryWait(t *testing.T) {
	runAll(t, []scenario{
		{name: "starting", acts: []act{{3 * s, exitedWith(3)}}, want: []string{"3s end 3"}},
		{name: "ready", acts: []act{readyAtOnce, {3 * s, exitedWith(0)}},
			want: []string{"0s ready", "3s not ready", "3s end 0"}},
		{name: "unready", acts: []act{readyAtOnce, {s, unready}, {3 * s, killedBy(unix.SIGSEGV)}},
			want: []string{"0s ready", "1s not ready", "3s end 139"}},
		{name: "draining", acts: []act{readyAtOnce, {s, term}, {3 * s, exitedWith(7)}},
			want: []string{"0s ready", "1s not ready", "3s end 7"}},
		{name: "stopping", world: setup{child: process{stubborn: true}}, acts: []act{termAtOnce, {9 * s, exitedWith(7)}},
			want: []string{"5s SIGTERM", "5s watch rarely", "9s end 7"}},
		{name: "killing", world: setup{child: process{immortal: true}}, acts: []act{termAtOnce, {28*s + s/2, exitedWith(7)}},
			want: []string{"5s SIGTERM", "5s watch rarely", "28s SIGKILL to the rest", "28s SIGKILL", "28.5s end 7"}},
		{name: "before anybody listened", acts: []act{{0, exitedWith(9)}}, want: []string{"0s end 9"}},
	})
}

func TestSignals(t *testing.T) {
	const quit, usr1, hup, winch = unix.SIGQUIT, unix.SIGUSR1, unix.SIGHUP, unix.SIGWINCH
	runAll(t, []scenario{
		{name: "STOP_SIGNAL replaces the one received",
			world: setup{child: process{on: quit}}, options: func(o *Options) { o.StopSignal = quit }, acts: []act{termAtOnce},
			want: []string{"5s SIGQUIT", "5s watch rarely", "5s end 0"}},
		{name: "STOP_ON makes another signal begin a stop",
			world: setup{child: process{on: quit}}, options: func(o *Options) { o.StopOn = []unix.Signal{quit} },
			acts: []act{{0, quit}}, want: []string{"5s SIGQUIT", "5s watch rarely", "5s end 0"}},
		{name: "a signal that is not in STOP_ON is forwarded and begins nothing",
			options: func(o *Options) { o.StopOn = []unix.Signal{quit} }, acts: []act{readyAtOnce, {s, term}},
			want: []string{"0s ready", "1s SIGTERM", "1s not ready", "1s end 0"}},
		{name: "DRAIN_SIGNAL is sent at t0, once",
			options: func(o *Options) { o.DrainSignal = unix.SIGTSTP }, acts: []act{readyAtOnce, {2 * s, term}, {3 * s, term}},
			want: []string{"0s ready", "2s SIGTSTP", "2s not ready", "7s SIGTERM", "7s watch rarely", "7s end 0"}},
		{name: "others are forwarded at once in every phase",
			world: setup{child: process{after: 10 * s}},
			acts:  []act{{s, hup}, {2 * s, ready}, {3 * s, usr1}, {4 * s, term}, {5 * s, usr1}, {10 * s, hup}, {11 * s, winch}},
			want: []string{"1s SIGHUP", "2s ready", "3s SIGUSR1", "4s not ready", "5s SIGUSR1", "9s SIGTERM", "9s watch rarely",
				"10s SIGHUP", "11s SIGWINCH", "19s end 0"}},
		{name: "SIGNAL_MAP rewrites and ignores",
			options: func(o *Options) {
				o.SignalMap = map[unix.Signal]unix.Signal{hup: unix.SIGUSR2, usr1: 0}
			},
			acts: []act{{s, hup}, {2 * s, usr1}, {3 * s, winch}, {4 * s, exitedWith(0)}},
			want: []string{"1s SIGUSR2", "3s SIGWINCH", "4s end 0"}},
		{name: "real-time signals are forwarded",
			acts: []act{{0, unix.Signal(34)}, {0, unix.Signal(64)}, {s, exitedWith(0)}},
			want: []string{"0s SIGRTMIN+0", "0s SIGRTMIN+30", "1s end 0"}},
		{name: "control signals are not",
			acts: []act{{0, SigSkip}, {0, SigDrain}, {0, SigUndrain}, {s, exitedWith(0)}},
			want: []string{"1s end 0"}},
		{name: "EXIT_CODES maps what the child exits with",
			world:   setup{child: process{status: killedBy(term)}},
			options: func(o *Options) { o.ExitCodes = map[int]int{143: 0, 0: 1} }, acts: []act{termAtOnce},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s end 0"}},
		{name: "a stopped child is continued, or it would not take its stop signal",
			acts: []act{{0, stoppedBy(unix.SIGSTOP)}, {s, term}},
			want: []string{"6s SIGTERM", "6s SIGCONT", "6s watch rarely", "6s end 0"}},
		{name: "a child that was continued gets no SIGCONT",
			acts: []act{{0, stoppedBy(unix.SIGSTOP)}, {s, continued}, {2 * s, term}},
			want: []string{"7s SIGTERM", "7s watch rarely", "7s end 0"}},
		{name: "a child that stops itself on a terminal gives it back",
			world: setup{terminal: true},
			acts:  []act{{s, stoppedBy(unix.SIGTSTP)}, {2 * s, unix.SIGCONT}, {3 * s, exitedWith(0)}},
			want:  []string{"1s suspend by SIGTSTP", "2s resume", "2s SIGCONT", "3s end 0"}},
	})
}

func TestUnreadyDelay(t *testing.T) {
	delay := func(o *Options) { o.Timeline.UnreadyDelay = 3 * s }
	runAll(t, []scenario{
		{name: "200 until it is over, to the instant", options: delay, acts: []act{readyAtOnce, {10 * s, term}},
			want: []string{"0s ready", "13s not ready", "15s SIGTERM", "15s watch rarely", "15s end 0"}},
		{name: "never 200 if it was not ready at t0", options: delay, acts: []act{{0, unready}, {10 * s, term}, {11 * s, ready}},
			want: []string{"15s SIGTERM", "15s watch rarely", "15s end 0"}},
		{name: "never 200 if an operator held it back at t0", options: delay,
			acts: []act{readyAtOnce, {s, SigDrain}, {10 * s, term}, {11 * s, SigUndrain}},
			want: []string{"0s ready", "1s not ready", "15s SIGTERM", "15s watch rarely", "15s end 0"}},
		{name: "over with the child's exit", options: delay, acts: []act{readyAtOnce, {10 * s, term}, {11 * s, exitedWith(0)}},
			want: []string{"0s ready", "11s not ready", "11s end 0"}},
		{name: "not over with skip", world: setup{child: process{after: 5 * s}}, options: delay,
			acts: []act{readyAtOnce, {10 * s, term}, {11 * s, SigSkip}},
			want: []string{"0s ready", "11s SIGTERM", "11s watch rarely", "13s not ready", "16s end 0"}},
		{name: "over with the child's exit after skip, whoever is left", options: delay,
			world: setup{child: process{after: s / 2}, orphans: []process{{stubborn: true}}},
			acts:  []act{readyAtOnce, {10 * s, term}, {11 * s, SigSkip}},
			want: []string{"0s ready", "11s SIGTERM", "11s watch rarely", "11.5s SIGTERM to the rest", "11.5s not ready",
				"16.5s SIGKILL to the rest", "16.5s end 0"}},
	})
}

func TestOrphans(t *testing.T) {
	left := func(o ...process) setup { return setup{orphans: o} }
	runAll(t, []scenario{
		{name: "what is left gets the stop signal, and its time",
			world: left(process{after: 2 * s}), acts: []act{{s, exitedWith(3)}},
			want: []string{"1s SIGTERM to the rest", "3s end 3"}},
		{name: "the stop signal is STOP_SIGNAL there too",
			world: left(process{on: unix.SIGQUIT}), options: func(o *Options) { o.StopSignal = unix.SIGQUIT },
			acts: []act{{s, exitedWith(3)}}, want: []string{"1s SIGQUIT to the rest", "1s end 3"}},
		{name: "SIGKILL ends it at the end of ORPHAN_GRACE",
			world: left(process{stubborn: true}, process{after: s}), acts: []act{{s, exitedWith(3)}},
			want: []string{"1s SIGTERM to the rest", "6s SIGKILL to the rest", "6s end 3"}},
		{name: "never past kill_at",
			world: setup{child: process{after: 21 * s}, orphans: []process{{stubborn: true}}}, acts: []act{termAtOnce},
			want: []string{"5s SIGTERM", "5s watch rarely", "26s SIGTERM to the rest", "28s SIGKILL to the rest", "28s end 0"}},
		{name: "0 exits with the child",
			world: left(process{stubborn: true}), options: func(o *Options) { o.Timeline.OrphanGrace = 0 },
			acts: []act{{s, exitedWith(3)}}, want: []string{"1s end 3"}},
		{name: "0 exits with the child after a stop too",
			world: left(process{stubborn: true}), options: func(o *Options) { o.Timeline.OrphanGrace = 0 },
			acts: []act{termAtOnce}, want: []string{"5s SIGTERM", "5s watch rarely", "5s end 0"}},
		{name: "orphans that end before the child are only reaped",
			world: left(process{}), acts: []act{{s, func() {}}, {2 * s, exitedWith(0)}},
			want: []string{"2s SIGTERM to the rest", "2s end 0"}},
		{name: "a stop signal that comes while they are waited for is theirs",
			world: left(process{on: unix.SIGINT, after: s}), acts: []act{{s, exitedWith(3)}, {2 * s, unix.SIGINT}},
			want: []string{"1s SIGTERM to the rest", "2s SIGINT to the rest", "3s end 3"}},
		{name: "and begins the budget",
			world:   left(process{stubborn: true}),
			options: func(o *Options) { o.Timeline.OrphanGrace = 100 * s },
			acts:    []act{{s, exitedWith(3)}, {2 * s, term}},
			want:    []string{"1s SIGTERM to the rest", "2s SIGTERM to the rest", "30s SIGKILL to the rest", "30s end 3"}},
		{name: "an immortal orphan is given up",
			world: left(process{immortal: true}), acts: []act{{s, exitedWith(3)}},
			want: []string{"1s SIGTERM to the rest", "6s SIGKILL to the rest", "7s end 3"}},
		{name: "a child that is killed takes everybody along",
			world: setup{child: process{stubborn: true}, orphans: []process{{stubborn: true}, {}}}, acts: []act{termAtOnce},
			want: []string{"5s SIGTERM", "5s watch rarely", "28s SIGKILL to the rest", "28s SIGKILL", "28s end 137"}},
		{name: "the child's exit in a batch of its own is found without another SIGCHLD",
			world: setup{orphans: []process{{}, {}, {}, {}, {}}, batch: 1}, acts: []act{{s, exitedWith(3)}},
			want: []string{"1s SIGTERM to the rest", "1s end 3"}},
	})
}

func TestReadiness(t *testing.T) {
	byNotify := func(o *Options) { o.NotifyReady = true }
	end := func(at time.Duration) act { return act{at, exitedWith(0)} }
	runAll(t, []scenario{
		{name: "flaps with the check",
			acts: []act{{0, unready}, {s, ready}, {2 * s, unready}, {3 * s, unready}, {4 * s, ready}, end(5 * s)},
			want: []string{"1s ready", "2s not ready", "4s ready", "5s not ready", "5s end 0"}},
		{name: "the check stops mattering at t0", acts: []act{{0, unready}, {s, term}, {2 * s, ready}},
			want: []string{"6s SIGTERM", "6s watch rarely", "6s end 0"}},
		{name: "drain and undrain", acts: []act{readyAtOnce, {s, SigDrain}, {2 * s, SigDrain}, {3 * s, SigUndrain}, {4 * s, SigUndrain}, end(5 * s)},
			want: []string{"0s ready", "1s not ready", "3s ready", "5s not ready", "5s end 0"}},
		{name: "a check does not end a drain", acts: []act{readyAtOnce, {s, SigDrain}, {2 * s, unready}, {3 * s, ready}, end(5 * s)},
			want: []string{"0s ready", "1s not ready", "5s end 0"}},
		{name: "drain before the first ready", acts: []act{{0, SigDrain}, {s, ready}, {2 * s, SigUndrain}, end(3 * s)},
			want: []string{"2s ready", "3s not ready", "3s end 0"}},
		{name: "undrain of one that is not ready", acts: []act{{0, unready}, {0, SigDrain}, {s, SigUndrain}, {2 * s, ready}, end(3 * s)},
			want: []string{"2s ready", "3s not ready", "3s end 0"}},
		{name: "undrain does not undo a stop", acts: []act{readyAtOnce, {0, SigDrain}, {s, term}, {2 * s, SigUndrain}},
			want: []string{"0s ready", "0s not ready", "6s SIGTERM", "6s watch rarely", "6s end 0"}},
		{name: "READY=1 where that is what counts", options: byNotify,
			acts: []act{{0, ready}, {s, notify.Message{Ready: true}}, end(2 * s)},
			want: []string{"1s ready", "2s not ready", "2s end 0"}},
		{name: "READY=1 where it is not", acts: []act{{0, unready}, {s, notify.Message{Ready: true}}, end(2 * s)},
			want: []string{"2s end 0"}},
		{name: "RELOADING=1 until READY=1", options: byNotify,
			acts: []act{{0, notify.Message{Ready: true}}, {s, notify.Message{Reloading: true}}, {2 * s, notify.Message{Ready: true}}, end(3 * s)},
			want: []string{"0s ready", "1s not ready", "2s ready", "3s not ready", "3s end 0"}},
		{name: "RELOADING=1 with another check", acts: []act{readyAtOnce, {s, notify.Message{Reloading: true}}, {2 * s, ready},
			{3 * s, notify.Message{Ready: true}}, end(4 * s)},
			want: []string{"0s ready", "1s not ready", "3s ready", "4s not ready", "4s end 0"}},
		{name: "STOPPING=1 is not ready at once, and no stop", acts: []act{readyAtOnce, {s, notify.Message{Stopping: true}}, end(100 * s)},
			want: []string{"0s ready", "1s not ready", "1m40s end 0"}},
		{name: "READY=1 after t0 changes nothing", options: byNotify,
			acts: []act{{0, notify.Message{Ready: true}}, {s, term}, {2 * s, notify.Message{Ready: true}}},
			want: []string{"0s ready", "1s not ready", "6s SIGTERM", "6s watch rarely", "6s end 0"}},
	})
}

func TestSkip(t *testing.T) {
	runAll(t, []scenario{
		{name: "ends the wait", acts: []act{readyAtOnce, termAtOnce, {2 * s, SigSkip}},
			want: []string{"0s ready", "0s not ready", "2s SIGTERM", "2s watch rarely", "2s end 0"}},
		{name: "ends the wait for clients", options: func(o *Options) { o.Until = sockets.Closed }, acts: []act{termAtOnce, {7 * s, SigSkip}},
			want: []string{"0s watch until closed", "7s SIGTERM", "7s watch rarely", "7s end 0"}},
		{name: "changes nothing before t0", acts: []act{readyAtOnce, {s, SigSkip}, {2 * s, term}},
			want: []string{"0s ready", "2s not ready", "7s SIGTERM", "7s watch rarely", "7s end 0"}},
		{name: "changes nothing after the forwarding", world: setup{child: process{after: 4 * s}}, acts: []act{termAtOnce, {6 * s, SigSkip}},
			want: []string{"5s SIGTERM", "5s watch rarely", "9s end 0"}},
	})
}

func TestPrestop(t *testing.T) {
	quiet := func(o *Options) { o.Until = sockets.Quiet }
	runAll(t, []scenario{
		{name: "once drained, SIGTERM is forwarded as it comes", acts: []act{readyAtOnce, {0, SigPrestop}, {7 * s, term}},
			want: []string{"0s ready", "0s not ready", "7s SIGTERM", "7s watch rarely", "7s end 0"}},
		{name: "SIGTERM before it is drained waits for the rest of the window", acts: []act{{0, SigPrestop}, {2 * s, term}},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s end 0"}},
		{name: "without SIGTERM forward_by decides", acts: []act{{0, SigPrestop}},
			want: []string{"18s SIGTERM", "18s watch rarely", "18s end 0"}},
		{name: "without SIGTERM it is STOP_SIGNAL that forward_by sends", world: setup{child: process{on: unix.SIGQUIT}},
			options: func(o *Options) { o.StopSignal = unix.SIGQUIT }, acts: []act{{0, SigPrestop}},
			want: []string{"18s SIGQUIT", "18s watch rarely", "18s end 0"}},
		{name: "the SIGTERM it announced is not sent twice", world: setup{child: process{after: 5 * s}},
			acts: []act{{0, SigPrestop}, {18*s + s/10, term}, {20 * s, term}},
			want: []string{"18s SIGTERM", "18s watch rarely", "20s SIGTERM", "23s end 0"}},
		{name: "called twice is harmless", acts: []act{{0, SigPrestop}, {2 * s, SigPrestop}, {7 * s, SigPrestop}, {8 * s, term}},
			want: []string{"8s SIGTERM", "8s watch rarely", "8s end 0"}},
		{name: "called after SIGTERM is harmless", acts: []act{termAtOnce, {2 * s, SigPrestop}},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s end 0"}},
		{name: "called after the forwarding is harmless", world: setup{child: process{after: 4 * s}}, acts: []act{termAtOnce, {6 * s, SigPrestop}},
			want: []string{"5s SIGTERM", "5s watch rarely", "9s end 0"}},
		{name: "the clock of the deadlines starts with it", world: setup{child: process{stubborn: true}},
			acts: []act{{0, SigPrestop}, {10 * s, term}},
			want: []string{"10s SIGTERM", "10s watch rarely", "28s SIGKILL to the rest", "28s SIGKILL", "28s end 137"}},
		{name: "the clients count for it", options: quiet,
			acts: []act{{0, SigPrestop}, {6 * s, waiting}, {8 * s, met}, {9 * s, term}},
			want: []string{"0s watch until quiet", "9s SIGTERM", "9s watch rarely", "9s end 0"}},
		{name: "SIGTERM before the clients are done waits for them", options: quiet,
			acts: []act{{0, SigPrestop}, {6 * s, term}, {8 * s, met}},
			want: []string{"0s watch until quiet", "8s SIGTERM", "8s watch rarely", "8s end 0"}},
		{name: "the child's exit ends it", acts: []act{{0, SigPrestop}, {6 * s, exitedWith(4)}}, want: []string{"6s end 4"}},
	})
}

func TestExtendTimeout(t *testing.T) {
	extend := func(by time.Duration) notify.Message { return notify.Message{ExtendTimeout: by} }
	runAll(t, []scenario{
		{name: "puts the forwarding off", acts: []act{termAtOnce, {3 * s, extend(6 * s)}},
			want: []string{"9s SIGTERM", "9s watch rarely", "9s end 0"}},
		{name: "a shorter one takes nothing back", acts: []act{termAtOnce, {s, extend(8 * s)}, {2 * s, extend(s)}},
			want: []string{"9s SIGTERM", "9s watch rarely", "9s end 0"}},
		{name: "never shortens the window", acts: []act{termAtOnce, {s, extend(s)}},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s end 0"}},
		{name: "never past forward_by", acts: []act{termAtOnce, {3 * s, extend(100 * s)}},
			want: []string{"18s SIGTERM", "18s watch rarely", "18s end 0"}},
		{name: "for ever is never past forward_by", acts: []act{termAtOnce, {3 * s, extend(notify.MaxDuration)}},
			want: []string{"18s SIGTERM", "18s watch rarely", "18s end 0"}},
		{name: "before t0 nothing comes of it", acts: []act{{0, extend(100 * s)}, {s, term}},
			want: []string{"6s SIGTERM", "6s watch rarely", "6s end 0"}},
		{name: "holds off a verdict", options: func(o *Options) { o.Until = sockets.Idle },
			acts: []act{termAtOnce, {3 * s, extend(6 * s)}, {7 * s, met}, {9 * s, met}},
			want: []string{"0s watch until idle", "9s SIGTERM", "9s watch rarely", "9s end 0"}},
		{name: "after the signal never past kill_at", world: setup{child: process{stubborn: true}},
			acts: []act{termAtOnce, {10 * s, extend(100 * s)}},
			want: []string{"5s SIGTERM", "5s watch rarely", "28s SIGKILL to the rest", "28s SIGKILL", "28s end 137"}},
		{name: "prolongs ORPHAN_GRACE", world: setup{orphans: []process{{stubborn: true}}},
			acts: []act{termAtOnce, {7 * s, extend(10 * s)}},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s SIGTERM to the rest", "17s SIGKILL to the rest", "17s end 0"}},
		{name: "prolongs ORPHAN_GRACE to kill_at and no further", world: setup{child: process{after: s}, orphans: []process{{stubborn: true}}},
			acts: []act{termAtOnce, {7 * s, extend(100 * s)}},
			want: []string{"5s SIGTERM", "5s watch rarely", "6s SIGTERM to the rest", "28s SIGKILL to the rest", "28s end 0"}},
	})
}

func TestDrainUntil(t *testing.T) {
	until := func(o *Options) { o.Until = sockets.Quiet }
	broken := sockets.Verdict{Waiting: gone}
	watch := func(rest ...string) []string { return append([]string{"0s watch until quiet"}, rest...) }
	runAll(t, []scenario{
		{name: "window asks nobody", acts: []act{termAtOnce}, want: []string{"5s SIGTERM", "5s watch rarely", "5s end 0"}},
		{name: "met after the window forwards in that instant", options: until, acts: []act{termAtOnce, {6 * s, waiting}, {7300 * time.Millisecond, met}},
			want: watch("7.3s SIGTERM", "7.3s watch rarely", "7.3s end 0")},
		{name: "met at the window's end", options: until, acts: []act{termAtOnce, {5 * s, met}},
			want: watch("5s SIGTERM", "5s watch rarely", "5s end 0")},
		{name: "met before the window is of no use later", options: until, acts: []act{termAtOnce, {4 * s, met}, {6 * s, waiting}, {8 * s, met}},
			want: watch("8s SIGTERM", "8s watch rarely", "8s end 0")},
		{name: "met before the window and never again", options: until, acts: []act{termAtOnce, {4 * s, met}},
			want: watch("18s SIGTERM", "18s watch rarely", "18s end 0")},
		{name: "never met is never past forward_by", options: until, acts: []act{termAtOnce, {s, waiting}, {10 * s, waiting}},
			want: watch("18s SIGTERM", "18s watch rarely", "18s end 0")},
		{name: "silence is never past forward_by", options: until, acts: []act{termAtOnce},
			want: watch("18s SIGTERM", "18s watch rarely", "18s end 0")},
		{name: "blind leaves it to the window", options: until, acts: []act{termAtOnce, {s, blind}, {2 * s, blind}},
			want: watch("5s SIGTERM", "5s watch rarely", "5s end 0")},
		{name: "blind after the window forwards in that instant", options: until, acts: []act{termAtOnce, {6 * s, waiting}, {7 * s, blind}},
			want: watch("7s SIGTERM", "7s watch rarely", "7s end 0")},
		{name: "blind and met is blind", options: until, acts: []act{termAtOnce, {s, sockets.Verdict{Blind: true, Met: true}}},
			want: watch("5s SIGTERM", "5s watch rarely", "5s end 0")},
		{name: "one that sees again decides again", options: until, acts: []act{termAtOnce, {s, blind}, {2 * s, waiting}, {8 * s, met}},
			want: watch("8s SIGTERM", "8s watch rarely", "8s end 0")},
		{name: "a watcher that ends leaves it to the window", options: until, acts: []act{termAtOnce, {s, waiting}, {2 * s, broken}},
			want: watch("5s SIGTERM", "5s watch rarely", "5s end 0")},
		{name: "a watcher that ends after the window forwards in that instant", options: until, acts: []act{termAtOnce, {s, waiting}, {6 * s, broken}},
			want: watch("6s SIGTERM", "6s watch rarely", "6s end 0")},
		{name: "the watcher is there before DRAIN_SIGNAL", options: func(o *Options) { until(o); o.DrainSignal = unix.SIGUSR1 },
			acts: []act{termAtOnce, {5 * s, met}},
			want: watch("0s SIGUSR1", "5s SIGTERM", "5s watch rarely", "5s end 0")},
		{name: "verdicts after the signal change nothing", world: setup{child: process{after: 5 * s}}, options: until,
			acts: []act{termAtOnce, {5 * s, met}, {6 * s, met}, {7 * s, blind}, {8 * s, broken}},
			want: watch("5s SIGTERM", "5s watch rarely", "10s end 0")},
		{name: "a window that ends at forward_by needs no verdict", options: func(o *Options) { until(o); o.Timeline.Window = 18 * s },
			acts: []act{termAtOnce}, want: watch("18s SIGTERM", "18s watch rarely", "18s end 0")},
		{name: "no watcher at all leaves it to the window", options: func(o *Options) { until(o); o.Clients = nil },
			acts: []act{termAtOnce}, want: []string{"5s SIGTERM", "5s end 0"}},
	})
}

func TestUpstream(t *testing.T) {
	for _, c := range []scenario{
		{name: "is told of the first ready, of status and of the stop",
			acts: []act{readyAtOnce, {s, unready}, {2 * s, ready}, {3 * s, notify.Message{HasStatus: true, Status: "fine"}}, {4 * s, term}},
			want: []string{"0s upstream READY", "0s ready", "1s not ready", "2s ready", "3s upstream STATUS=fine",
				"4s upstream STOPPING", "4s not ready", "9s SIGTERM", "9s watch rarely", "9s end 0"}},
		{name: "is told of ready when a drain from before it ends",
			acts: []act{{0, SigDrain}, {s, ready}, {2 * s, SigUndrain}, {3 * s, exitedWith(0)}},
			want: []string{"2s upstream READY", "2s ready", "3s not ready", "3s end 0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(c.world)
				w.options.Upstream = upstream{w}
				w.run(c.acts)
				compare(t, w.record, c.want)
			})
		})
	}
}
