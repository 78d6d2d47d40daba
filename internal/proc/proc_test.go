package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	tests := []struct {
		name, stat string
		want       Process
		ok         bool
	}{
		{"plain", "42 (server) S 7 42 42 0 -1", Process{42, 7, 'S', "server"}, true},
		{"PID 1", "1 (init) S 0 1 1 0 -1", Process{1, 0, 'S', "init"}, true},
		{"a zombie", "42 (server) Z 7 42", Process{42, 7, 'Z', "server"}, true},
		{"spaces and parentheses", "42 (a) S 1 (b) (c) R 7 42", Process{42, 7, 'R', "a) S 1 (b) (c"}, true},
		{"newline", "42 (a\n) S 1 1\n43 (b) S 7 42", Process{42, 7, 'S', "a\n) S 1 1\n43 (b"}, true},
		{"only a parenthesis", "42 ()) S 7 42", Process{42, 7, 'S', ")"}, true},
		{"no name", "42 () S 7 42", Process{42, 7, 'S', ""}, true},
		{"empty", "", Process{}, false},
		{"cut within the name", "42 (serv", Process{}, false},
		{"cut within the parent", "42 (server) S 7", Process{}, false},
		{"no number", "42 (server) S x 42", Process{}, false},
		{"negative", "42 (server) S -7 42", Process{}, false},
		{"beyond 31 bits", "42 (server) S 2147483648 42", Process{}, false},
		{"closed before it is opened", "42 ) ( S 7 42", Process{}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseStat([]byte(test.stat))
			if got != test.want || (err == nil) != test.ok {
				t.Errorf("got %+v, %v; want %+v, ok %v", got, err, test.want, test.ok)
			}
		})
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (server) S 7 42 42 0 -1"))
	f.Add([]byte("42 (a) S 1 (b\n) (c) R 7 42"))
	f.Add([]byte("42 (serv"))
	f.Fuzz(func(t *testing.T, stat []byte) {
		p, err := parseStat(stat)
		if err != nil {
			return
		}
		if p.PID < 0 || p.Parent < 0 || !strings.Contains(string(stat), "("+p.Name+")") {
			t.Errorf("%q: %+v", stat, p)
		}
		// What is read back from a well-formed line is the same.
		line := fmt.Sprintf("%d (%s) %c %d 0", p.PID, p.Name, p.State, p.Parent)
		if again, err := parseStat([]byte(line)); err != nil || again != p {
			t.Errorf("%q: %+v, %v; want %+v", line, again, err, p)
		}
	})
}

func TestDescends(t *testing.T) {
	ended := errors.New("ended")
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
		{"the process has ended", []map[int]int{{}, {9: 5}}, 9, 5, "can't be read: ended"},
		{"an ancestor has ended, its child is root's now", []map[int]int{{9: 8}, {9: 5}}, 9, 5, ""},
		{"ancestors end again and again", []map[int]int{{9: 8}}, 9, 5, "can't be read: ended"},
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
					return 0, ended
				}
				return parent, nil
			})
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %v, want %q", err, test.err)
			}
		})
	}
}

func TestDescendants(t *testing.T) {
	all := []Process{
		{1, 0, 'S', "init"}, {5, 1, 'S', "drainit"},
		{6, 5, 'S', "sh"}, {7, 6, 'R', "server"}, {8, 6, 'Z', "sleep"},
		{9, 8, 'S', "thread leader gone"}, // its parent's first thread has ended
		{10, 1, 'S', "neighbour"}, {11, 12, 'S', "circle"}, {12, 11, 'S', "circle"}, {13, 99, 'S', "torn"},
	}
	tests := []struct {
		name string
		root int
		want []int
		ok   bool
	}{
		{"drainit's", 5, []int{6, 7, 9}, true},
		{"the script's", 6, []int{7, 9}, true},
		{"none", 7, nil, true},
		{"of one that is not there", 77, nil, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			found, err := descendants(all, test.root)
			var got []int
			for _, p := range found {
				got = append(got, p.PID)
			}
			if !slices.Equal(got, test.want) || (err == nil) != test.ok {
				t.Errorf("got %v, %v; want %v, ok %v", got, err, test.want, test.ok)
			}
		})
	}
}

// TestLiveProcess follows a real child with a name made to deceive.
func TestLiveProcess(t *testing.T) {
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Skip(err)
	}
	self, name := os.Getpid(), "x\n) Z 1 (y"
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(cat, link); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(link)
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := child.Process.Pid
	if p, err := Stat(pid); err != nil || p.Name != name || p.Parent != self || p.Ended() {
		t.Errorf("%+v, %v", p, err)
	}
	isChild := func(p Process) bool { return p.PID == pid }
	if found, err := Descendants(self); err != nil || !slices.ContainsFunc(found, isChild) {
		t.Errorf("descendants %v, %v; want %d among them", found, err, pid)
	}
	if err := Descends(pid, self); err != nil {
		t.Errorf("child: %v", err)
	}
	if err := Descends(pid, os.Getppid()); err != nil {
		t.Errorf("child of a child: %v", err)
	}
	if err := Descends(self, pid); err == nil {
		t.Error("a parent is taken for a descendant")
	}
	stdin.Close()
	unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	if p, err := Stat(pid); err != nil || !p.Ended() {
		t.Errorf("after its end: %+v, %v; want a zombie", p, err)
	}
	if found, err := Descendants(self); err != nil || slices.ContainsFunc(found, isChild) {
		t.Errorf("descendants %v, %v; want %d no more", found, err, pid)
	}
	child.Wait()
	if err := Descends(pid, self); !errors.Is(err, unix.ENOENT) {
		t.Errorf("reaped child: got %v, want ENOENT", err)
	}
	if err := Check(); err != nil {
		t.Error(err)
	}
}
