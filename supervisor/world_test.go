package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/internal/proc"
	"github.com/drainit/drainit/notify"
	"github.com/drainit/drainit/reaper"
	"github.com/drainit/drainit/sockets"
	"golang.org/x/sys/unix"
)

// Wait statuses as wait4(2) encodes them.
func exitedWith(code int) unix.WaitStatus       { return unix.WaitStatus(code << 8) }
func killedBy(sig unix.Signal) unix.WaitStatus  { return unix.WaitStatus(sig) }
func stoppedBy(sig unix.Signal) unix.WaitStatus { return unix.WaitStatus(0x7f | int(sig)<<8) }

const continued unix.WaitStatus = 0xffff

// budget is the timeline of the defaults: forward at 5s, at 18s at the latest,
// SIGKILL at 28s.
var budget = Timeline{Grace: 30 * time.Second, Window: 5 * time.Second, Reserve: 10 * time.Second,
	Margin: 2 * time.Second, OrphanGrace: 5 * time.Second}

// process is how a fake process behaves.
type process struct {
	on       unix.Signal     // ends on this signal; 0: SIGTERM
	after    time.Duration   // so much later
	status   unix.WaitStatus // with this
	stubborn bool            // ends on no signal but SIGKILL
	immortal bool            // nor on that
	grouped  bool            // is in the child's process group
}

// act is something that happens at an instant: a unix.Signal, health.Result,
// notify.Message, sockets.Verdict, unix.WaitStatus (of the child) or func().
type act struct {
	at   time.Duration
	what any
}

// alive is a result of LIVE_CHECK.
type alive health.Result

// setup is what is there when a run begins.
type setup struct {
	child    process
	orphans  []process
	terminal bool
	batch    int              // how many exits Reap collects at once; 0: all
	panics   int              // so many calls of Signal panic; negative: all
	denied   bool             // nothing can be signalled
	serves   *sockets.Serving // nil: TCP port 8080
	unseen   error            // serves is not known
}

// world is the operating system and all other processes, as a run sees them. What
// the run does is recorded with its instant.
type world struct {
	setup
	start   time.Time
	options Options
	done    chan struct{}
	steps   int
	livez   bool          // record that, and not readiness
	main    int           // which process is the child now: an orphan's number, or 0
	exited  time.Duration // of the child
	died    bool          // it, of SIGKILL
	holdUp  time.Duration // how long sending SIGUSR1 takes

	signals   chan unix.Signal
	children  chan struct{}
	readiness chan health.Result
	liveness  chan health.Result
	notices   chan notify.Message
	asks      chan chan<- health.Status
	verdicts  chan sockets.Verdict

	mu      sync.Mutex
	record  []string
	alive   map[int]process
	leaving map[int]bool
	pending []reaper.Exit
	was     health.Answer
}

const childPID = 100

// newWorld is to be called in the bubble.
func newWorld(s setup) *world {
	w := &world{setup: s, start: time.Now(), done: make(chan struct{})}
	w.signals, w.children = make(chan unix.Signal), make(chan struct{}, 1)
	w.readiness, w.liveness = make(chan health.Result), make(chan health.Result)
	w.notices = make(chan notify.Message)
	w.asks, w.verdicts = make(chan chan<- health.Status), make(chan sockets.Verdict)
	w.alive, w.leaving = map[int]process{childPID: w.child}, map[int]bool{}
	for i, o := range w.orphans {
		w.alive[childPID+1+i] = o
	}
	w.options = Options{
		Policy: Policy{Timeline: budget, Until: sockets.Window, StopOn: []unix.Signal{unix.SIGTERM, unix.SIGINT}},
		Inputs: Inputs{Signals: w.signals, Children: w.children, Readiness: w.readiness, Liveness: w.liveness,
			Notifications: w.notices, StatusRequests: w.asks},
		System: w, Clients: w, Gate: new(health.Gate), Log: slog.New(slog.DiscardHandler),
	}
	return w
}

func (w *world) now() time.Duration { return time.Since(w.start) }

func (w *world) note(what string, a ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record = append(w.record, w.now().String()+" "+fmt.Sprintf(what, a...))
}

// run drives the loop as Run does, and looks at the gate after each step.
func (w *world) run(acts []act) Outcome {
	performed := make(chan struct{})
	go func() {
		defer close(performed)
		w.perform(acts)
	}()
	l := newLoop(w.options)
	for done := false; !done; w.steps++ {
		done = l.step()
		w.look()
	}
	l.close()
	o := l.finish()
	w.note("end %d", o.Code)
	close(w.done)
	<-performed
	return o
}

// look records what the gate says, if that is new.
func (w *world) look() {
	was, is := w.was, w.options.Gate.Get()
	w.was = is
	switch {
	case w.livez && is.NotAlive != was.NotAlive:
		w.note("%s", map[bool]string{true: "dead", false: "alive"}[is.NotAlive != ""])
	case !w.livez && is.Ready != was.Ready:
		w.note("%s", map[bool]string{true: "ready", false: "not ready"}[is.Ready])
	}
}

// perform does what others do, until there is nothing left to do it to.
func (w *world) perform(acts []act) {
	for _, a := range acts {
		select {
		case <-time.After(a.at - w.now()):
		case <-w.done:
			return
		}
		switch what := a.what.(type) {
		case unix.Signal:
			offer(w, w.signals, what)
		case health.Result:
			offer(w, w.readiness, what)
		case alive:
			offer(w, w.liveness, health.Result(what))
		case notify.Message:
			offer(w, w.notices, what)
		case sockets.Verdict:
			offer(w, w.verdicts, what)
		case unix.WaitStatus:
			w.changes(childPID, what)
		case func():
			what()
		default:
			panic(fmt.Sprintf("no such act: %T", what))
		}
		if w.holdUp == 0 {
			synctest.Wait() // what one act brought about comes before the next
		}
	}
}

func offer[T any](w *world, c chan<- T, v T) {
	select {
	case c <- v:
	case <-w.done:
	}
}

// changes has a process exit, stop or go on, and says whether it was there to.
func (w *world) changes(pid int, status unix.WaitStatus) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.alive[pid]; !ok {
		return false
	}
	if status.Exited() || status.Signaled() {
		delete(w.alive, pid)
		if pid == childPID {
			w.exited = w.now()
		}
	}
	w.pending = append(w.pending, reaper.Exit{PID: pid, Status: status})
	select {
	case w.children <- struct{}{}:
	default:
	}
	return true
}

// take has the process act on a signal.
func (w *world) take(pid int, sig unix.Signal) {
	w.mu.Lock()
	p, ok := w.alive[pid]
	on := p.on
	if on == 0 {
		on = unix.SIGTERM
	}
	ends := ok && sig == on && !p.stubborn && !p.immortal && !w.leaving[pid]
	if ends {
		w.leaving[pid] = true
	}
	w.mu.Unlock()
	switch {
	case sig == unix.SIGKILL && ok && !p.immortal:
		// It may exit by itself in this very instant.
		if w.changes(pid, killedBy(unix.SIGKILL)) && pid == childPID {
			w.died = true
		}
	case ends && p.after == 0:
		w.changes(pid, p.status)
	case ends:
		time.AfterFunc(p.after, func() { w.changes(pid, p.status) })
	}
}

// The System.

func (w *world) PID() int      { return childPID + w.main }
func (w *world) FirstPID() int { return childPID }

func (w *world) SetMain(pid int) error {
	if pid < childPID {
		return errors.New("it is no descendant")
	}
	w.main = pid - childPID
	w.note("main %d", w.main)
	return nil
}

func (w *world) MainAlive() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.alive[w.PID()]
	return ok
}

func (w *world) Signal(sig unix.Signal) error {
	if w.panics != 0 {
		w.panics--
		panic("a bug in Signal")
	}
	if w.denied {
		w.note("%s denied", SignalName(sig))
		return unix.EPERM
	}
	w.note("%s", SignalName(sig))
	w.hold(sig)
	w.take(w.PID(), sig)
	if w.options.Group {
		w.takeAll(sig, func(p process) bool { return p.grouped })
	}
	return nil
}

// hold makes the loop late, as on a machine that has no time for it.
func (w *world) hold(sig unix.Signal) {
	if sig == unix.SIGUSR1 {
		time.Sleep(w.holdUp)
	}
}

func (w *world) CheckSignal() error {
	if w.denied {
		return unix.EPERM
	}
	return nil
}

func (w *world) SignalOthers(sig unix.Signal, outsideGroup bool) {
	if outsideGroup {
		w.note("%s outside the group", SignalName(sig))
	} else {
		w.note("%s to the rest", SignalName(sig))
	}
	w.hold(sig)
	if w.denied {
		return
	}
	w.takeAll(sig, func(p process) bool { return !outsideGroup || !p.grouped })
}

// takeAll has every living process for which which is true act on sig.
func (w *world) takeAll(sig unix.Signal, which func(process) bool) {
	w.mu.Lock()
	pids := slices.Sorted(maps.Keys(w.alive))
	w.mu.Unlock()
	for _, pid := range pids {
		w.mu.Lock()
		ok := which(w.alive[pid])
		w.mu.Unlock()
		if ok {
			w.take(pid, sig)
		}
	}
}

func (w *world) Others() (all []Other, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, pid := range slices.Sorted(maps.Keys(w.alive)) {
		all = append(all, Other{proc.Process{PID: pid, Name: "server"}, w.denied})
	}
	return all, nil
}

func (w *world) Reap(exits []reaper.Exit) ([]reaper.Exit, reaper.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.pending)
	if w.batch > 0 && n > w.batch {
		exits = append(exits, w.pending[:w.batch]...)
		w.pending = w.pending[w.batch:]
		return exits, reaper.More
	}
	exits = append(exits, w.pending...)
	w.pending = nil
	if len(w.alive) == 0 {
		return exits, reaper.None
	}
	return exits, reaper.Waiting
}

func (w *world) Detach(int, unix.Signal) bool { return false }
func (w *world) Terminal() bool               { return w.terminal }
func (w *world) Suspend(by unix.Signal)       { w.note("suspend by %s", SignalName(by)) }
func (w *world) Resume()                      { w.note("resume") }

// The Clients.

func (w *world) Watch(done <-chan struct{}, until sockets.Until) <-chan sockets.Verdict {
	if until != sockets.Window {
		w.note("watch until %s", until)
	}
	out := make(chan sockets.Verdict)
	go func() {
		defer close(out)
		for {
			select {
			case <-done:
				return
			case v := <-w.verdicts:
				if v.Waiting == gone {
					return
				}
				select {
				case out <- v:
				case <-done:
					return
				}
			}
		}
	}()
	return out
}

func (w *world) Serving() (sockets.Serving, error) {
	if w.serves == nil {
		return sockets.Serving{TCP: []uint16{8080}}, w.unseen
	}
	return *w.serves, w.unseen
}

func (w *world) Relax() { w.note("watch rarely") }

// gone makes the watcher give up.
const gone = "the watcher ends here"

// upstream records what the service manager above is told.
type upstream struct{ *world }

func (u upstream) Send(m notify.Message) error {
	switch {
	case m.Ready:
		u.note("upstream READY")
	case m.Stopping:
		u.note("upstream STOPPING")
	case m.HasStatus:
		u.note("upstream STATUS=%s", m.Status)
	}
	return nil
}

// ask fetches the status, as /statusz does.
func (w *world) ask() health.Status {
	answer := make(chan health.Status, 1)
	offer(w, w.asks, (chan<- health.Status)(answer))
	select {
	case s := <-answer:
		return s
	case <-w.done:
		return health.Status{Phase: "ended"}
	}
}

func compare(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%q\nwant\n\t%q", got, want)
	}
}
