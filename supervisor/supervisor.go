// Package supervisor runs one child from its start to its end without losing
// its clients.
//
//	t0 stop signal ── not ready (503), still serving ──► forward ── child finishes ──► exit with its code
//	   │◄──────── window ────────►│◄── extended while ──►│◄──────── grace ─────────►│
//	   │                          │  clients are busy    │                          SIGKILL at kill_at
//	   0                     DRAIN_WINDOW            forward_by            GRACE_PERIOD − KILL_MARGIN
//
// One goroutine, the loop in Run, owns the phase, the timers and wait4.
// Everything else (signals, readiness checks, the notify socket, the counting
// of clients, HTTP) reaches it over channels and decides nothing. So a PID is
// signalled and reaped by the same goroutine and is never reused in between,
// no lock is needed, and the timeline reads from top to bottom:
//
//	signals ─┐                          ┌─ gate: ready or not ──► health
//	exits ───┼─► loop ─► phase.next ─►──┼─ system: signal, kill
//	timer ───┤    └─ system.Reap()      ├─ log: one line per transition
//	clients ─┘                          └─ Outcome: the code to exit with
//
// The invariant: from the first stop signal on, whatever fails or never comes,
// the child is signalled by forward_by and killed at kill_at, and its exit
// ends every wait at once.
package supervisor

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/notify"
	"github.com/drainit/drainit/reaper"
	"github.com/drainit/drainit/sockets"
	"golang.org/x/sys/unix"
)

// System is what the loop needs of the operating system. Only the loop calls
// it, so that signalling and reaping never race. No method blocks.
type System interface {
	// PID is the child's.
	PID() int
	// Signal sends sig to the child, or to its process group if that is the
	// scope. A child that is gone is no error.
	Signal(sig unix.Signal) error
	// SignalOthers sends sig to every process that is left but drainit itself.
	SignalOthers(sig unix.Signal)
	// CountOthers counts these processes, or is negative if it can't.
	CountOthers() int
	// Reap collects exits, appending to its argument.
	Reap([]reaper.Exit) ([]reaper.Exit, reaper.State)
	// Terminal says whether the child was given a terminal's foreground.
	Terminal() bool
	// Suspend is job control's other half: signal by has stopped the child's
	// group, now let whoever started drainit have the terminal back.
	Suspend(by unix.Signal)
	// Resume gives the terminal to the child again after SIGCONT.
	Resume()
}

// Clients watches the child's clients, from t0 on.
type Clients interface {
	// Watch reports until done is closed, and then closes the channel.
	Watch(done <-chan struct{}, until sockets.Until) <-chan sockets.Verdict
	// Relax makes it look rarely: the signal has been forwarded.
	Relax()
}

// Policy is what the configuration says about a run.
type Policy struct {
	Timeline    Timeline
	Until       sockets.Until               // what a stop waits for besides the window
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
	Config         map[string]string
	LogDropped     func() uint64
	NotifyRefusals func() health.Notify
	OOMKills       func() (uint64, error) // the cgroup's counter
}

// Upstream is the service manager drainit itself runs under.
type Upstream interface {
	// Send never blocks; what can't be sent is lost.
	Send(notify.Message) error
}

// Timeline is how long each part of a stop may take.
type Timeline struct {
	Grace        time.Duration // the whole budget from t0
	Window       time.Duration // never forward earlier
	Reserve      time.Duration // promised to the child after the signal
	Margin       time.Duration // SIGKILL comes this long before the budget ends
	UnreadyDelay time.Duration // keep answering ready this long after t0
	OrphanGrace  time.Duration // for what the child leaves behind; 0: nothing
}

// KillAfter is the time from t0 to SIGKILL.
func (t Timeline) KillAfter() time.Duration { return t.Grace - t.Margin }

// ForwardAfter is the time from t0 to the latest instant of the signal.
func (t Timeline) ForwardAfter() time.Duration { return t.KillAfter() - t.Reserve }

// Outcome is how a run ended.
type Outcome struct {
	Code      int    // to exit with
	LastWords string // one line for whoever asks why, at most 4096 bytes
}

// loop is the state of a run. Only Run's goroutine touches it.
type loop struct {
	Options
	phase  Phase
	since  time.Time // of the phase
	start  time.Time // of the run
	spent  [len(Phases)]time.Duration
	timer  *time.Timer
	exits  []reaper.Exit // reused
	again  chan struct{} // Reap had more
	reaped uint64
	counts map[unix.Signal]*health.Count

	// Readiness.
	check      health.Result // what the readiness check said last
	notified   bool          // READY=1 came
	declined   string        // RELOADING=1 or STOPPING=1, until the next READY=1
	held       bool          // drainit drain
	started    bool          // has been ready once
	announceAt time.Time     // when to tell Upstream again, which could not be told
	announced  bool          // to Upstream; a drain may have kept the first time from it
	text       string        // the child's last STATUS=
	logged     health.Answer // what the log was told last
	watchdog   time.Time     // when the next WATCHDOG=1 is overdue; zero: not armed
	watchEvery time.Duration
	dead       bool

	// The stop.
	t0         time.Time // zero: none
	askedBy    string
	wasReady   bool        // at t0
	prestop    bool        // begun by prestop; the stop signal has not come yet
	received   unix.Signal // the stop signal received
	passed     unix.Signal // the last other signal forwarded
	clear      bool        // the wait is over: forward as soon as asked
	holdUntil  time.Time   // EXTEND_TIMEOUT_USEC
	forwarded  time.Time
	why        string
	verdicts   <-chan sockets.Verdict
	unwatch    chan struct{}
	verdict    sockets.Verdict // the last one
	atSignal   sockets.Verdict // the one when the signal was forwarded
	nextReport time.Time       // when to say again what it waits for
	killed     time.Time
	killedLeft int
	hinted     bool

	// The child.
	stopped  bool // by job control
	exited   bool
	exitedAt time.Time
	exit     reaper.Exit
	none     bool // no child is left at all
	orphanBy time.Time
	oomStart uint64
	oomKnown bool
	panics   int
}

// Run supervises the child that o.System has started until it and what it
// left behind are gone.
func Run(o Options) Outcome {
	l := newLoop(o)
	defer l.timer.Stop()
	for !l.step() {
	}
	if l.unwatch != nil {
		close(l.unwatch)
	}
	return l.end()
}

// end is the outcome, and the code alone if there is a bug in the words.
func (l *loop) end() (o Outcome) {
	defer func() {
		if p := recover(); p != nil {
			l.Log.Error("internal error, please report it", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	o.Code = l.code()
	o.LastWords = l.outcome(o.Code)
	return o
}

func newLoop(o Options) *loop {
	now := time.Now()
	l := &loop{
		Options: o, phase: Starting, since: now, start: now,
		timer:  time.NewTimer(time.Hour),
		again:  make(chan struct{}, 1),
		counts: make(map[unix.Signal]*health.Count),
	}
	if o.OOMKills != nil {
		n, err := o.OOMKills()
		l.oomStart, l.oomKnown = n, err == nil
	}
	l.watchEvery = o.Watchdog
	l.tell()
	// The child may have exited before anybody listened: look once unasked.
	l.again <- struct{}{}
	return l
}

// step waits for one event, deals with it, and says whether the run is over.
// An unrecovered panic in PID 1 would take every process in the container with
// it, so one costs the event it happened in and no more.
func (l *loop) step() (done bool) {
	defer func() {
		if p := recover(); p != nil {
			done = l.panicked(p)
		}
	}()
	l.arm()
	select {
	case sig := <-l.Signals:
		l.signal(sig)
	case <-l.Children:
		l.reap()
	case <-l.again:
		l.reap()
	case <-l.timer.C:
	case r := <-l.Readiness:
		l.checkedBy(r)
	case m := <-l.Notifications:
		l.notice(m)
	case v, ok := <-l.verdicts:
		l.counted(v, ok)
	case ask := <-l.StatusRequests:
		ask <- l.status() // has room for one
	}
	l.expire(time.Now())
	return l.done()
}

// panicked keeps a bug from ending the container, and from spinning.
func (l *loop) panicked(p any) bool {
	if l.panics++; l.panics <= 3 {
		l.Log.Error("internal error, please report it", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
	time.Sleep(time.Duration(min(l.panics, 100)) * time.Millisecond)
	l.lookAgain() // the event that was lost may have been an exit
	return l.exited && l.panics > 100
}

// transition feeds e to the state machine and carries out what entering the
// new phase means.
func (l *loop) transition(e event) {
	now := time.Now()
	old := l.phase
	l.phase = old.next(e)
	if l.phase == old {
		return
	}
	l.spent[old] += now.Sub(l.since)
	l.since = now
	switch l.phase {
	case Ready:
		l.started = true
		l.announce()
	case Unready:
		l.started = true
	case Draining:
		if l.Upstream != nil {
			l.Upstream.Send(notify.Message{Stopping: true})
		}
		l.sendDrainSignal()
	case Killing:
		l.kill(now)
	}
	l.tell()
}

// arm sets the one timer to the nearest instant at which something is due.
func (l *loop) arm() {
	var due time.Time
	for _, t := range l.deadlines() {
		if !t.IsZero() && (due.IsZero() || t.Before(due)) {
			due = t
		}
	}
	if due.IsZero() {
		l.timer.Stop() // idle: no wake-up at all
		return
	}
	l.timer.Reset(time.Until(due))
}

// deadlines is every instant that expire acts on and that has not passed into
// the phase it leads to. Zero is never.
func (l *loop) deadlines() (all [6]time.Time) {
	if !l.dead {
		all[0] = l.watchdog
	}
	if l.phase == Ready {
		all[5] = l.announceAt
	}
	switch {
	case l.phase == Killing:
		all[1] = l.giveUpAt()
	case l.exited:
		all[1] = l.orphanBy
	case l.phase == Draining:
		all[1] = l.forwardBy()
		if !l.clear {
			all[2] = l.clearAt()
			all[3] = l.nextReport
		}
		all[4] = l.unreadyAt()
	case l.phase == Stopping:
		all[1] = l.killAt()
		all[4] = l.unreadyAt()
	}
	return all
}

// expire does what is due. It is called after every event, so a timer that
// fires together with something else loses nothing, whichever came first.
func (l *loop) expire(now time.Time) {
	due := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	if due(l.watchdog) && !l.dead {
		l.missedWatchdog(fmt.Sprintf("no WATCHDOG=1 for %s", round(l.watchEvery)))
	}
	if l.phase == Ready && due(l.announceAt) {
		l.announce()
	}
	if l.logged.Ready && l.phase >= Draining && due(l.unreadyAt()) {
		l.tell()
	}
	if l.phase == Draining {
		l.drained(now)
	}
	if l.phase == Stopping && !l.exited && due(l.killAt()) || l.exited && due(l.orphanBy) {
		// What has exited by now needs no SIGKILL, and is not to be reported
		// as if it had.
		l.reap()
		if !l.none {
			l.transition(killDue)
		}
	}
}

// done says whether there is nothing left to wait for.
func (l *loop) done() bool {
	switch {
	case l.exited && l.none:
		return true
	case l.phase == Killing:
		return !time.Now().Before(l.giveUpAt())
	}
	return l.exited && l.Timeline.OrphanGrace == 0
}

// reap collects exits and notices what became of the child.
func (l *loop) reap() {
	var state reaper.State
	l.exits, state = l.System.Reap(l.exits[:0])
	for _, e := range l.exits {
		if !e.Ended() {
			l.jobControl(e)
			continue
		}
		l.reaped++
		if e.PID == l.System.PID() && !l.exited {
			l.exited, l.exitedAt, l.exit = true, time.Now(), e
			l.watchdog = time.Time{}
		} else {
			l.Log.Debug("reaped", "pid", e.PID, "status", describe(e))
		}
	}
	l.none = state == reaper.None
	if state == reaper.More {
		l.lookAgain()
	}
	if l.exited && l.phase < Killing {
		l.leave()
	}
	if l.phase == Killing && !l.none && len(l.exits) > 0 {
		// Orphans of the dead have come to us, or were forked meanwhile.
		l.System.SignalOthers(unix.SIGKILL)
	}
}

// lookAgain has the loop reap once more without waiting for SIGCHLD.
func (l *loop) lookAgain() {
	select {
	case l.again <- struct{}{}:
	default:
	}
}

// leave deals with what the child has left behind: the stop signal and
// ORPHAN_GRACE, once.
func (l *loop) leave() {
	l.transition(childExited)
	l.tell() // UNREADY_DELAY is over, even if the phase was stopping before
	if l.none || !l.orphanBy.IsZero() || l.Timeline.OrphanGrace == 0 {
		return
	}
	l.orphanBy = l.exitedAt.Add(l.Timeline.OrphanGrace)
	if !l.t0.IsZero() {
		l.orphanBy = earlier(l.orphanBy, l.killAt())
	}
	l.Log.Debug("the child has left processes behind", "signal", SignalName(l.stopSignal()))
	l.System.SignalOthers(l.stopSignal())
}

// jobControl follows the child into a stop from the terminal and out of it.
func (l *loop) jobControl(e reaper.Exit) {
	if e.PID != l.System.PID() {
		return
	}
	l.stopped = e.Status.Stopped()
	if l.stopped && l.System.Terminal() {
		l.System.Suspend(e.Status.StopSignal())
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
