package notify

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestParseStat(t *testing.T) {
	tests := []struct {
		name, stat string
		want       int
		ok         bool
	}{
		{"plain", "42 (server) S 7 42 42 0 -1", 7, true},
		{"PID 1", "1 (init) S 0 1 1 0 -1", 0, true},
		{"spaces and parentheses", "42 (a) S 1 (b) (c) R 7 42", 7, true},
		{"newline", "42 (a\n) S 1 1\n43 (b) S 7 42", 7, true},
		{"only a parenthesis", "42 ()) S 7 42", 7, true},
		{"empty", "", 0, false},
		{"cut within the name", "42 (serv", 0, false},
		{"cut within the parent", "42 (server) S 7", 0, false},
		{"no number", "42 (server) S x 42", 0, false},
		{"negative", "42 (server) S -7 42", 0, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseStat([]byte(test.stat))
			if got != test.want || (err == nil) != test.ok {
				t.Errorf("got %d, %v; want %d, ok %v", got, err, test.want, test.ok)
			}
		})
	}
}

func TestDescends(t *testing.T) {
	gone := errors.New("gone")
	tests := []struct {
		name      string
		parents   []map[int]int // one for each time the walk begins at 9
		pid, root int
		err       string
	}{
		{"itself", nil, 5, 5, ""},
		{"child", []map[int]int{{9: 5}}, 9, 5, ""},
		{"grandchild", []map[int]int{{9: 8, 8: 5}}, 9, 5, ""},
		{"a parent", []map[int]int{{9: 3, 3: 1, 1: 0}}, 9, 5, "does not descend"},
		{"from outside", []map[int]int{{9: 0}}, 9, 5, "does not descend"},
		{"the sender has gone", []map[int]int{{}, {9: 5}}, 9, 5, "can't be told: gone"},
		{"an ancestor has gone, its child is root's now", []map[int]int{{9: 8}, {9: 5}}, 9, 5, ""},
		{"ancestors go and go", []map[int]int{{9: 8}}, 9, 5, "can't be told: gone"},
		{"a circle", []map[int]int{{9: 8, 8: 9}}, 9, 5, "levels deep"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			begun := -1
			err := descends(test.pid, test.root, func(pid int) (int, error) {
				if pid == 9 {
					begun = min(begun+1, len(test.parents)-1)
				}
				parent, ok := test.parents[begun][pid]
				if !ok {
					return 0, gone
				}
				return parent, nil
			})
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %v, want %q", err, test.err)
			}
		})
	}
}

func TestDescendsInProc(t *testing.T) {
	self := os.Getpid()
	child := exec.Command("cat")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := child.Process.Pid
	if err := descends(pid, self, parentOf); err != nil {
		t.Errorf("child: %v", err)
	}
	if err := descends(pid, os.Getppid(), parentOf); err != nil {
		t.Errorf("child of a child: %v", err)
	}
	if err := descends(self, pid, parentOf); err == nil {
		t.Error("a parent is taken for a descendant")
	}
	stdin.Close()
	child.Wait()
	if err := descends(pid, self, parentOf); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("reaped child: got %v, want ENOENT", err)
	}
}
