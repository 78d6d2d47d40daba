package supervisor

import (
	"time"

	"github.com/drainit/drainit/notify"
)

// Upstream is the service manager that drainit itself runs under.
type Upstream interface {
	// Send never blocks. It returns an error if the message could not be
	// queued; the message is then lost.
	Send(notify.Message) error
}

// announcement is the READY=1 that Upstream is sent once.
type announcement struct {
	done    bool
	retryAt time.Time // after a failure; zero: none is due
}

// announce tells Upstream that the container is ready, once. If the message
// can't be queued it tries again a second later: Upstream waits for it.
func (l *loop) announce() {
	if l.Upstream == nil || l.announced.done {
		return
	}
	l.announced.retryAt = time.Time{}
	if l.Upstream.Send(notify.Message{Ready: true}) == nil {
		l.announced.done = true
	} else {
		l.announced.retryAt = time.Now().Add(time.Second)
	}
}

// announceStop tells Upstream that a stop has begun.
func (l *loop) announceStop() {
	if l.Upstream != nil {
		l.Upstream.Send(notify.Message{Stopping: true})
	}
}

// relay passes on those of the child's messages whose absence makes a service
// manager act.
func (l *loop) relay(m notify.Message) {
	if l.Upstream == nil || !m.HasStatus && !m.Watchdog && !m.WatchdogTrigger && m.ExtendTimeout == 0 {
		return
	}
	l.Upstream.Send(notify.Message{
		HasStatus:       m.HasStatus,
		Status:          m.Status,
		Watchdog:        m.Watchdog,
		WatchdogTrigger: m.WatchdogTrigger,
		ExtendTimeout:   m.ExtendTimeout,
	})
}
