package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// running is an init in front of a bench/child.
type running struct {
	pid    int
	addr   string // drainit's port
	shared *shared
	ended  bool
}

// environment gives each drainit a port of its own, and is otherwise what a
// user gets who sets nothing.
func environment() ([]string, string) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return os.Environ(), ""
	}
	defer l.Close()
	addr := l.Addr().String()
	return append(os.Environ(), "DRAINIT_HEALTH_ADDR="+addr, "DRAINIT_LOG_LEVEL=error"), addr
}

// launch starts an init with a child that counts signals, and waits for it.
func (b *bench) launch(c candidate) (*running, error) {
	s, file, err := newShared(b.dir)
	if err != nil {
		return nil, err
	}
	env, addr := environment()
	argv := slices.Concat(c.argv, []string{b.child, "signals", file})
	pid, err := spawn(argv, env, nil)
	if err != nil {
		return nil, err
	}
	r := &running{pid: pid, addr: addr, shared: s}
	return r, await(&s.pid, 1, "the child's start")
}

func spawn(argv, env []string, attr *syscall.SysProcAttr) (int, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	return syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Env: env, Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}, Sys: attr})
}

// wait waits for the end of a process and returns its exit code.
func wait(pid int) (int, error) {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return status.ExitStatus(), err
		}
	}
}

// stop ends the child and waits for its init.
func (r *running) stop() {
	if r.ended {
		return
	}
	r.ended = true
	unix.Kill(int(r.shared.pid.Load()), unix.SIGKILL)
	wait(r.pid)
}

// stageWord makes bench the first process of a PID namespace, which executes an
// init there.
const stageWord = "stage"

func stage(argv []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return syscall.Exec(argv[0], argv, os.Environ())
}

// asPID1 runs argv as the first process of a PID namespace, to its end.
func asPID1(argv, env []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	pid, err := spawn(slices.Concat([]string{self, stageWord}, argv), env, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS})
	if err != nil {
		return err
	}
	code, err := wait(pid)
	if err == nil && code != 0 {
		err = fmt.Errorf("%v: exit code %d", argv, code)
	}
	return err
}

// took runs argv to its end and returns the milliseconds that took, and those
// of CPU time that it and its children used.
func took(argv, env []string) (elapsed, cpu float64, err error) {
	began := time.Now()
	pid, err := spawn(argv, env, nil)
	if err != nil {
		return 0, 0, err
	}
	var status unix.WaitStatus
	var usage unix.Rusage
	for {
		if _, err = unix.Wait4(pid, &status, 0, &usage); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	elapsed = float64(time.Since(began).Microseconds()) / 1000
	if err == nil && status.ExitStatus() != 0 {
		err = fmt.Errorf("%v: exit code %d", argv, status.ExitStatus())
	}
	return elapsed, float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e6, err
}

// output runs a program that is part of the measuring.
func output(name string, args ...string) ([]byte, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s %v: %v\n%s", name, args, err, out)
	}
	return out, nil
}
