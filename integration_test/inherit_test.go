package integration_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// report is the output of testchild report.
type report struct {
	PID, PPID, PGRP, SID int
	Foreground           int
	Args, Env            []string
	Dir                  string
	Umask                int
	FDs                  map[int]string
	Flags                map[int]int
	Status               string
}

func parseReport(t *testing.T, text string) (r report) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v: %q", err, text)
	}
	return r
}

// bare returns the report of a child without drainit.
func bare(t *testing.T, s setup) report {
	t.Helper()
	c := exec.Command(testchild, "report")
	c.Env, c.Dir, c.ExtraFiles = environment(s.env), s.dir, s.extra
	c.Stdin = s.stdin
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	return parseReport(t, string(out))
}

func TestTheChildInheritsEverythingUnchanged(t *testing.T) {
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	for _, direct := range []bool{false, true} {
		name := map[bool]string{false: "as PID 1", true: "not as PID 1"}[direct]
		t.Run(name, func(t *testing.T) {
			s := setup{dir: dir, extra: []*os.File{r}, stdin: r, direct: direct, proc: "host",
				env: append(quick, "SOME=thing", "EMPTY=", "NOTIFY_SOCKET=/nowhere", "WATCHDOG_PID=1", "WATCHDOG_USEC=3")}
			want := bare(t, s)
			p := start(t, s, "--", testchild, "report", "two words", "")
			p.exits(0)
			got := parseReport(t, p.out.String())
			if !slices.Equal(got.Args, []string{testchild, "report", "two words", ""}) {
				t.Errorf("arguments %q", got.Args)
			}
			if got.Dir != dir || got.Umask != want.Umask {
				t.Errorf("directory %s, umask %o; want %s, %o", got.Dir, got.Umask, dir, want.Umask)
			}
			notify := func(s string) bool {
				return strings.HasPrefix(s, "NOTIFY_SOCKET=") || strings.HasPrefix(s, "WATCHDOG_")
			}
			if i := slices.IndexFunc(got.Env, notify); i < 0 || strings.Contains(got.Env[i], "nowhere") {
				t.Errorf("NOTIFY_SOCKET is not drainit's: %q", got.Env)
			}
			if e, w := slices.DeleteFunc(got.Env, notify), slices.DeleteFunc(want.Env, notify); !slices.Equal(e, w) {
				t.Errorf("environment\n%q\nwant\n%q", e, w)
			}
			for fd := range 256 {
				if g, w := got.FDs[fd], want.FDs[fd]; (g == "") != (w == "") {
					t.Errorf("descriptor %d is %q, want %q", fd, g, w)
				}
				if g, w := got.Flags[fd], want.Flags[fd]; g != w {
					t.Errorf("descriptor %d has flags %o, want %o", fd, g, w)
				}
			}
			if got.PGRP != got.PID {
				t.Errorf("process group %d, want its own, %d", got.PGRP, got.PID)
			}
		})
	}
}

func TestTheChildsLimitUmaskAndSignalMask(t *testing.T) {
	t.Run("a small RLIMIT_NOFILE reaches it", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{}, "--", "/bin/sh", "-c", `ulimit -Sn 200; exec "$0" -- /bin/sh -c "ulimit -Sn; ulimit -Hn"`, drainit)
		p.exits(0)
		var hard unix.Rlimit
		unix.Getrlimit(unix.RLIMIT_NOFILE, &hard)
		// A child in Go would have raised its own limit.
		if got, want := p.out.String(), fmt.Sprintf("200\n%d\n", hard.Max); got != want {
			t.Errorf("limits %q, want %q", got, want)
		}
	})
	t.Run("the umask does", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{stage: []string{"-umask", "23"}}, "--", testchild, "report")
		p.exits(0)
		if r := parseReport(t, p.out.String()); r.Umask != 23 {
			t.Errorf("umask %d, want 23", r.Umask)
		}
	})
	t.Run("no signal is blocked or ignored", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{}, "--", "/bin/cat", "/proc/self/status")
		p.exits(0)
		for _, mask := range []string{"SigBlk", "SigIgn", "SigCgt"} {
			if m := signalSet(p.out.String(), mask); m != 0 {
				t.Errorf("%s %x", mask, m)
			}
		}
	})
	t.Run("ignored signals are no longer, as documented", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{stage: []string{"-ignore", "1,2,10,15"}}, "--", "/bin/cat", "/proc/self/status")
		p.exits(0)
		if m := signalSet(p.out.String(), "SigIgn"); m != 0 {
			t.Errorf("ignored: %x", m)
		}
	})
	t.Run("blocked signals are no longer, whichever thread starts it", func(t *testing.T) {
		t.Parallel()
		block := []string{"-block", "1,2,10,12,13,15,17,28,40,64"}
		for range 20 {
			p := start(t, setup{stage: block}, "--", "/bin/cat", "/proc/self/status")
			p.exits(0)
			if m := signalSet(p.out.String(), "SigBlk"); m != 0 {
				t.Fatalf("blocked: %x", m)
			}
		}
	})
	t.Run("and a stop works where they were ignored", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{env: quick, stage: []string{"-ignore", "1,2,13,15,17"}}, "--", testchild, "signals", "-exit", "15:4")
		p.says("ready")
		p.signal(unix.SIGTERM)
		p.exits(4)
	})
	t.Run("or blocked", func(t *testing.T) {
		t.Parallel()
		p := start(t, setup{env: quick, stage: []string{"-block", "1,2,10,13,15,17"}}, "--", testchild, "signals", "-exit", "15:4")
		p.says("ready")
		p.signal(unix.SIGTERM)
		p.exits(4)
	})
}

// TestNoNotifySocketUnlessAskedFor: Puma, for one, complains at each start
// where there is one.
func TestNoNotifySocketUnlessAskedFor(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: quick}, "--", "/usr/bin/env")
	p.exits(0)
	if out := p.out.String(); strings.Contains(out, "NOTIFY_SOCKET=") {
		t.Errorf("the child's environment is\n%s", out)
	}
}

// TestListenPIDNamesTheChild: sd_listen_fds(3) compares it with its own PID.
func TestListenPIDNamesTheChild(t *testing.T) {
	t.Parallel()
	p := start(t, setup{env: append(quick, "LISTEN_PID=1", "LISTEN_FDS=1")}, "--",
		"/bin/sh", "-c", `echo "$LISTEN_PID is $$"`)
	p.exits(0)
	if pid, self, _ := strings.Cut(strings.TrimSpace(p.out.String()), " is "); pid != self {
		t.Errorf("LISTEN_PID=%s, and the child's PID is %s", pid, self)
	}
}

func TestStdinReachesTheChild(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := start(t, setup{stdin: r}, "--", testchild, "print", "begin")
	p.says("begin")
	fmt.Fprintln(w, "a line")
	p.says("a line")
	w.Close()
	p.exits(0)
}

// stopped starts a child that writes to stdout all the time, stops it, and
// expects all of that to work, and on time.
func stoppedInTime(t *testing.T, s setup) {
	t.Helper()
	env, url := healthPort(t)
	// At debug, which logs more than a pipe holds.
	s.env = append(s.env, env, "GRACE_PERIOD=20s", "DRAIN_WINDOW=500ms", "LOG_LEVEL=debug")
	p := start(t, s, "--", testchild, "loop", "6")
	p.says("tick 1")
	answers(t, url+"/readyz", 200)
	for range 2000 {
		p.signal(unix.SIGWINCH) // one line each
	}
	before := p.out.count("tick")
	asked := time.Now()
	p.signal(unix.SIGTERM)
	answers(t, url+"/readyz", 503)
	p.exits(6)
	about(t, "ended", p.ended.Sub(asked), 500*time.Millisecond)
	if p.out.count("tick") <= before {
		t.Error("the child wrote nothing through the window")
	}
}

func TestStderrThatTakesNothing(t *testing.T) {
	t.Run("closed", func(t *testing.T) {
		t.Parallel()
		stoppedInTime(t, setup{stage: []string{"-close", "2"}})
	})
	t.Run("every one closed but stdout", func(t *testing.T) {
		t.Parallel()
		stoppedInTime(t, setup{stage: []string{"-close", "0,2"}})
	})
	t.Run("a pipe whose reader has gone", func(t *testing.T) {
		t.Parallel()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		r.Close()
		stoppedInTime(t, setup{stderr: w})
	})
	t.Run("a full pipe that is not read", func(t *testing.T) {
		t.Parallel()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		size, _ := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096)
		w.Write(make([]byte, size))
		stoppedInTime(t, setup{stderr: w})
	})
	t.Run("/dev/full", func(t *testing.T) {
		t.Parallel()
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			missing(t, false, "%v", err)
		}
		defer full.Close()
		stoppedInTime(t, setup{stderr: full})
	})
	t.Run("a configuration error to a full pipe", func(t *testing.T) {
		t.Parallel()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		size, _ := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096)
		w.Write(make([]byte, size))
		p := start(t, setup{stderr: w, env: []string{"GRACE_PERIOD=x"}}, "--", "true")
		p.exits(125)
	})
}

func TestDroppedLinesAreCountedOnceSomebodyReadsAgain(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096)
	env, url := healthPort(t)
	p := start(t, setup{stderr: w, env: append(quick, env, "LOG_LEVEL=debug")}, "--", testchild, "signals", "-quiet", "-exit", "15:2")
	w.Close()
	p.says("ready")
	eventually(t, "lines are dropped", func() bool {
		p.signal(unix.SIGUSR1)
		_, body := get(url + "/statusz")
		return !strings.Contains(body, `"log_lines_dropped": 0`)
	})
	read := newLines()
	go func() { io.Copy(read, r); read.end() }()
	read.wait(t, "log lines dropped")
	eventually(t, "the queue has room again", func() bool {
		p.signal(unix.SIGHUP)
		return read.count("signal=SIGHUP") > 0
	})
	p.signal(unix.SIGTERM)
	p.exits(2)
	read.wait(t, `drainit: stopped"`)
}
