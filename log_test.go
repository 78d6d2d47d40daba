package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// writer is a stderr with moods. It blocks while block is open and fails with
// err while that is set.
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

// In a bubble a Write that blocked would be a deadlock, and time that passed
// can be told.
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
		s.Flush(time.Minute)
		if took := time.Since(began); took != 0 {
			t.Errorf("took %s, with the queue full and nobody reading; want no time", took)
		}
		want := uint64(lines - queueLength - 1)
		if got := s.Dropped(); got != want {
			t.Errorf("%d dropped, want %d", got, want)
		}
		close(w.block) // somebody reads again
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
			t.Errorf("told %d times that lines were dropped, want once", n)
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
		copy(b, "your") // a logger uses its buffer again
		s.Flush(time.Minute)
		if got := w.String(); got != "mine\n" {
			t.Errorf("got %q, want %q", got, "mine\n")
		}
	})
}

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	newLogger(&b, "text", "info").Info("a message", "wait", 1500*time.Millisecond)
	if got := b.String(); !strings.Contains(got, `msg="drainit: a message" wait=1.5s`) {
		t.Errorf("text: %s", got)
	}
	b.Reset()
	newLogger(&b, "json", "info").Info("a message", "wait", 1500*time.Millisecond)
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got["msg"] != "drainit: a message" || got["wait"] != "1.5s" || got["level"] != "INFO" {
		t.Errorf("json: %s, %v", b.String(), err)
	}
	for level, want := range map[string]int{"debug": 4, "info": 3, "warn": 2, "error": 1} {
		b.Reset()
		l := newLogger(&b, "text", level)
		l.Debug("x")
		l.Info("x")
		l.Warn("x")
		l.Error("x")
		if n := strings.Count(b.String(), "\n"); n != want {
			t.Errorf("%s: %d lines of 4, want %d", level, n, want)
		}
	}
}

func TestLeaveWords(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(in("there"), []byte(strings.Repeat("x", 100)), 0o600), os.Mkdir(in("dir"), 0o700),
		unix.Mkfifo(in("fifo"), 0o600), os.Symlink("there", in("link"))); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"off", in("missing"), in("dir"), in("fifo"), "/dev/null", "/no/such/dir"} {
		leaveWords(file, "words") // none of these may block, fail or be made
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 4 {
		t.Errorf("there are %v now", entries)
	}
	leaveWords(in("there"), "words")
	if got, _ := os.ReadFile(in("there")); string(got) != strings.Repeat("x", 100)+"\nwords" {
		t.Errorf("got %q, want the words after what the child had written", got)
	}
	leaveWords(in("link"), strings.Repeat("y", 10000))
	if got, _ := os.ReadFile(in("there")); !strings.HasSuffix(string(got), "words\n"+strings.Repeat("y", 4095)) {
		t.Errorf("%d bytes, want the 4096 that the kubelet reads after what was there", len(got))
	}
}
