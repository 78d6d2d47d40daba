package supervisor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/drainit/drainit/internal/proc"
	"golang.org/x/sys/unix"
)

func TestTheChildIsStartedAsItWouldBeWithoutUs(t *testing.T) {
	for name, watched := range map[string]bool{"plain": false, "through the trampoline": true} {
		t.Run(name, func(t *testing.T) {
			if !alone(t) {
				return
			}
			var before unix.Rlimit
			unix.Getrlimit(unix.RLIMIT_NOFILE, &before)
			argv := []string{os.Args[0], "", "a b", "-x", "--"}
			c := begin(t, "report", false, watched, argv...)
			var got report
			line := c.next(t)
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if got.PID != c.PID() {
				t.Errorf("pid %d, want %d", got.PID, c.PID())
			}
			if got.Group != got.PID {
				t.Errorf("process group %d, want one of its own, %d", got.Group, got.PID)
			}
			if !slices.Equal(got.Args, argv) {
				t.Errorf("arguments %q, want %q", got.Args, argv)
			}
			want := ""
			if watched {
				want = mustJSON(t, got.PID)
			}
			if got.WatchdogPID != want {
				t.Errorf("WATCHDOG_PID is %q, want %q", got.WatchdogPID, want)
			}
			if code := c.wait(t); code != 0 {
				t.Errorf("code %d, want 0", code)
			}
		})
	}
}

func mustJSON(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// expect takes lines in any order: two processes write them.
func (s *started) expect(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for range want {
		got = append(got, s.next(t))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("heard %q, want %q", got, want)
	}
}

func TestSignalReachesTheChildAlone(t *testing.T) {
	if !alone(t) {
		return
	}
	t.Setenv("SUPERVISOR_TEST_GROUP", "1") // the grandchild stays in the group
	c := begin(t, "signals and a child", false, false, os.Args[0])
	c.expect(t, "child ready", "grandchild ready")
	if err := c.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	c.expect(t, "child SIGUSR1")
	// What comes next would be the grandchild's SIGUSR1, had there been one.
	c.SignalOthers(unix.SIGUSR2, false)
	c.expect(t, "child SIGUSR2", "grandchild SIGUSR2")
}

func TestSignalReachesTheGroupIfThatIsTheScope(t *testing.T) {
	if !alone(t) {
		return
	}
	t.Setenv("SUPERVISOR_TEST_GROUP", "1")
	c := begin(t, "signals and a child", true, false, os.Args[0])
	c.expect(t, "child ready", "grandchild ready")
	if err := c.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	c.expect(t, "child SIGUSR1", "grandchild SIGUSR1")
}

func TestSignalOthersReachesProcessesOfAnotherSession(t *testing.T) {
	if !alone(t) {
		return
	}
	c := begin(t, "signals and a child", false, false, os.Args[0])
	c.expect(t, "child ready", "grandchild ready")
	if got := countOthers(c); got != 2 {
		t.Errorf("%d processes left, want 2", got)
	}
	c.SignalOthers(unix.SIGUSR1, false)
	c.expect(t, "child SIGUSR1", "grandchild SIGUSR1")
	c.SignalOthers(unix.SIGTERM, false)
	c.expect(t, "child SIGTERM", "grandchild SIGTERM")
	if got := c.next(t); got != "the end" {
		t.Errorf("heard %q, want the end", got)
	}
	c.wait(t)
	if err := c.Signal(unix.SIGTERM); err != nil {
		t.Errorf("signalling a child that is gone: %v, want no error", err)
	}
}

// TestDescendantsWithAnyName: a process calls itself what it likes, and the
// kernel shows that unquoted in the middle of /proc/PID/stat.
func TestDescendantsWithAnyName(t *testing.T) {
	if !alone(t) {
		return
	}
	for _, name := range []string{"x) Z 1 (y", "x\n) Z 1 1", ") S 0 0", "a b) R"} {
		link := filepath.Join(t.TempDir(), name)
		if err := os.Symlink(os.Args[0], link); err != nil {
			t.Fatal(err)
		}
		c := begin(t, "signals", false, false, link)
		c.expect(t, "child ready")
		got, err := proc.Descendants(os.Getpid())
		if err != nil || len(got) != 1 || got[0].PID != c.PID() {
			t.Errorf("%q: descendants %v, %v; want %d", name, got, err, c.PID())
		}
		c.Signal(unix.SIGKILL)
		for c.next(t) != "the end" {
		}
		// A zombie can be neither signalled nor waited for.
		unix.Waitid(unix.P_PID, c.PID(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if got, err := proc.Descendants(os.Getpid()); err != nil || len(got) > 0 {
			t.Errorf("%q: descendants %v, %v after its end; want none", name, got, err)
		}
		if got := countOthers(c); got != 0 {
			t.Errorf("%q: %d left after its end, want 0", name, got)
		}
		c.wait(t)
	}
}

func TestDescendantsAreNobodyElses(t *testing.T) {
	if !alone(t) {
		return
	}
	c := begin(t, "signals and a child", false, false, os.Args[0])
	c.expect(t, "child ready", "grandchild ready")
	got, err := proc.Descendants(c.PID())
	if err != nil || len(got) != 1 || got[0].PID == c.PID() {
		t.Errorf("the child's descendants are %v, %v; want the grandchild alone", got, err)
	}
	if got, err := proc.Descendants(got[0].PID); err != nil || len(got) != 0 {
		t.Errorf("the grandchild's descendants are %v, %v; want none", got, err)
	}
	if got, err := proc.Descendants(1 << 22); err == nil {
		t.Errorf("descendants of no process are %v, want an error", got)
	}
}
