package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWriteTerminationLog(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(in("there"), []byte(strings.Repeat("x", 100)), 0o600), os.Mkdir(in("dir"), 0o700),
		unix.Mkfifo(in("fifo"), 0o600), os.Symlink("there", in("link"))); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"", in("missing"), in("dir"), in("fifo"), "/dev/null", "/no/such/dir"} {
		writeTerminationLog(file, "words") // none of these may block, fail or be created
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 4 {
		t.Errorf("created: %v", entries)
	}
	writeTerminationLog(in("there"), "words")
	if got, _ := os.ReadFile(in("there")); string(got) != strings.Repeat("x", 100)+"\nwords" {
		t.Errorf("got %q, want the words after what the child had written", got)
	}
	writeTerminationLog(in("link"), strings.Repeat("y", 10000))
	if got, _ := os.ReadFile(in("there")); !strings.HasSuffix(string(got), "words\n"+strings.Repeat("y", 4095)) {
		t.Errorf("%d bytes, want the 4096 that the kubelet reads after what was there", len(got))
	}
}
