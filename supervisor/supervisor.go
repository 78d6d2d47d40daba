// Package supervisor runs one child from its start to its end without losing
// a request of its clients.
//
//	t0 stop signal ── not ready (503), still serving ──► forward ── child finishes ──► exit with its code
//	   │◄──────── window ────────►│◄── extended while ──►│◄──────── grace ─────────►│
//	   │                          │  clients are busy    │                          SIGKILL at kill_at
//	   0                     DRAIN_WINDOW            forward_by            GRACE_PERIOD − KILL_MARGIN
//
// One goroutine, the loop in Run, owns the phase, the timer and wait4.
// Everything else (signals, readiness checks, the notify socket, the counting
// of clients, HTTP) reaches it over channels and decides nothing. So a PID is
// signalled and reaped by the same goroutine and cannot be reused in between,
// no lock is needed, and the timeline reads from top to bottom:
//
//	signals ─┐                          ┌─ gate: ready or not ──► health
//	exits ───┼─► loop ─► phase.next ─►──┼─ system: signal, kill
//	timer ───┤    └─ system.Reap()      ├─ log: one line per transition
//	clients ─┘                          └─ Outcome: the code to exit with
//
// Where to look:
//
//	supervisor.go  what a run is given, the loop, the transitions
//	phase.go       the phases, and what each event does in each
//	alarms.go      everything that happens because time has passed
//	signals.go     what each signal drainit receives means
//	stop.go        t0, forwarding, SIGKILL
//	clients.go     what is known of the child's clients, and the wait for them
//	readiness.go   whether the container is ready
//	watchdog.go    whether it is alive: the watchdog and LIVE_CHECK
//	upstream.go    what the service manager above drainit is told
//	child.go       exits, job control, what the child leaves behind
//	process.go     starting and signalling processes; lookup.go finds the command,
//	               trace.go lets one go on that asks to be traced
//	lastwords.go   the summary and the termination message
//	status.go      /statusz and /metrics
//
// The invariant: from the first stop signal on, whatever fails or never comes,
// the child is signalled by forward_by and killed at kill_at, and its exit
// ends every wait at once.
package supervisor

import (
	"log/slog"
	"time"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/internal/bug"
	"github.com/drainit/drainit/internal/proc"
	"github.com/drainit/drainit/notify"
	"github.com/drainit/drainit/reaper"
	"github.com/drainit/drainit/sockets"
	"golang.org/x/sys/unix"
)

// System is what the loop needs of the operating system. Only the loop calls
// it, so that signalling and reaping never race. No method blocks.
type System interface {
	// PID returns the child's PID.
	PID() int
	// FirstPID returns the PID of the process that was started: the child,
	// until a successor takes over.
	FirstPID() int
	// SetMain makes another descendant the child. It returns an error for a
	// process that does not descend from drainit.
	SetMain(pid int) error
	// MainAlive reports whether such a successor still runs.
	MainAlive() bool
	// Signal sends sig to the child, or to its process group if that is the
	// scope. It is not an error if the child has ended.
	Signal(sig unix.Signal) error
	// CheckSignal returns an error if the child can't be signalled.
	CheckSignal() error
	// SignalOthers sends sig to every process that is left but drainit itself,
	// or only to those outside the child's process group.
	SignalOthers(sig unix.Signal, outsideGroup bool)
	// Others returns the living processes that are left. The error is not nil
	// if they can't be listed.
	Others() ([]Other, error)
	// Reap collects exits, appending to its argument.
	Reap([]reaper.Exit) ([]reaper.Exit, reaper.State)
	// Detach lets a child go on that sig has stopped because it asked to be
	// traced. It reports whether that was the cause.
	Detach(pid int, sig unix.Signal) bool
	// Terminal reports whether the child was given a terminal's foreground.
	Terminal() bool
	// Suspend hands the terminal back to what started drainit, after signal by
	// has stopped the child's group.
	Suspend(by unix.Signal)
	// Resume gives the terminal to the child again after SIGCONT.
	Resume()
}

// Clients watches the child's clients, from t0 on.
type Clients interface {
	// Watch reports until done is closed, and then closes the channel.
	Watch(done <-chan struct{}, until sockets.Until) <-chan sockets.Verdict
	// Serving returns what clients can reach the child by. An error means that
	// some of it may be missing.
	Serving() (sockets.Serving, error)
	// Relax makes Watch look rarely: the signal has been forwarded.
	Relax()
}

// Other is a living process besides drainit.
type Other struct {
	proc.Process
	Denied bool // drainit may not signal it
}

// Policy is what the configuration says about a run.
type Policy struct {
	Timeline    Timeline
	Until       sockets.Until               // what a stop waits for besides the window
	WindowSet   bool                        // DRAIN_WINDOW is set: it holds without clients too
	StopOn      []unix.Signal               // signals that begin a stop
	StopSignal  unix.Signal                 // what the child is sent; 0: the one received
	DrainSignal unix.Signal                 // sent at t0; 0: none
	Group       bool                        // signals go to the child's whole process group
	SignalMap   map[unix.Signal]unix.Signal // rewrites other signals; 0: not forwarded
	ExitCodes   map[int]int                 // remaps the child's exit code
	NotifyReady bool                        // READY=1 decides readiness, not the check
	Watchdog    time.Duration               // longest interval between two WATCHDOG=1; 0: none
}

// Inputs are the events a run reacts to. A nil channel never delivers any.
type Inputs struct {
	Signals        <-chan unix.Signal
	Children       <-chan struct{} // SIGCHLD: capacity 1, edges may merge
	Readiness      <-chan health.Result
	Liveness       <-chan health.Result // DRAINIT_LIVE_CHECK
	Notifications  <-chan notify.Message
	StatusRequests <-chan chan<- health.Status
}

// Options is everything one run needs.
type Options struct {
	Policy
	Inputs

	System   System
	Clients  Clients // may be nil with sockets.Window
	Gate     *health.Gate
	Upstream Upstream // may be nil
	OnStop   func()   // called once, at t0; may be nil
	Log      *slog.Logger

	// What /statusz and the last words report besides. All may be nil.
	Command        string // the command's first word, for hints
	Config         map[string]string
	LogDropped     func() uint64
	NotifyRefusals func() health.Notify
	OOMKills       func() (uint64, error) // the cgroup's counter
}

// Timeline is how long each part of a stop may take.
type Timeline struct {
	Grace        time.Duration // the whole budget from t0
	Window       time.Duration // never forward earlier
	Reserve      time.Duration // promised to the child after the signal
	Margin       time.Duration // SIGKILL comes this long before the budget ends
	UnreadyDelay time.Duration // keep answering ready this long after t0
	OrphanGrace  time.Duration // for what the child leaves behind; 0: nothing
	// OrphanGraceSet makes OrphanGrace bound the wait during a stop as well.
	// Otherwise what the child leaves behind then has until kill_at.
	OrphanGraceSet bool
}

// KillAfter returns the time from t0 to SIGKILL.
func (t Timeline) KillAfter() time.Duration { return t.Grace - t.Margin }

// ForwardAfter returns the time from t0 to the latest instant of the signal.
func (t Timeline) ForwardAfter() time.Duration {
	return t.KillAfter() - t.Reserve
}

// Outcome is how a run ended.
type Outcome struct {
	Code      int    // to exit with
	LastWords string // why it ended: one line of at most 4096 bytes
}

// loop is the state of a run. Only Run's goroutine touches it.
type loop struct {
	Options
	phase     Phase
	times     phaseTimes
	child     child
	readiness readiness
	watchdog  watchdog
	liveness  health.Result // of the latest LIVE_CHECK that was sent
	stop      stop
	clients   clientWatch
	announced announcement
	published health.Answer // what the gate says; nothing is decided by it

	counts      map[unix.Signal]*health.Count
	reaped      uint64
	exits       []reaper.Exit // reused
	due         []alarm       // reused
	timer       *time.Timer
	again       chan struct{} // reap once more, without waiting for SIGCHLD
	warnedOfUID bool
	hinted      bool // about a signal that may be the image's STOPSIGNAL
	panics      int
}

// Run supervises the child that o.System has started until it and what it
// left behind are gone.
func Run(o Options) Outcome {
	l := newLoop(o)
	defer l.close()
	for !l.step() {
	}
	return l.finish()
}

func newLoop(o Options) *loop {
	l := &loop{
		Options:   o,
		times:     startTimes(time.Now()),
		child:     child{oom: startOOMCount(o.OOMKills)},
		readiness: readiness{byNotify: o.NotifyReady},
		watchdog:  watchdog{enabled: o.Watchdog > 0, every: o.Watchdog},
		liveness:  health.Result{OK: true},
		counts:    make(map[unix.Signal]*health.Count),
		timer:     time.NewTimer(time.Hour),
		again:     make(chan struct{}, 1),
	}
	l.publish()
	// The child may have exited before the loop started: reap once
	// unconditionally.
	l.reapAgain()
	return l
}

// close releases what a run holds.
func (l *loop) close() {
	l.timer.Stop()
	l.clients.stop()
}

// step waits for one event, handles it, and reports whether the run is over.
// An unrecovered panic in PID 1 would end every process in the container, so a
// panic costs the event it happened in and no more.
func (l *loop) step() (done bool) {
	defer func() {
		if p := recover(); p != nil {
			done = l.onPanic(p)
		}
	}()
	l.arm()
	select {
	case sig := <-l.Signals:
		l.onSignal(sig)
	case <-l.Children:
		l.reap()
	case <-l.again:
		l.reap()
	case <-l.timer.C:
	case r := <-l.Readiness:
		l.onReadiness(r)
	case r := <-l.Liveness:
		l.onLiveness(r)
	case m := <-l.Notifications:
		l.onNotification(m)
	case s := <-l.clients.serving:
		l.onServing(s)
	case v, ok := <-l.clients.verdicts:
		l.onVerdict(v, ok)
	case answer := <-l.StatusRequests:
		answer <- l.status() // has room for one
	}
	l.fireDue(time.Now())
	return l.done()
}

// onPanic keeps a bug from ending the container, and from spinning.
func (l *loop) onPanic(p any) bool {
	if l.panics++; l.panics <= 3 {
		bug.Report(l.Log, "the loop", p)
	}
	time.Sleep(time.Duration(min(l.panics, 100)) * time.Millisecond)
	l.reapAgain() // the event that was lost may have been an exit
	return l.child.exited && l.panics > 100
}

// transition feeds e to the state machine and carries out what entering the
// new phase means. It is never called from within itself.
func (l *loop) transition(e event) {
	next := l.phase.next(e)
	if next == l.phase {
		return
	}
	now := time.Now()
	l.times.leave(l.phase, now)
	l.phase = next
	switch next {
	case Ready:
		if !l.readiness.started {
			l.checkSignal()
		}
		l.readiness.started = true
		l.announce()
	case Unready:
		l.readiness.started = true
	case Draining:
		l.announceStop()
		l.sendDrainSignal()
	case Killing:
		l.kill(now)
	}
	l.publish()
}

// done reports whether there is nothing left to wait for.
func (l *loop) done() bool {
	switch {
	case l.child.exited && l.child.noProcesses:
		return true
	case l.phase == Killing:
		return l.stop.gaveUp
	}
	return l.child.exited && l.Timeline.OrphanGrace == 0
}

// finish returns the outcome, and the code alone if there is a bug in the
// words.
func (l *loop) finish() (o Outcome) {
	defer func() {
		if p := recover(); p != nil {
			bug.Report(l.Log, "the last words", p)
		}
	}()
	r := l.record(time.Now())
	o.Code = r.code()
	o.LastWords = r.lastWords()
	l.logEnd(&r)
	return o
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
