package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// writer is a stderr that blocks while block is open, and fails with err while
// that is set.
type writer struct {
	block chan struct{}

	mu  sync.Mutex
	err error
	got bytes.Buffer
}

func (w *writer) Write(p []byte) (int, error) {
	if w.block != nil {
		<-w.block
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	return w.got.Write(p)
}

func (w *writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

func (w *writer) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got.String()
}

// inBubble runs f in a synctest bubble, where a Write that blocked would be a
// deadlock, and time that passed can be measured.
func inBubble(t *testing.T, w *writer, f func(*stderr)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if w.block != nil {
			w.block = make(chan struct{}) // the bubble's own
		}
		s := newStderr(w)
		f(s)
		close(s.queue)
	})
}

func TestStderrThatBlocks(t *testing.T) {
	w := &writer{block: make(chan struct{})}
	const lines = 10 * queueLength
	inBubble(t, w, func(s *stderr) {
		began := time.Now()
		for i := range lines {
			if n, err := fmt.Fprintf(s, "line %d\n", i); n == 0 || err != nil {
				t.Errorf("Write: %d, %v; want no failure", n, err)
			}
			if i == 0 {
				synctest.Wait() // it is being written, and blocks
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("took %s, with the queue full and nothing reading; want no time", took)
		}
		s.Flush(time.Minute)
		if took := time.Since(began); took != time.Minute {
			t.Errorf("Flush took %s, with the queue full; want its minute", took)
		}
		want := uint64(lines - queueLength - 1)
		if got := s.Dropped(); got != want {
			t.Errorf("%d dropped, want %d", got, want)
		}
		close(w.block) // it is read again
		synctest.Wait()
		fmt.Fprintln(s, "more")
		s.Flush(time.Minute)
		got := w.String()
		if !strings.HasPrefix(got, fmt.Sprintf("line 0\ndrainit: %d log lines dropped, stderr did not take them\nline 1\n", want)) {
			t.Errorf("got %.200q…, want the first line and how many were dropped", got)
		}
		if !strings.HasSuffix(got, fmt.Sprintf("line %d\nmore\n", queueLength)) {
			t.Errorf("got …%q, want what was queued, and more", got[max(0, len(got)-200):])
		}
		if n := strings.Count(got, "dropped"); n != 1 {
			t.Errorf("%d reports of dropped lines, want one", n)
		}
	})
}

func TestFlushGetsIntoAFullQueue(t *testing.T) {
	w := &writer{block: make(chan struct{})}
	inBubble(t, w, func(s *stderr) {
		for range 2 * queueLength {
			fmt.Fprintln(s, "a line")
		}
		go func() {
			time.Sleep(300 * time.Millisecond)
			close(w.block) // it is read again
		}()
		s.Flush(500 * time.Millisecond)
		if got := strings.Count(w.String(), "a line\n"); got < queueLength {
			t.Errorf("%d lines written, want what was in the queue", got)
		}
	})
}

func TestDebugLinesLeaveRoom(t *testing.T) {
	w := &writer{block: make(chan struct{})}
	inBubble(t, w, func(s *stderr) {
		log := newLogger(s, false, slog.LevelDebug)
		for range 10 * queueLength {
			log.Debug("reaped")
		}
		log.Warn("deadline")
		log.Info("stopped")
		close(w.block)
		s.Flush(time.Minute)
		got := w.String()
		if !strings.Contains(got, "deadline") || !strings.Contains(got, "stopped") {
			t.Error("a burst of debug lines has pushed out the last words")
		}
		if n := strings.Count(got, "reaped"); n < debugLength {
			t.Errorf("%d debug lines, want %d", n, debugLength)
		}
		if want := uint64(10*queueLength - strings.Count(got, "reaped")); s.Dropped() != want {
			t.Errorf("%d dropped, want %d", s.Dropped(), want)
		}
	})
}

func TestFlushIsBounded(t *testing.T) {
	w := &writer{block: make(chan struct{})}
	inBubble(t, w, func(s *stderr) {
		fmt.Fprintln(s, "a line")
		began := time.Now()
		s.Flush(200 * time.Millisecond)
		if took := time.Since(began); took != 200*time.Millisecond {
			t.Errorf("Flush took %s of a stuck stderr, want 200ms", took)
		}
		close(w.block)
	})
}

func TestFlushWaitsForWhatWasQueued(t *testing.T) {
	w := new(writer)
	inBubble(t, w, func(s *stderr) {
		fmt.Fprintln(s, "a line")
		began := time.Now()
		s.Flush(time.Minute)
		if got := w.String(); got != "a line\n" || time.Since(began) != 0 {
			t.Errorf("got %q after %s, want the line at once", got, time.Since(began))
		}
	})
}

func TestStderrThatFails(t *testing.T) {
	for _, failure := range []error{unix.EPIPE, unix.ENOSPC, unix.EIO, os.ErrClosed} {
		t.Run(failure.Error(), func(t *testing.T) {
			w := &writer{err: failure}
			inBubble(t, w, func(s *stderr) {
				for range 3 {
					if n, err := fmt.Fprintln(s, "lost"); n != 5 || err != nil {
						t.Errorf("Write: %d, %v; want no failure", n, err)
					}
				}
				s.Flush(time.Minute)
				if got := s.Dropped(); got != 3 {
					t.Errorf("%d dropped, want 3", got)
				}
				w.fail(nil)
				fmt.Fprintln(s, "a line")
				fmt.Fprintln(s, "another")
				s.Flush(time.Minute)
				if got, want := w.String(), "a line\ndrainit: 3 log lines dropped, stderr did not take them\nanother\n"; got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		})
	}
}

func TestALineIsCopied(t *testing.T) {
	w := new(writer)
	inBubble(t, w, func(s *stderr) {
		b := []byte("mine\n")
		s.Write(b)
		copy(b, "your") // a logger reuses its buffer
		s.Flush(time.Minute)
		if got := w.String(); got != "mine\n" {
			t.Errorf("got %q, want %q", got, "mine\n")
		}
	})
}

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	slog.New(newHandler(&b, false, slog.LevelInfo)).Info("a message", "wait", 1500*time.Millisecond)
	if got := b.String(); !strings.Contains(got, `msg="drainit: a message" wait=1.5s`) {
		t.Errorf("text: %s", got)
	}
	b.Reset()
	slog.New(newHandler(&b, true, slog.LevelInfo)).Info("a message", "wait", 1500*time.Millisecond)
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("json: %v: %s", err, b.String())
	}
	delete(got, "time")
	want := map[string]any{
		"level":        "INFO",
		"msg":          "drainit: a message",
		"wait":         "1.5s",
		"wait_seconds": 1.5,
	}
	if !maps.Equal(got, want) {
		t.Errorf("json: got %v, want %v", got, want)
	}
	for level, want := range map[slog.Level]int{
		slog.LevelDebug: 4,
		slog.LevelInfo:  3,
		slog.LevelWarn:  2,
		slog.LevelError: 1,
	} {
		b.Reset()
		l := slog.New(newHandler(&b, false, level))
		l.Debug("x")
		l.Info("x")
		l.Warn("x")
		l.Error("x")
		if n := strings.Count(b.String(), "\n"); n != want {
			t.Errorf("%s: %d lines of 4, want %d", level, n, want)
		}
	}
}

// TestNonBlockingStderr: a child that makes the stderr it shares non-blocking,
// as node does with a pipe, costs no line that a reader takes in time.
func TestNonBlockingStderr(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r := os.NewFile(uintptr(pipe[0]), "pipe")
	defer r.Close()
	var full int
	for page := make([]byte, 4096); ; {
		n, err := unix.Write(pipe[1], page)
		if err != nil {
			break
		}
		full += n
	}
	s := newStderr(fdWriter(pipe[1]))
	io.WriteString(s, "last words\n")
	s.Flush(10 * time.Millisecond) // nothing reads yet
	if _, err := io.CopyN(io.Discard, r, int64(full)); err != nil {
		t.Fatal(err)
	}
	s.Flush(30 * time.Second)
	unix.Close(pipe[1])
	if got, _ := io.ReadAll(r); string(got) != "last words\n" || s.Dropped() != 0 {
		t.Errorf("got %q and %d dropped lines", got, s.Dropped())
	}
}
