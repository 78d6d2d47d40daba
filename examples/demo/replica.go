//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// replica is one server, alone or under drainit.
type replica struct {
	target *target
	argv   []string
	env    []string // in addition to the inherited one
	log    func(line string)
	sleep  time.Duration // before SIGTERM, as preStop has it

	cmd  *exec.Cmd     // nil before the first start
	done chan struct{} // closed when cmd has ended
}

// start starts the replica, which must not be running.
func (r *replica) start() error {
	c := exec.Command(r.argv[0], r.argv[1:]...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "DRAINIT_") && !strings.HasPrefix(kv, "NOTIFY_SOCKET=") {
			c.Env = append(c.Env, kv)
		}
	}
	c.Env = append(c.Env, r.env...)
	// In a group of its own: Ctrl-C reaches only the demo, which ends its
	// processes itself. If the demo is killed, they get SIGTERM. (Pdeathsig is
	// sent when the thread ends; here threads end with the program.)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := c.StderrPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	r.cmd, r.done = c, done
	go func() { // ends with the process
		defer close(done)
		lines(out, r.log)
		c.Wait()
	}()
	return nil
}

// lines calls do with each line of r.
func lines(r io.Reader, do func(string)) {
	for s := bufio.NewScanner(r); s.Scan(); {
		do(s.Text())
	}
}

// restart stops the replica with SIGTERM, as runtimes do, and starts it again
// when it has ended.
func (r *replica) restart(ctx context.Context, say func(format string, args ...any)) error {
	asked := time.Now()
	r.target.stopping.Store(true)
	defer r.target.stopping.Store(false)
	if r.sleep > 0 {
		say("%s: sleep for %s", r.target.name, r.sleep)
		pause(ctx, r.sleep)
	}
	say("%s: SIGTERM", r.target.name)
	r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	say("%s: ended after %.1f s (%s), starts again", r.target.name, time.Since(asked).Seconds(), r.cmd.ProcessState)
	if err := r.start(); err != nil {
		return err
	}
	return r.wait(ctx)
}

// wait waits until the replica is ready.
func (r *replica) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("not ready in time"))
	defer cancel()
	for {
		err := probe(ctx, r.target.probe)
		if err == nil {
			return nil
		}
		select {
		case <-r.done:
			return fmt.Errorf("%s has ended: %s", strings.Join(r.argv, " "), r.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", strings.Join(r.argv, " "), context.Cause(ctx), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// end stops the replica for good, and at once: under drainit with the signal
// that `drainit skip` sends. It does nothing if the replica does not run.
func (r *replica) end() {
	if r.cmd == nil {
		return
	}
	const skip = syscall.Signal(63)
	wraps := filepath.Base(r.argv[0]) == "drainit"
	for range 20 {
		r.cmd.Process.Signal(syscall.SIGTERM)
		if wraps {
			r.cmd.Process.Signal(skip)
		}
		select {
		case <-r.done:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	r.cmd.Process.Kill()
	<-r.done
}

// freePorts finds n ports to listen on. A replica keeps its port across
// restarts, so they must not be in the range from which the kernel numbers
// connections, as those of port 0 are.
func freePorts(n int) (ports []int, err error) {
	from, to := 10000, 60999
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		var low, high int
		if _, err := fmt.Sscan(string(b), &low, &high); err == nil && low > from+1000 {
			to = low - 1
		}
	}
	for tries := 0; len(ports) < n; tries++ {
		if tries == 1000 {
			return nil, errors.New("no free ports on 127.0.0.1")
		}
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", from+rand.IntN(to-from)))
		if err != nil {
			continue
		}
		defer ln.Close() // at the end, so that no port is found twice
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
