package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// stderr is standard error as PID 1 has to treat it: whoever reads it may be
// slow, stuck or gone, and nothing may wait for them. Lines go through a queue
// to the one goroutine that writes; what does not fit, or can't be written, is
// dropped and counted.
type stderr struct {
	queue   chan line
	dropped atomic.Uint64
}

type line struct {
	text    []byte
	written chan struct{} // closed when everything before it was tried
}

// queueLength is far more than a stop logs; it is there for bursts at debug. All
// of it takes 4 KB.
const queueLength = 120

func newStderr(w io.Writer) *stderr {
	s := &stderr{queue: make(chan line, queueLength)}
	go s.run(w) // ends with the program
	return s
}

// unstoppable lets this goroutine write to a terminal that is set to stop
// background writers (stty tostop): each write would raise SIGTTOU, be
// interrupted by its handler, and start again, for ever. A thread that blocks
// the signal may write.
func unstoppable() {
	if _, err := unix.IoctlGetInt(unix.Stderr, unix.TIOCGPGRP); err != nil {
		return
	}
	runtime.LockOSThread()
	var set unix.Sigset_t
	set.Val[0] = 1 << (unix.SIGTTOU - 1)
	unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
}

func (s *stderr) run(w io.Writer) {
	unstoppable()
	var told uint64
	for l := range s.queue {
		if l.written != nil {
			close(l.written)
			continue
		}
		if _, err := w.Write(l.text); err != nil {
			s.dropped.Add(1)
			continue
		}
		if n := s.dropped.Load(); n != told {
			fmt.Fprintf(w, "drainit: %d log lines dropped, stderr did not take them\n", n-told)
			told = n
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

// Dropped is how many lines were lost.
func (s *stderr) Dropped() uint64 { return s.dropped.Load() }

// Flush waits until what was queued has been written, at most for d.
func (s *stderr) Flush(d time.Duration) {
	written := make(chan struct{})
	select {
	case s.queue <- line{written: written}:
	default:
		return // full: nobody reads
	}
	select {
	case <-written:
	case <-time.After(d):
	}
}

// newLogger makes the one logger there is. Its messages say that they are
// drainit's: the child writes to the same stderr.
func newLogger(w io.Writer, format, level string) *slog.Logger {
	var l slog.Level
	l.UnmarshalText([]byte(level)) // checked with the configuration
	options := &slog.HandlerOptions{Level: l, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) > 0 {
			return a
		}
		switch {
		case a.Key == slog.MessageKey:
			a.Value = slog.StringValue("drainit: " + a.Value.String())
		case a.Value.Kind() == slog.KindDuration:
			// 5s, in JSON too, and not 5000000000.
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// complain writes an error a user can act on, the mend on a line of its own,
// as much as stderr takes within a second.
func complain(s *stderr, wrong, mend string) {
	for l := range strings.SplitSeq(wrong, "\n") {
		if !strings.HasPrefix(l, "  ") { // a mend has that, below what is wrong
			l = "drainit: " + l
		}
		fmt.Fprintln(s, l)
	}
	if mend != "" {
		fmt.Fprintf(s, "  %s\n", mend)
	}
	s.Flush(time.Second)
}

// leaveWords writes why it ended to file, for `kubectl describe pod`. The file
// is there if the runtime made it, and is never created; it must be a regular
// one, so that nothing here can block for long, and little time is given.
func leaveWords(file, words string) {
	const most = 4096 // what the kubelet reads
	if file == "off" {
		return
	}
	done := make(chan struct{})
	go func() { // ends with the write, or with the program
		defer close(done)
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			return
		}
		if info.Size() > 0 {
			// After the child's own last words: the kubelet reads the end of the file.
			words = "\n" + words
		}
		io.WriteString(f, cut(words, most))
	}()
	select {
	case <-done:
	case <-time.After(500 * time.Millisecond):
	}
}

// cut is the beginning of s, at most n bytes and no part of a letter: the
// kubelet passes it on as UTF-8.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
