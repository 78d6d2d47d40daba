package main

import (
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

// queueLength is far more than a stop logs; it is there for bursts at debug
// level. All of it takes 4 KB.
const queueLength = 120

// fdWriter writes to a descriptor. An os.File of descriptor 1 or 2 has the Go
// runtime end the program if the other end of the pipe is closed.
type fdWriter int

func (fd fdWriter) Write(p []byte) (n int, err error) {
	for n < len(p) && (err == nil || errors.Is(err, unix.EINTR)) {
		var wrote int
		wrote, err = unix.Write(int(fd), p[n:])
		n += max(wrote, 0)
	}
	return n, err
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

// Flush waits until what was queued has been written, for at most d.
func (s *stderr) Flush(d time.Duration) {
	written := make(chan struct{})
	select {
	case s.queue <- line{written: written}:
	default:
		return // full: nothing reads stderr
	}
	select {
	case <-written:
	case <-time.After(d):
	}
}

// newLogger returns the one logger there is. Its messages have a prefix, since
// the child writes to the same stderr.
func newLogger(w io.Writer, json bool, level slog.Level) *slog.Logger {
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
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// jsonDuration is a duration as both people and machines want it: "after":"5s"
// and "after_seconds":5, where slog alone would write 5000000000.
func jsonDuration(key string, d time.Duration) slog.Attr {
	return slog.GroupAttrs("",
		slog.String(key, d.String()),
		slog.Float64(key+"_seconds", d.Seconds()))
}
