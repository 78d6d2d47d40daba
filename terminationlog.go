package main

import (
	"io"
	"os"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// What the kubelet reads of the termination log, and how long exit may be
// delayed by a disk that does not take it.
const (
	terminationLogSize = 4096
	terminationLogTime = 500 * time.Millisecond
)

// writeTerminationLog appends words, which say why the run ended, to file, for
// `kubectl describe pod`. The container runtime creates the file; it is never
// created here, and must be a regular one, so that the write can't block for
// long. An empty file is none.
func writeTerminationLog(file, words string) {
	if file == "" {
		return
	}
	done := make(chan struct{})
	go func() { // ends with the write, or with the program
		defer close(done)
		appendTo(file, words)
	}()
	select {
	case <-done:
	case <-time.After(terminationLogTime):
	}
}

// appendTo writes words at the end of file, best effort.
func appendTo(file, words string) {
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
		// After the child's own last words: the kubelet reads the file's end.
		words = "\n" + words
	}
	io.WriteString(f, truncate(words, terminationLogSize))
}

// truncate returns the beginning of s, at most n bytes of it, and never a part
// of a character: the kubelet passes it on as UTF-8.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
