package integration_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal and the output that was written to it.
type terminal struct {
	master, slave *os.File
	out           *lines
	done          chan struct{}
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		missing(t, false, "no pseudo-terminal: %v", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{master: os.NewFile(uintptr(fd), "/dev/ptmx"), slave: slave, out: newLines(), done: make(chan struct{})}
	go func() {
		defer close(term.done)
		io.Copy(term.out, term.master) // until EIO: the other side is closed
	}()
	t.Cleanup(func() { term.master.Close(); term.slave.Close() })
	return term
}

// read waits until all output was read, at most for d.
func (term *terminal) read(d time.Duration) {
	select {
	case <-term.done:
	case <-time.After(d):
	}
}

// types writes to the terminal as a keyboard does.
func (term *terminal) types(t *testing.T, keys string) {
	t.Helper()
	if _, err := term.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

const (
	ctrlC = "\x03"
	ctrlZ = "\x1a"
)

// ticking waits until the looping child has written more.
func ticking(t *testing.T, l *lines) {
	t.Helper()
	from := l.count("tick ")
	eventually(t, "the child goes on", func() bool { return l.count("tick ") > from+5 })
}

// setTerminalFlag sets one of the terminal's local modes.
func setTerminalFlag(t *testing.T, f *os.File, flag uint32) {
	t.Helper()
	modes, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err == nil {
		modes.Lflag |= flag
		err = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, modes)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// As under docker run -it, PID 1 leads the session.

func TestOnATerminalAsPID1(t *testing.T) {
	t.Run("the child is in the foreground, in a group of its own", func(t *testing.T) {
		t.Parallel()
		term := openTerminal(t)
		p := start(t, setup{term: term, env: []string{"LOG_LEVEL=warn"}}, "--", testchild, "report")
		p.exits(0)
		if r := parseReport(t, p.out.String()); r.PGRP != r.PID || r.Foreground != r.PID || r.SID != 1 {
			t.Errorf("pid %d, group %d, foreground %d, session %d", r.PID, r.PGRP, r.Foreground, r.SID)
		}
	})
	t.Run("Ctrl-C reaches the child at once", func(t *testing.T) {
		t.Parallel()
		term := openTerminal(t)
		p := start(t, setup{term: term, env: []string{"GRACE_PERIOD=10m", "DRAIN_WINDOW=5m"}}, "--", testchild, "signals", "-exit", "2:9")
		p.says("ready")
		term.types(t, ctrlC)
		p.exits(9)
	})
	t.Run("a SIGINT that is not the keyboard's drains", func(t *testing.T) {
		t.Parallel()
		term := openTerminal(t)
		p := start(t, setup{term: term, env: []string{"GRACE_PERIOD=10m", "DRAIN_WINDOW=1s"}}, "--", testchild, "signals", "-exit", "2:9")
		p.says("ready")
		asked := time.Now()
		p.signal(unix.SIGINT)
		p.exits(9)
		about(t, "forwarded", p.ended.Sub(asked), time.Second)
		p.logs("why=window")
	})
	t.Run("Ctrl-Z does not hang it for ever", func(t *testing.T) {
		t.Parallel()
		term := openTerminal(t)
		p := start(t, setup{term: term, env: quick}, "--", testchild, "loop", "3")
		p.says("tick 3")
		for range 3 {
			term.types(t, ctrlZ)
			ticking(t, p.out)
		}
		p.signal(unix.SIGTERM)
		p.exits(3)
	})
	t.Run("a child that handles Ctrl-Z gets it", func(t *testing.T) {
		t.Parallel()
		term := openTerminal(t)
		p := start(t, setup{term: term, env: quick}, "--", testchild, "signals", "-exit", "20:3")
		p.says("ready")
		term.types(t, ctrlZ)
		p.exits(3)
	})
	t.Run("a shell has job control of its own", func(t *testing.T) {
		t.Parallel()
		bash := program(t, "/bin/bash", "bash")
		term := openTerminal(t)
		p := start(t, setup{term: term, env: []string{"PS1=>"}}, "--", bash, "--norc", "--noprofile", "-i")
		jobControl(t, term, testchild+" loop 0")
		term.types(t, "exit 21\n")
		p.exits(21)
		if strings.Contains(p.out.String(), "no job control") || strings.Contains(p.out.String(), "cannot set terminal") {
			t.Errorf("the shell complains: %s", p.out)
		}
	})
	t.Run("with TOSTOP set, a stop goes through", func(t *testing.T) {
		t.Parallel()
		term := openTerminal(t)
		setTerminalFlag(t, term.slave, unix.TOSTOP)
		p := start(t, setup{term: term, env: append(quick, "LOG_LEVEL=debug")}, "--", testchild, "loop", "4")
		ticking(t, p.out)
		p.signal(unix.SIGTERM)
		p.exits(4)
		p.logs(`drainit: stopped"`)
	})
	t.Run("what reads the terminal in the background is not a hang", func(t *testing.T) {
		t.Parallel()
		term := openTerminal(t)
		p := start(t, setup{term: term, env: quick}, "--", "/bin/sh", "-c", "read line; echo got $line; exit 5")
		term.types(t, "words\n")
		p.exits(5)
		p.logs("got words")
	})
	t.Run("the terminal goes away", func(t *testing.T) {
		t.Parallel()
		term := openTerminal(t)
		p := start(t, setup{term: term, env: quick}, "--", testchild, "loop", "4")
		ticking(t, p.out)
		term.master.Close()
		if code := p.wait(); code != 129 && code != 128+int(unix.SIGPIPE) {
			t.Errorf("exit code %d, want that of SIGHUP", code)
		}
	})
}

// jobControl has the shell on term run command, stops it, continues it in the
// background and in the foreground, and interrupts it.
func jobControl(t *testing.T, term *terminal, command string) {
	t.Helper()
	term.types(t, command+"\n")
	ticking(t, term.out)
	term.types(t, ctrlZ)
	term.out.wait(t, "Stopped")
	term.types(t, "echo is $((40+2)) here\n")
	term.out.wait(t, "is 42 here")
	still := term.out.count("tick ")
	term.types(t, "echo is $((40+3)) here\n")
	term.out.wait(t, "is 43 here")
	if n := term.out.count("tick "); n > still {
		t.Errorf("%d ticks while it was stopped", n-still)
	}
	term.types(t, "bg\n")
	ticking(t, term.out)
	term.types(t, "echo is $((40+4)) here\n")
	term.out.wait(t, "is 44 here")
	term.types(t, "fg\n")
	eventually(t, "fg", func() bool { return term.out.count(command) >= 3 })
	ticking(t, term.out)
	term.types(t, ctrlZ)
	eventually(t, "stopped again", func() bool { return term.out.count("Stopped") == 2 })
	term.types(t, "fg\n")
	ticking(t, term.out)
	term.types(t, ctrlC)
	term.types(t, "echo code=$?=\n")
	term.out.wait(t, "code=130=")
}

func TestUnderAnInteractiveShell(t *testing.T) {
	bash := program(t, "/bin/bash", "bash")
	shell := setup{direct: true, shell: []string{bash, "--norc", "--noprofile", "-i"}, env: []string{"PS1=>"}}
	t.Run("Ctrl-Z stops the job, bg and fg continue it, Ctrl-C ends it", func(t *testing.T) {
		t.Parallel()
		s := shell
		s.term = openTerminal(t)
		p := start(t, s)
		jobControl(t, s.term, drainit+" -- "+testchild+" loop 0")
		s.term.types(t, "exit 22\n")
		p.exits(22)
	})
	t.Run("a background job leaves the terminal alone", func(t *testing.T) {
		t.Parallel()
		s := shell
		s.term = openTerminal(t)
		p := start(t, s)
		s.term.types(t, drainit+" -- "+testchild+" loop 7 &\n")
		ticking(t, s.term.out)
		s.term.types(t, "echo is $((50+1)) here\n")
		s.term.out.wait(t, "is 51 here")
		s.term.types(t, "export DRAINIT_DRAIN_WINDOW=0; kill %1; wait %1; echo code=$?=\n")
		s.term.out.wait(t, "code=7=")
		s.term.types(t, "exit 23\n")
		p.exits(23)
	})
	t.Run("a stop of a stopped job goes through once it is continued", func(t *testing.T) {
		t.Parallel()
		s := shell
		s.env = append(s.env, quick...)
		s.term = openTerminal(t)
		p := start(t, s)
		s.term.types(t, drainit+" -- "+testchild+" loop 8\n")
		ticking(t, s.term.out)
		s.term.types(t, ctrlZ)
		s.term.out.wait(t, "Stopped")
		s.term.types(t, "kill %1; bg; wait %1; echo code=$?=\n")
		s.term.out.wait(t, "code=8=")
		s.term.types(t, "exit 24\n")
		p.exits(24)
	})
	t.Run("in a pipeline", func(t *testing.T) {
		t.Parallel()
		s := shell
		s.term = openTerminal(t)
		p := start(t, s)
		s.term.types(t, drainit+" -- "+testchild+" print some words </dev/null | tr a-z A-Z\n")
		s.term.out.wait(t, "SOME WORDS")
		s.term.types(t, "exit 25\n")
		p.exits(25)
	})
}

func TestNothingAboutATerminalIsFatal(t *testing.T) {
	t.Run("one that does not control us", func(t *testing.T) {
		t.Parallel()
		term := openTerminal(t)
		p := start(t, setup{stdin: term.slave, env: quick}, "--", testchild, "signals", "-exit", "15:3")
		p.says("ready")
		p.signal(unix.SIGTERM)
		p.exits(3)
	})
	t.Run("one that is gone", func(t *testing.T) {
		t.Parallel()
		term := openTerminal(t)
		term.master.Close()
		p := start(t, setup{stdin: term.slave, stdout: term.slave, env: quick}, "--", testchild, "exit", "4")
		p.exits(4)
	})
}
