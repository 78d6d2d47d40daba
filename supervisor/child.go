package supervisor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drainit/drainit/reaper"
	"golang.org/x/sys/unix"
)

// child is what is known of the child and of what it left behind.
type child struct {
	stopped    bool // by job control
	exited     bool
	exitedAt   time.Time
	exit       reaper.Exit
	statusText string // its last STATUS=

	lastSignal   unix.Signal // the last one forwarded that is no stop signal
	lastSignalAt time.Time

	noProcesses bool      // no process is left at all
	orphans     []Other   // what it left behind when it ended
	orphanBy    time.Time // when that is killed; zero: not set yet
	oom         oomCount
}

// orphanAlarm returns when what the child left behind is killed, or zero if
// nothing is left.
func (c *child) orphanAlarm() time.Time {
	if c.noProcesses {
		return time.Time{}
	}
	return c.orphanBy
}

// reap collects exits and notes what became of the child.
func (l *loop) reap() {
	var state reaper.State
	l.exits, state = l.System.Reap(l.exits[:0])
	for _, e := range l.exits {
		l.onStateChange(e)
	}
	l.child.noProcesses = state == reaper.None
	if state == reaper.More {
		l.reapAgain()
	}
	if l.child.exited && l.phase < Killing {
		l.stopOrphans()
	}
	if l.phase == Killing && !l.child.noProcesses && len(l.exits) > 0 {
		// Orphans of the dead have become ours, or were forked meanwhile.
		l.System.SignalOthers(unix.SIGKILL, false)
	}
}

// onStateChange handles one process that has exited, stopped or continued.
func (l *loop) onStateChange(e reaper.Exit) {
	if !e.Ended() {
		l.onJobControl(e)
		return
	}
	l.reaped++
	if !l.isChild(e.PID) || l.child.exited {
		if l.debugging() {
			l.Log.Debug("reaped", "pid", e.PID, "status", describe(e))
		}
		return
	}
	l.child.exited, l.child.exitedAt, l.child.exit = true, time.Now(), e
	l.stop.stillReady = false
	l.watchdog.disarm()
}

// isChild reports whether the exit of a process is the child's: of the main
// process, or of the one that was started if its successor has ended before it.
func (l *loop) isChild(pid int) bool {
	switch {
	case pid == l.System.PID():
		return true
	case pid != l.System.FirstPID():
		return false
	case !l.System.MainAlive():
		return true
	}
	l.Log.Info("the process that was started has ended, its successor goes on", "pid", pid, "successor", l.System.PID())
	return false
}

// onMainPID follows the child to the successor it names, as systemd does.
func (l *loop) onMainPID(pid int) {
	if pid == l.System.PID() || l.child.exited {
		return
	}
	if err := l.System.SetMain(pid); err != nil {
		l.Log.Warn("MAINPID= is rejected", "pid", pid, "error", err)
		return
	}
	l.Log.Info("another process is the child now, by MAINPID=", "pid", pid, "started", l.System.FirstPID())
}

// onJobControl follows the child into a stop from the terminal and out of it.
func (l *loop) onJobControl(e reaper.Exit) {
	if e.Status.Stopped() && l.System.Detach(e.PID, e.Status.StopSignal()) {
		l.Log.Debug("a process that asked to be traced was let go", "pid", e.PID)
		return
	}
	if e.PID != l.System.PID() {
		return
	}
	l.child.stopped = e.Status.Stopped()
	if l.child.stopped && l.System.Terminal() {
		l.System.Suspend(e.Status.StopSignal())
	}
}

// reapAgain makes the loop reap once more without waiting for SIGCHLD.
func (l *loop) reapAgain() {
	select {
	case l.again <- struct{}{}:
	default:
	}
}

// stopOrphans sends the stop signal, once, to the processes the child left
// behind, and sets the instant at which they are killed.
func (l *loop) stopOrphans() {
	l.transition(childExited)
	l.publish() // UNREADY_DELAY is over, even if the phase was stopping before
	if l.child.noProcesses || !l.child.orphanBy.IsZero() || l.Timeline.OrphanGrace == 0 {
		return
	}
	l.child.orphanBy = l.orphanDeadline(time.Now())
	l.child.orphans, _ = l.System.Others()
	// What got the signal through the child's group does not get it again: many
	// servers treat a second one as "stop immediately".
	l.System.SignalOthers(l.stopSignal(), l.Group && !l.stop.forwarded.IsZero())
	l.logOrphans()
}

// orphanDeadline returns when what the child leaves behind at now is killed.
// During a stop that is the server itself, behind a script or `npm start`, and
// has until kill_at.
func (l *loop) orphanDeadline(now time.Time) time.Time {
	grace := l.child.exitedAt.Add(l.Timeline.OrphanGrace)
	if !l.stop.begun() {
		return grace
	}
	kill := l.killAt()
	if now.After(kill) { // drainit was held up
		kill = l.lateKillAt(now)
	}
	if l.Timeline.OrphanGraceSet {
		return earlier(grace, kill)
	}
	return kill
}

// logOrphans reports what the child has left behind.
func (l *loop) logOrphans() {
	denied, others := splitDenied(l.child.orphans)
	if len(denied) > 0 {
		l.Log.Warn("the child has left processes behind that drainit may not signal", "processes", names(denied),
			"at_most", round(time.Until(l.child.orphanBy)), "hint", deniedHint)
		if len(others) == 0 {
			return
		}
	}
	attrs := []any{"processes", names(others), "signal", SignalName(l.stopSignal()),
		"kill_after", round(time.Until(l.child.orphanBy))}
	switch {
	case l.stop.begun():
		l.Log.Info("the child has ended: waiting for the processes it left behind", attrs...)
	case l.child.exit.Code() == 0:
		l.Log.Warn("the child has ended by itself and left processes behind", append(attrs,
			"hint", "a server must run in the foreground (nginx -g 'daemon off;', httpd -DFOREGROUND, redis --daemonize no)")...)
	default:
		l.Log.Info("the child has ended by itself and left processes behind", attrs...)
	}
}

// splitDenied divides processes into those that drainit may not signal, and the
// others.
func splitDenied(all []Other) (denied, others []Other) {
	for _, p := range all {
		if p.Denied {
			denied = append(denied, p)
		} else {
			others = append(others, p)
		}
	}
	return denied, others
}

func anyDenied(all []Other) bool {
	return slices.ContainsFunc(all, func(p Other) bool { return p.Denied })
}

// names returns the first processes by name, and how many more there are, or
// "unknown" if they could not be listed.
func names(all []Other) string {
	if len(all) == 0 {
		return "unknown"
	}
	const most = 3
	var list []string
	for _, p := range all[:min(len(all), most)] {
		name := p.String()
		if p.Denied {
			name += " (which drainit may not signal)"
		}
		list = append(list, name)
	}
	s := strings.Join(list, ", ")
	if more := len(all) - most; more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

// describe says how a process ended.
func describe(e reaper.Exit) string {
	if e.Status.Signaled() {
		s := "was killed by " + SignalName(e.Status.Signal())
		if e.Status.CoreDump() {
			s += " (core dumped)"
		}
		return s
	}
	return fmt.Sprintf("exited with code %d", e.Status.ExitStatus())
}

// oomCount follows the cgroup's counter of processes ended by the OOM killer.
type oomCount struct {
	read  func() (uint64, error)
	start uint64
	known bool
}

// startOOMCount takes the value to count from. read may be nil.
func startOOMCount(read func() (uint64, error)) oomCount {
	c := oomCount{read: read}
	if read != nil {
		n, err := read()
		c.start, c.known = n, err == nil
	}
	return c
}

// rise returns how many processes the OOM killer has ended since the start, 0
// if that is unknown.
func (c *oomCount) rise() uint64 {
	if !c.known {
		return 0
	}
	n, err := c.read()
	if err != nil || n < c.start {
		return 0
	}
	return n - c.start
}
