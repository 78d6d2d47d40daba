package supervisor

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
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

	met     = sockets.Verdict{Met: true, Known: true, Rate: 1}
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
		{name: "SIGINT on a terminal has its window: a keyboard's reaches the child by itself",
			world: setup{child: process{on: unix.SIGINT, status: killedBy(unix.SIGINT)}, terminal: true},
			acts:  []act{readyAtOnce, {s, unix.SIGINT}},
			want:  []string{"0s ready", "1s not ready", "6s SIGINT", "6s watch rarely", "6s end 130"}},
		{name: "SIGINT on a terminal changes nothing about a stop",
			world: setup{terminal: true}, acts: []act{termAtOnce, {s, unix.SIGINT}},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s end 0"}},
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
		{name: "before the loop has started", acts: []act{{0, exitedWith(9)}}, want: []string{"0s end 9"}},
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
		{name: "over with the child's exit after skip, whatever is left", options: delay,
			world: setup{child: process{after: s / 2}, orphans: []process{{stubborn: true}}},
			acts:  []act{readyAtOnce, {10 * s, term}, {11 * s, SigSkip}},
			want: []string{"0s ready", "11s SIGTERM", "11s watch rarely", "11.5s SIGTERM to the rest", "11.5s not ready",
				"38s SIGKILL to the rest", "38s end 0"}},
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
		{name: "during a stop it has until kill_at: behind a script it is the server",
			world: left(process{after: 14 * s}), acts: []act{termAtOnce},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s SIGTERM to the rest", "19s end 0"}},
		{name: "and is killed then",
			world: left(process{stubborn: true}), acts: []act{termAtOnce},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s SIGTERM to the rest", "28s SIGKILL to the rest", "28s end 0"}},
		{name: "an explicit ORPHAN_GRACE bounds that too",
			world: left(process{stubborn: true}), options: func(o *Options) { o.Timeline.OrphanGraceSet = true }, acts: []act{termAtOnce},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s SIGTERM to the rest", "10s SIGKILL to the rest", "10s end 0"}},
		{name: "what had the signal through the group does not get it again",
			world:   left(process{grouped: true, after: 4 * s}, process{after: 8 * s}),
			options: func(o *Options) { o.Group = true }, acts: []act{termAtOnce, {7 * s, func() {}}},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s SIGTERM outside the group", "13s end 0"}},
		{name: "with the scope group, a child that ended before the signal",
			world:   left(process{grouped: true}),
			options: func(o *Options) { o.Group = true }, acts: []act{termAtOnce, {2 * s, exitedWith(3)}},
			want: []string{"2s SIGTERM to the rest", "2s end 3"}},
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
		{name: "a child that is killed takes all others along",
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
		{name: "prolongs an explicit ORPHAN_GRACE", world: setup{orphans: []process{{stubborn: true}}},
			options: func(o *Options) { o.Timeline.OrphanGraceSet = true }, acts: []act{termAtOnce, {7 * s, extend(10 * s)}},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s SIGTERM to the rest", "17s SIGKILL to the rest", "17s end 0"}},
		{name: "prolongs it to kill_at and no further", world: setup{child: process{after: s}, orphans: []process{{stubborn: true}}},
			options: func(o *Options) { o.Timeline.OrphanGraceSet = true }, acts: []act{termAtOnce, {7 * s, extend(100 * s)}},
			want: []string{"5s SIGTERM", "5s watch rarely", "6s SIGTERM to the rest", "28s SIGKILL to the rest", "28s end 0"}},
	})
}

func TestDrainUntil(t *testing.T) {
	until := func(o *Options) { o.Until = sockets.Quiet }
	broken := sockets.Verdict{Waiting: gone}
	watch := func(rest ...string) []string { return append([]string{"0s watch until quiet"}, rest...) }
	runAll(t, []scenario{
		{name: "window is not decided by the clients", acts: []act{termAtOnce, {s, waiting}, {2 * s, met}, {3 * s, blind}},
			want: []string{"5s SIGTERM", "5s watch rarely", "5s end 0"}},
		{name: "a container that was never ready and has no clients is told at once",
			acts: []act{{0, unready}, {s, term}, {1100 * time.Millisecond, sockets.Verdict{Known: true}}},
			want: []string{"1.1s SIGTERM", "1.1s watch rarely", "1.1s end 0"}},
		{name: "one that has clients is not, ready or not",
			acts: []act{{0, unready}, {s, term}, {1100 * time.Millisecond, waiting}},
			want: []string{"6s SIGTERM", "6s watch rarely", "6s end 0"}},
		{name: "nor one that had some before",
			acts: []act{{0, unready}, {s, term}, {1100 * time.Millisecond, sockets.Verdict{Known: true, Rate: 0.1}}},
			want: []string{"6s SIGTERM", "6s watch rarely", "6s end 0"}},
		{name: "nor one whose clients can't be counted",
			acts: []act{{0, unready}, {s, term}, {1100 * time.Millisecond, blind}},
			want: []string{"6s SIGTERM", "6s watch rarely", "6s end 0"}},
		{name: "one that was ready once has its window",
			acts: []act{readyAtOnce, {0, unready}, {s, term}, {1100 * time.Millisecond, sockets.Verdict{Known: true}}},
			want: []string{"0s ready", "0s not ready", "6s SIGTERM", "6s watch rarely", "6s end 0"}},
		{name: "a worker that listens on nothing is told at once", world: setup{serves: &sockets.Serving{}},
			acts: []act{readyAtOnce, {s, term}, {1100 * time.Millisecond, sockets.Verdict{Known: true, Rate: 1}}},
			want: []string{"0s ready", "1s not ready", "1.1s SIGTERM", "1.1s watch rarely", "1.1s end 0"}},
		{name: "unless DRAIN_WINDOW is set", world: setup{serves: &sockets.Serving{}}, options: func(o *Options) { o.WindowSet = true },
			acts: []act{readyAtOnce, {s, term}, {1100 * time.Millisecond, sockets.Verdict{Known: true, Rate: 1}}},
			want: []string{"0s ready", "1s not ready", "6s SIGTERM", "6s watch rarely", "6s end 0"}},
		{name: "or it still has connections", world: setup{serves: &sockets.Serving{}},
			acts: []act{readyAtOnce, {s, term}, {1100 * time.Millisecond, waiting}},
			want: []string{"0s ready", "1s not ready", "6s SIGTERM", "6s watch rarely", "6s end 0"}},
		{name: "or what it listens on is unknown", world: setup{serves: &sockets.Serving{}, unseen: unix.EACCES},
			acts: []act{readyAtOnce, {s, term}, {1100 * time.Millisecond, sockets.Verdict{Known: true, Rate: 1}}},
			want: []string{"0s ready", "1s not ready", "6s SIGTERM", "6s watch rarely", "6s end 0"}},
		{name: "a bound UDP socket is a listener", world: setup{serves: &sockets.Serving{UDP: []uint16{53}}},
			acts: []act{readyAtOnce, {s, term}, {1100 * time.Millisecond, sockets.Verdict{Known: true, Rate: 1}}},
			want: []string{"0s ready", "1s not ready", "6s SIGTERM", "6s watch rarely", "6s end 0"}},
		{name: "window alone", acts: []act{termAtOnce}, want: []string{"5s SIGTERM", "5s watch rarely", "5s end 0"}},
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

func TestWatchdog(t *testing.T) {
	ping := notify.Message{Watchdog: true}
	every := func(d time.Duration) notify.Message { return notify.Message{HasWatchdogEvery: true, WatchdogEvery: d} }
	end := act{100 * s, exitedWith(0)}
	for _, c := range []struct {
		name string
		none bool // DRAINIT_WATCHDOG is not set
		acts []act
		want []string
	}{
		{"is armed by the first ping", false, []act{{s, ping}, end}, []string{"4s dead"}},
		{"is armed by READY=1", false, []act{{s, notify.Message{Ready: true}}, end}, []string{"4s dead"}},
		{"is not armed by itself", false, []act{end}, nil},
		{"a ping in time keeps it alive, one too late revives it",
			false, []act{{0, ping}, {3*s - 1, ping}, {8 * s, ping}, {10 * s, ping}, end}, []string{"5.999999999s dead", "8s alive", "13s dead"}},
		{"READY=1 is no ping", false, []act{{s, ping}, {3 * s, notify.Message{Ready: true}}, end}, []string{"4s dead"}},
		{"WATCHDOG=trigger is a miss at once, until the next ping",
			false, []act{{0, ping}, {s, notify.Message{WatchdogTrigger: true}}, {2 * s, ping}, end}, []string{"1s dead", "2s alive", "5s dead"}},
		{"WATCHDOG_USEC is the new period at once", false, []act{{0, ping}, {s, every(10 * s)}, end}, []string{"11s dead"}},
		{"WATCHDOG_USEC and a ping in one", false,
			[]act{{0, ping}, {s, notify.Message{HasWatchdogEvery: true, WatchdogEvery: 10 * s, Watchdog: true}}, end}, []string{"11s dead"}},
		{"WATCHDOG_USEC before the first ping arms nothing", false, []act{{0, every(s)}, end}, nil},
		{"WATCHDOG_USEC=0 ends it", false, []act{{0, ping}, {s, every(0)}, end}, nil},
		{"WATCHDOG_USEC=0 ends it whatever comes later", false, []act{{0, every(0)}, {s, ping}, {2 * s, notify.Message{Ready: true}}, end}, nil},
		{"without a watchdog nothing is missed", true, []act{{0, ping}, {s, every(s)}, {2 * s, ping}, end}, nil},
		{"without a watchdog a trigger counts", true, []act{{s, notify.Message{WatchdogTrigger: true}}, end}, []string{"1s dead"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(setup{})
				if !c.none {
					w.options.Watchdog = 3 * s
				}
				w.livez = true
				w.run(c.acts)
				compare(t, w.record, append(c.want, "1m40s end 0"))
			})
		})
	}
	t.Run("is not missed by a child that has exited", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(setup{orphans: []process{{stubborn: true}}})
			w.options.Watchdog = 3 * s
			w.livez = true
			w.run([]act{{s, ping}, {2 * s, exitedWith(0)}, {3 * s, ping}})
			compare(t, w.record, []string{"2s SIGTERM to the rest", "7s SIGKILL to the rest", "7s end 0"})
		})
	})
}

// TestMainPID: a successor that the child names takes its place.
func TestMainPID(t *testing.T) {
	successor := act{s, notify.Message{MainPID: childPID + 1}}
	runAll(t, []scenario{
		{name: "the exit of the process that was started ends nothing then",
			world: setup{orphans: []process{{after: s, status: exitedWith(5)}}},
			acts:  []act{successor, {2 * s, exitedWith(0)}, {3 * s, term}},
			want:  []string{"1s main 1", "8s SIGTERM", "8s watch rarely", "9s end 5"}},
		{name: "the successor's exit does",
			world: setup{orphans: []process{{}}, child: process{after: s}},
			acts:  []act{successor, {2 * s, term}},
			want:  []string{"1s main 1", "7s SIGTERM", "7s watch rarely", "7s SIGTERM to the rest", "8s end 0"}},
		{name: "a stranger is rejected",
			acts: []act{{s, notify.Message{MainPID: 1}}, {2 * s, exitedWith(3)}}, want: []string{"2s end 3"}},
	})
}

// TestLiveCheck: LIVE_CHECK decides /livez until a stop begins.
func TestLiveCheck(t *testing.T) {
	dead, well := alive{Reason: "no answer"}, alive{OK: true}
	for _, c := range []struct {
		name string
		acts []act
		want []string
	}{
		{"turns /livez to 503 and back", []act{{s, dead}, {3 * s, well}, {5 * s, exitedWith(0)}}, []string{"1s dead", "3s alive", "5s end 0"}},
		{"counts no more once a stop has begun", []act{{s, term}, {2 * s, dead}}, []string{"6s SIGTERM", "6s watch rarely", "6s end 0"}},
		{"a stop ends a failure", []act{{s, dead}, {3 * s, term}}, []string{"1s dead", "3s alive", "8s SIGTERM", "8s watch rarely", "8s end 0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(setup{})
				w.livez = true
				w.run(c.acts)
				compare(t, w.record, c.want)
			})
		})
	}
}

// TestTies: when a machine is slow, an exit and a deadline wait for the loop
// together. select picks one at random, and either is right: what has exited by
// then is not killed, nor reported as if it had been.
func TestTies(t *testing.T) {
	for _, c := range []struct {
		name  string
		world setup
		until sockets.Until
		exit  time.Duration // of the child; a second before, the loop is held up for two
		acts  []act
		never string // what must not have been done
	}{
		{name: "exit at the window's end", exit: 5 * s, acts: []act{termAtOnce}, never: "28s SIGKILL"},
		{name: "exit at forward_by", exit: 18 * s, until: sockets.Closed, acts: []act{termAtOnce}, never: "28s SIGKILL"},
		{name: "exit at kill_at", exit: 28 * s, acts: []act{termAtOnce}, never: "29s SIGKILL"},
		{name: "exit and SIGTERM", exit: 3 * s, acts: []act{{3 * s, term}}, never: "8s SIGTERM"},
		{name: "exit and skip", exit: 3 * s, acts: []act{termAtOnce, {3 * s, SigSkip}}, never: "28s SIGKILL"},
		{name: "exit and a verdict", exit: 7 * s, until: sockets.Idle, acts: []act{termAtOnce, {7 * s, met}}, never: "28s SIGKILL"},
		{name: "the last orphan's exit at the end of ORPHAN_GRACE", world: setup{orphans: []process{{after: 5 * s}}},
			exit: 2 * s, acts: nil, never: "8s SIGKILL to the rest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 100 {
				synctest.Test(t, func(t *testing.T) {
					c.world.child.stubborn = true
					w := newWorld(c.world)
					if c.until != "" {
						w.options.Until = c.until
					}
					w.holdUp = 2 * s
					due := c.exit
					if len(c.world.orphans) > 0 {
						due += 5 * s
					}
					go w.perform([]act{{due - s, unix.SIGUSR1}})
					time.AfterFunc(c.exit, func() { w.changes(childPID, exitedWith(7)) })
					if got := w.run(c.acts).Code; got != 7 {
						t.Errorf("code %d, want 7", got)
					}
					if slices.Contains(w.record, c.never) {
						t.Errorf("got %q in %q", c.never, w.record)
					}
					if got := w.now(); got != due+s {
						t.Errorf("over after %s, want %s", got, due+s)
					}
				})
				if t.Failed() {
					return
				}
			}
		})
	}
}

// TestHeldUp: a drainit that was paused past its deadlines gives the child a
// moment between the signal and SIGKILL.
func TestHeldUp(t *testing.T) {
	for _, c := range []struct {
		name  string
		world setup
		pause time.Duration
		want  []string
	}{
		{"past kill_at: half a second", setup{child: process{stubborn: true}}, 40 * s,
			[]string{"1s SIGUSR1", "41s SIGTERM", "41s watch rarely", "41.5s SIGKILL to the rest", "41.5s SIGKILL", "41.5s end 137"}},
		{"which suffices for some", setup{child: process{after: 300 * time.Millisecond}}, 40 * s,
			[]string{"1s SIGUSR1", "41s SIGTERM", "41s watch rarely", "41.3s end 0"}},
		{"just past kill_at: what the margin still holds", setup{child: process{stubborn: true}}, 28 * s,
			[]string{"1s SIGUSR1", "29s SIGTERM", "29s watch rarely", "30s SIGKILL to the rest", "30s SIGKILL", "30s end 137"}},
		{"past forward_by alone: until the end of the budget", setup{child: process{stubborn: true}}, 20 * s,
			[]string{"1s SIGUSR1", "21s SIGTERM", "21s watch rarely", "30s SIGKILL to the rest", "30s SIGKILL", "30s end 137"}},
		{"what a script leaves behind has its moment too", setup{orphans: []process{{stubborn: true}}}, 40 * s,
			[]string{"1s SIGUSR1", "41s SIGTERM", "41s watch rarely", "41s SIGTERM to the rest", "41.5s SIGKILL to the rest", "41.5s end 0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(c.world)
				w.holdUp = c.pause
				w.run([]act{termAtOnce, {s, unix.SIGUSR1}})
				compare(t, w.record, c.want)
			})
		})
	}
}

// TestDenied: a child that can't be signalled is known at the first ready, and
// the last words say what failed.
func TestDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(setup{child: process{stubborn: true}, denied: true})
		var log strings.Builder
		w.options.Log = slog.New(slog.NewTextHandler(&log, nil))
		got := w.run([]act{readyAtOnce, {s, func() {
			if !strings.Contains(log.String(), "level=WARN msg=\"the child can't be signalled") {
				t.Errorf("no warning once ready: %s", &log)
			}
		}}, {2 * s, term}}).LastWords
		for _, want := range []string{"SIGTERM could not be sent", "SIGKILL could not be sent at the deadline", "CAP_KILL"} {
			if !strings.Contains(got, want) {
				t.Errorf("got %q, want %q in it", got, want)
			}
		}
		for _, untrue := range []string{"stop signal forwarded", " killed=", " sent=", "killed at the deadline", "everything that is left", "on SIGKILL"} {
			if strings.Contains(log.String(), untrue) {
				t.Errorf("the log says %q: %s", untrue, &log)
			}
		}
	})
}

// TestDeniedStatus: /statusz and /metrics count no signal that was not sent,
// and the last words blame none for the end of the child.
func TestDeniedStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(setup{child: process{stubborn: true}, denied: true})
		w.run([]act{readyAtOnce, {s, unix.SIGQUIT}, {2 * s, term}, {9 * s, func() {
			got := w.ask()
			if got.Stop.Forwarded != nil || !strings.Contains(got.Stop.Error, "not permitted") {
				t.Errorf("forwarded at %v, error %q", got.Stop.Forwarded, got.Stop.Error)
			}
			for name, c := range got.Signals {
				if c.Forwarded != 0 {
					t.Errorf("%s: %d forwarded", name, c.Forwarded)
				}
			}
		}}})
		w = newWorld(setup{denied: true})
		got := w.run([]act{readyAtOnce, {s, unix.SIGQUIT}, {2 * s, exitedWith(0)}}).LastWords
		if strings.Contains(got, "had forwarded") {
			t.Errorf("got %q, but nothing was", got)
		}
	})
}

// TestDeniedOrphans: what the child has left behind and can't be signalled is
// named as that, at its end, at the deadline and in the last words.
func TestDeniedOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(setup{orphans: []process{{}}, denied: true})
		var log strings.Builder
		w.options.Log = slog.New(slog.NewTextHandler(&log, nil))
		got := w.run([]act{readyAtOnce, {s, exitedWith(0)}}).LastWords
		want := "could not be sent SIGKILL 5s later, at the end of DRAINIT_ORPHAN_GRACE: server (pid 101)"
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
		for _, untrue := range []string{" signal=", "kill_after=", " killed=", "got SIGKILL", "everything that is left", "on SIGKILL"} {
			if strings.Contains(log.String(), untrue) {
				t.Errorf("the log says %q: %s", untrue, &log)
			}
		}
	})
}

// TestLevels: a stop in which something was cut is a warning, and no other.
func TestLevels(t *testing.T) {
	busy := sockets.Verdict{Met: true, Known: true, Open: 2, InFlight: 2}
	idle := sockets.Verdict{Met: true, Known: true}
	for _, c := range []struct {
		name  string
		world setup
		acts  []act
		want  string // in the log
		warns bool
	}{
		{"a clean stop", setup{}, []act{readyAtOnce, {s, term}, {2 * s, idle}}, "level=INFO msg=stopped", false},
		{"requests in flight at the signal", setup{}, []act{readyAtOnce, {s, term}, {2 * s, busy}}, "DRAINIT_DRAIN_UNTIL=idle", true},
		{"killed", setup{child: process{stubborn: true}}, []act{termAtOnce}, "level=WARN msg=stopped", true},
		{"what it left behind was killed", setup{orphans: []process{{stubborn: true}}}, []act{termAtOnce}, "level=WARN msg=stopped", true},
		{"a server that daemonises", setup{orphans: []process{{}}}, []act{{s, exitedWith(0)}}, "foreground", true},
		{"an end with code 0", setup{}, []act{{s, exitedWith(0)}}, "", false},
		{"an end with another code", setup{}, []act{{s, exitedWith(3)}}, "level=INFO msg=ended code=3", false},
		{"a crash", setup{}, []act{{s, killedBy(unix.SIGSEGV)}}, "level=WARN msg=ended", true},
		{"a crash while draining", setup{}, []act{readyAtOnce, {s, term}, {2 * s, killedBy(unix.SIGSEGV)}}, "level=WARN msg=stopped", true},
		{"a crash after the signal", setup{child: process{stubborn: true}}, []act{termAtOnce, {8 * s, killedBy(unix.SIGKILL)}}, "level=WARN msg=stopped", true},
		{"an end by the stop signal, from the terminal", setup{}, []act{readyAtOnce, {s, term}, {2 * s, killedBy(unix.SIGTERM)}}, "level=INFO msg=stopped", false},
		{"a STOPSIGNAL that is not in STOP_ON", setup{child: process{on: unix.SIGQUIT}}, []act{readyAtOnce, {s, unix.SIGQUIT}}, "DRAINIT_STOP_ON", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(c.world)
				var log strings.Builder
				w.options.Log = slog.New(slog.NewTextHandler(&log, nil))
				w.run(c.acts)
				if !strings.Contains(log.String(), c.want) {
					t.Errorf("no %q in the log:\n%s", c.want, &log)
				}
				if got := strings.Contains(log.String(), "level=WARN"); got != c.warns {
					t.Errorf("warns: %v, want %v:\n%s", got, c.warns, &log)
				}
			})
		})
	}
}

// TestPanics: a bug costs the event it happened in, never the run.
func TestPanics(t *testing.T) {
	for _, c := range []struct {
		name   string
		world  setup
		acts   []act
		code   int
		within time.Duration // the run, give or take the pauses that follow a panic
	}{
		{"the child's exit is still reported", setup{panics: -1}, []act{{0, unix.SIGUSR1}, {s, unix.SIGHUP}, {2 * s, exitedWith(5)}}, 5, 2 * s},
		{"and that of one that was to be stopped", setup{panics: -1}, []act{termAtOnce, {8 * s, exitedWith(5)}}, 5, 8 * s},
		{"a child that can't be signalled is killed at kill_at", setup{panics: -1}, []act{readyAtOnce, termAtOnce}, 137, 28 * s},
		{"a signal that panicked once is gone, the next is not", setup{panics: 1}, []act{{0, unix.SIGUSR1}, {s, term}}, 0, 6 * s},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(c.world)
				time.AfterFunc(time.Minute, func() { w.changes(childPID, exitedWith(99)) })
				if got := w.run(c.acts).Code; got != c.code {
					t.Errorf("code %d, want %d; %q", got, c.code, w.record)
				}
				if got := w.now(); got < c.within || got > c.within+s/2 {
					t.Errorf("over after %s, want about %s; %q", got, c.within, w.record)
				}
				if w.options.Gate.Get().Ready {
					t.Error("the gate is ready at the end")
				}
			})
		})
	}
}

// TestIdle: while there is nothing to wait for no timer is armed, so that an
// idle container costs nothing.
func TestIdle(t *testing.T) {
	for _, c := range []struct {
		name string
		acts []act
	}{
		{"starting", nil},
		{"ready", []act{readyAtOnce}},
		{"unready", []act{readyAtOnce, {s, unready}}},
		{"drained", []act{readyAtOnce, {s, SigDrain}}},
		{"with a status from the child", []act{readyAtOnce, {s, notify.Message{HasStatus: true, Status: "x", ExtendTimeout: s, Watchdog: true}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(setup{})
				w.run(append(c.acts, act{time.Hour, exitedWith(0)}))
				// One look unasked, one step for each act and one for the exit.
				if want := len(c.acts) + 2; w.steps != want {
					t.Errorf("%d steps in an hour, want %d", w.steps, want)
				}
			})
		})
	}
}

func TestPrestopIsIdleOnceDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(setup{})
		w.run([]act{{0, SigPrestop}})
		// A look, the signal, the end of UNREADY_DELAY, the window, forward_by,
		// the exit.
		if w.steps > 6 {
			t.Errorf("%d steps, want at most 6", w.steps)
		}
	})
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(setup{child: process{stubborn: true}, orphans: []process{{}}})
		o := &w.options
		o.Until = sockets.Idle
		o.Config = map[string]string{"DRAINIT_GRACE_PERIOD": "30s"}
		o.LogDropped = func() uint64 { return 4 }
		o.NotifyRefusals = func() health.Notify { return health.Notify{Malformed: 5, Foreign: 6} }
		check := func(what string, got, want any) {
			t.Helper()
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("at %s: %s is %v, want %v", w.now(), what, got, want)
			}
		}
		look := func(phase string, more func(health.Status)) func() {
			return func() {
				got := w.ask()
				check("phase", got.Phase, phase)
				check("ready", got.Ready, phase == "ready")
				check("child's pid", got.ChildPID, childPID)
				check("pid", got.PID, os.Getpid())
				check("uptime", got.Uptime, w.now().Seconds())
				check("dropped", got.Dropped, 4)
				check("refused", *got.Notify, health.Notify{Malformed: 5, Foreign: 6})
				check("config", got.Config, o.Config)
				check("order", got.Order, Phases)
				check("stop", got.Stop != nil, w.now() >= 20*s)
				sum := 0.0
				for _, spent := range got.Phases {
					sum += spent
				}
				check("sum of the phases", sum, w.now().Seconds())
				if more != nil {
					more(got)
				}
			}
		}
		w.run([]act{
			{s, look("starting", func(got health.Status) { check("reason is told", got.Reason != "", true) })},
			{2 * s, ready},
			{3 * s, look("ready", func(got health.Status) { check("since", got.Since, w.start.Add(2*s)) })},
			{4 * s, SigDrain},
			{5 * s, look("unready", func(got health.Status) { check("held", got.Drained, true) })},
			{6 * s, SigUndrain},
			{6 * s, unix.SIGHUP},
			{7 * s, notify.Message{HasStatus: true, Status: "fine"}},
			{8 * s, look("ready", func(got health.Status) {
				check("status", got.Text, "fine")
				check("SIGHUP", got.Signals["SIGHUP"], health.Count{Seen: 1, Forwarded: 1})
			})},
			{20 * s, term},
			{22 * s, waiting},
			{23 * s, look("draining", func(got health.Status) {
				check("t0", got.Stop.T0, w.start.Add(20*s))
				check("forward_by", got.Stop.ForwardBy, w.start.Add(38*s))
				check("kill_at", got.Stop.KillAt, w.start.Add(48*s))
				check("asked by", got.Stop.AskedBy, "SIGTERM")
				check("may forward", got.Stop.MayForward, false)
				check("forwarded", got.Stop.Forwarded == nil, true)
				check("waiting for", got.Stop.WaitingFor, "1 request")
				check("clients", *got.Clients, health.Clients{Known: true, Open: 3, InFlight: 1})
				check("SIGTERM", got.Signals["SIGTERM"], health.Count{Seen: 1})
			})},
			{27 * s, met},
			{28 * s, look("stopping", func(got health.Status) {
				check("may forward", got.Stop.MayForward, true)
				check("forwarded", *got.Stop.Forwarded, w.start.Add(27*s))
				check("why", got.Stop.Why, "idle")
				check("signal", got.Stop.Signal, "SIGTERM")
				check("SIGTERM", got.Signals["SIGTERM"], health.Count{Seen: 1, Forwarded: 1})
				check("draining took", got.Phases["draining"], 7)
			})},
		})
	})
}

func TestStatusOfPrestop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(setup{child: process{immortal: true}})
		var got []bool
		look := func() { got = append(got, w.ask().Stop.MayForward) }
		last := ""
		w.run([]act{{0, SigPrestop}, {4 * s, look}, {5*s + 1, look}, {20 * s, look}, {28*s + s/2, func() { last = w.ask().Phase }}})
		if want := []bool{false, true, true}; !slices.Equal(got, want) {
			t.Errorf("may forward: %v, want %v", got, want)
		}
		if last != "killing" {
			t.Errorf("the last phase is %s, want killing", last)
		}
	})
}

// TestLastWordsOfARun: what a run records reaches the last words.
func TestLastWordsOfARun(t *testing.T) {
	kills := uint64(3)
	oom := func(o *Options) { o.OOMKills = func() (uint64, error) { kills++; return kills, nil } }
	for _, c := range []struct {
		name    string
		world   setup
		options func(*Options)
		acts    []act
		want    []string
	}{
		{"out of memory", setup{}, oom, []act{{3 * s, killedBy(unix.SIGKILL)}}, []string{"killed by SIGKILL", "out of memory"}},
		{"at the deadline", setup{child: process{stubborn: true}, orphans: []process{{stubborn: true}}}, nil, []act{termAtOnce},
			[]string{"killed at the deadline", "server (pid 100), server (pid 101)"}},
		{"orphans killed", setup{orphans: []process{{stubborn: true}}}, nil, []act{{s, exitedWith(0)}},
			[]string{"exited with code 0", "processes it left behind got SIGKILL 5s later, at the end of DRAINIT_ORPHAN_GRACE: server (pid 101)"}},
		{"with a status", setup{}, nil, []act{{0, notify.Message{HasStatus: true, Status: "busy"}}, {s, exitedWith(3)}}, []string{"busy"}},
		{"by prestop", setup{}, nil, []act{{0, SigPrestop}, {6 * s, term}}, []string{"asked to stop by prestop", "finished in 6s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(c.world)
				if c.options != nil {
					c.options(&w.options)
				}
				got := w.run(c.acts).LastWords
				for _, want := range c.want {
					if !strings.Contains(got, want) {
						t.Errorf("got %q, want %q in it", got, want)
					}
				}
			})
		})
	}
}

// TestRun is Run itself, whose body the other tests drive step by step: it
// calls Began once and lets the watcher go.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(setup{child: process{after: 2 * s}})
		began := 0
		w.options.OnStop = func() { began++ }
		w.options.Until = sockets.Quiet
		go w.perform([]act{termAtOnce, {2 * s, term}, {7 * s, met}})
		o := Run(w.options)
		close(w.done)
		if o.Code != 0 || began != 1 || w.now() != 9*s {
			t.Errorf("code %d, began %d times, over after %s; want 0, once, 9s", o.Code, began, w.now())
		}
		// A watcher that was not let go would deadlock the bubble.
	})
}

var seeds = flag.Int("seeds", 3000, "how many random runs TestAnything makes")

// TestAnything runs random events against what holds whatever happens.
func TestAnything(t *testing.T) {
	if testing.Short() {
		*seeds = min(*seeds, 300)
	}
	for seed := range *seeds {
		synctest.Test(t, func(t *testing.T) { anything(t, uint64(seed)) })
		if t.Failed() {
			return
		}
	}
}

func anything(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	upTo := func(d time.Duration) time.Duration { // in halves of a second, for ties
		return time.Duration(r.Int64N(int64(2*d/s)+1)) * s / 2
	}
	often := func(percent int) bool { return r.IntN(100) < percent }
	some := func() process {
		return process{after: upTo(20 * s), stubborn: often(40), status: exitedWith(r.IntN(256))}
	}
	w := newWorld(setup{child: some(), terminal: often(5)})
	for range r.IntN(3) {
		w.orphans = append(w.orphans, some())
		w.alive[childPID+len(w.orphans)] = w.orphans[len(w.orphans)-1]
	}
	o := &w.options
	o.Until = []sockets.Until{sockets.Window, sockets.Quiet, sockets.Idle, sockets.Closed}[r.IntN(4)]
	o.NotifyReady = often(20)
	o.Timeline.UnreadyDelay = []time.Duration{0, 0, 3 * s}[r.IntN(3)]
	if often(20) {
		o.Timeline.OrphanGrace = 0
	}
	if often(20) {
		o.Watchdog = 3 * s
	}
	var acts []act
	t0, early := time.Duration(-1), false
	for at := time.Duration(0); len(acts) < 40; at += upTo(2 * s) {
		var what any
		switch r.IntN(14) {
		case 0:
			what = term
		case 1:
			what = SigPrestop
		case 2:
			what = unix.SIGINT
		case 3:
			what = []unix.Signal{SigDrain, SigUndrain}[r.IntN(2)]
		case 4:
			what = unix.SIGHUP
		case 5, 6:
			what = ready
		case 7:
			what = unready
		case 8:
			what = notify.Message{Ready: often(50), Reloading: often(20), Watchdog: often(50), WatchdogTrigger: often(10)}
		case 9:
			what = notify.Message{ExtendTimeout: upTo(20 * s)}
		case 10, 11:
			what = []sockets.Verdict{met, waiting, waiting, blind, {Waiting: gone}}[r.IntN(5)]
		case 12:
			what = []unix.WaitStatus{stoppedBy(unix.SIGTSTP), continued}[r.IntN(2)]
		case 13:
			if !often(20) {
				continue
			}
			what = SigSkip
		}
		if _, ok := what.(sockets.Verdict); ok && (t0 < 0 || o.Until == sockets.Window) {
			continue // nothing watches yet
		}
		acts = append(acts, act{at, what})
		if t0 < 0 && (what == term || what == unix.SIGINT || what == SigPrestop) {
			t0 = at
		}
		early = early || t0 >= 0 && (what == SigSkip || w.terminal && what == unix.SIGINT)
	}
	var code int // of the child's own exit
	own := false
	if often(40) {
		own, code = true, r.IntN(256)
		time.AfterFunc(upTo(60*s), func() { w.changes(childPID, exitedWith(code)) })
	}
	if t0 < 0 {
		acts = append(acts, act{200 * s, term})
		t0 = 200 * s
	}
	// Verdicts that are not taken any more must not hold up the others: that the
	// run ends is one of the things to see.
	giveUp := time.AfterFunc(1000*s, func() { panic(fmt.Sprintf("seed %d: the run does not end: %q", seed, w.record)) })
	got := w.run(acts)
	giveUp.Stop()

	bad := func(what string, a ...any) {
		t.Helper()
		t.Errorf("seed %d: "+what+"\n\t%v\n\t%q", append(append([]any{seed}, a...), acts, w.record)...)
	}
	instant := func(what string) time.Duration {
		for _, l := range w.record {
			if at, rest, _ := strings.Cut(l, " "); rest == what {
				d, _ := time.ParseDuration(at)
				return d
			}
		}
		return -1
	}
	forwarded, killed, end := instant("watch rarely"), instant("SIGKILL"), w.now()
	window, by, kill := t0+5*s, t0+18*s, t0+28*s
	if forwarded >= 0 && forwarded < window && !early {
		bad("forwarded at %s, before the window's end at %s", forwarded, window)
	}
	if forwarded > by {
		bad("forwarded at %s, after forward_by at %s", forwarded, by)
	}
	if forwarded < 0 && end > by && w.exited > by { // what exits in that very instant needs no signal
		bad("not forwarded by %s", by)
	}
	if killed >= 0 && killed != kill {
		bad("killed at %s, not at %s", killed, kill)
	}
	if end > kill+s && t0 <= w.exited {
		bad("over at %s, after kill_at at %s", end, kill)
	}
	for _, l := range w.record {
		at, what, _ := strings.Cut(l, " ")
		d, _ := time.ParseDuration(at)
		if what == "ready" && d > t0 || what == "not ready" && d > t0+o.Timeline.UnreadyDelay {
			bad("%s: the gate is ready after t0 at %s", l, t0)
		}
	}
	want := map[int]bool{w.child.status.ExitStatus(): true}
	if own {
		want[code] = true
	}
	if killed >= 0 && w.exited < killed {
		bad("killed at %s, although it had exited at %s", killed, w.exited)
	} else if killed >= 0 && w.died {
		want = map[int]bool{137: true} // and not if it exited in that very instant
	}
	if !want[got.Code] {
		bad("code %d, want one of %v", got.Code, want)
	}
}
