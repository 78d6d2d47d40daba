package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// stderr is standard error as PID 1 has to treat it: its reader may be slow,
// stuck or gone, and nothing may wait for it. Lines go through a queue to the
// one goroutine that writes; what does not fit, or can't be written, is dropped
// and counted.
type stderr struct {
	queue   chan line
	dropped atomic.Uint64
}

type line struct {
	text    []byte
	written chan struct{} // closed once all lines before it were tried
}

// queueLength is far more than a stop logs. Lines at debug level, which come in
// bursts (one for each process that is reaped), leave the end of the queue to
// the others. All of it takes 6 KB.
const (
	queueLength = 180
	debugLength = 120
)

// fdWriter writes to a descriptor. An os.File of descriptor 1 or 2 has the Go
// runtime end the program if the other end of the pipe is closed.
//
// The child shares it, and may have made it non-blocking, as node does with a
// pipe. Write then waits as well: the reader of a full pipe may only be slow.
type fdWriter int

func (fd fdWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		var wrote int
		wrote, err = unix.Write(int(fd), p[n:])
		n += max(wrote, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
		case err != nil && !errors.Is(err, unix.EINTR):
			return n, err
		}
	}
	return n, nil
}

func newStderr(w io.Writer) *stderr {
	s := &stderr{queue: make(chan line, queueLength)}
	go s.run(w) // ends with the program
	return s
}

// blockSIGTTOU lets this goroutine write to a terminal with `stty tostop` set:
// otherwise each write would raise SIGTTOU, be interrupted by its handler, and
// start again, for ever. A thread that blocks the signal may write.
func blockSIGTTOU() {
	if _, err := unix.IoctlGetInt(unix.Stderr, unix.TIOCGPGRP); err != nil {
		return
	}
	runtime.LockOSThread()
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGTTOU - 1)
	unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
}

func (s *stderr) run(w io.Writer) {
	blockSIGTTOU()
	var reported uint64
	for l := range s.queue {
		if l.written != nil {
			close(l.written)
			continue
		}
		if _, err := w.Write(l.text); err != nil {
			s.dropped.Add(1)
			continue
		}
		if n := s.dropped.Load(); n != reported {
			fmt.Fprintf(w, "drainit: %d log lines dropped, stderr did not take them\n", n-reported)
			reported = n
		}
	}
}

// Write queues one line. It never blocks and never fails.
func (s *stderr) Write(p []byte) (int, error) {
	select {
	case s.queue <- line{text: append([]byte(nil), p...)}:
	default:
		s.dropped.Add(1)
	}
	return len(p), nil
}

// Dropped returns how many lines were lost.
func (s *stderr) Dropped() uint64 { return s.dropped.Load() }

// debugFits reports whether there is room for a line at debug level, and counts
// the line as dropped if there isn't.
func (s *stderr) debugFits() bool {
	if len(s.queue) < debugLength {
		return true
	}
	s.dropped.Add(1)
	return false
}

// Flush waits until what was queued has been written, for at most d.
func (s *stderr) Flush(d time.Duration) {
	written := make(chan struct{})
	over := time.After(d)
	select {
	case s.queue <- line{written: written}:
	case <-over:
		return // full, and nothing reads stderr
	}
	select {
	case <-written:
	case <-over:
	}
}

// sparing is a handler that drops debug lines while debugFits returns false.
type sparing struct {
	slog.Handler
	debugFits func() bool
}

func (h sparing) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo && !h.debugFits() {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// newLogger returns the one logger there is.
func newLogger(s *stderr, json bool, level slog.Level) *slog.Logger {
	return slog.New(sparing{newHandler(s, json, level), s.debugFits})
}

// newHandler returns a handler that writes to w. Its messages have a prefix,
// since the child writes to the same stderr.
func newHandler(w io.Writer, json bool, level slog.Level) slog.Handler {
	replace := func(groups []string, a slog.Attr) slog.Attr {
		switch {
		case a.Key == slog.MessageKey && len(groups) == 0:
			a.Value = slog.StringValue("drainit: " + a.Value.String())
		case a.Value.Kind() == slog.KindDuration && json:
			return jsonDuration(a.Key, a.Value.Duration())
		}
		return a
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: replace}
	if json {
		return slog.NewJSONHandler(w, options)
	}
	return slog.NewTextHandler(w, options)
}

// jsonDuration is a duration as both people and machines want it: "after":"5s"
// and "after_seconds":5, where slog alone would write 5000000000.
func jsonDuration(key string, d time.Duration) slog.Attr {
	return slog.GroupAttrs("",
		slog.String(key, d.String()),
		slog.Float64(key+"_seconds", d.Seconds()))
}
