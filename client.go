package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/supervisor"
	"golang.org/x/sys/unix"
)

// This file is the client of a running drainit: signals go in, and what became
// of them is read from its HTTP port.

// requestTimeout bounds one request to HEALTH_ADDR.
const requestTimeout = 3 * time.Second

// controlTimeout bounds how long a control signal may take to have its effect:
// enough for a loop that never blocks, on a machine that may be busy.
const controlTimeout = 5 * time.Second

// get requests path of the running drainit, over a connection of its own.
func get(path string) (code int, body []byte, err error) {
	const name = "DRAINIT_HEALTH_ADDR"
	set := os.Getenv(name)
	if set == "" {
		set = defaultOf(name)
	}
	var addr address
	addr.Decode(set)
	if p := addr.problem(); p != nil {
		return 0, nil, fmt.Errorf("%s=%q: %s", name, set, p.msg)
	}
	if addr.off() {
		return 0, nil, errors.New(name + " is off in this environment: there is no drainit to ask")
	}
	c, err := dialLocal(addr)
	if err != nil {
		return 0, nil, fmt.Errorf("no drainit answers on %s: %w", set, err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(requestTimeout))
	if code, body, err = health.Get(c, path); err != nil {
		return 0, nil, fmt.Errorf("no answer from %s: %w", set, err)
	}
	return code, body, nil
}

// dialLocal connects to the address that drainit listens on. A wildcard address
// is reached through the loopback's. Images from scratch have no /etc/hosts
// that knows localhost, so that name never goes to a resolver.
func dialLocal(a address) (net.Conn, error) {
	dial := func(host string) (net.Conn, error) {
		return net.DialTimeout("tcp", net.JoinHostPort(host, a.portText()), requestTimeout)
	}
	ip := net.ParseIP(a.host)
	switch {
	case ip != nil && ip.IsUnspecified() && ip.To4() != nil:
		return dial("127.0.0.1")
	case a.host != "" && a.host != "localhost" && (ip == nil || !ip.IsUnspecified()):
		return dial(a.host)
	}
	c, err := dial("127.0.0.1")
	if err != nil {
		if c6, err6 := dial("::1"); err6 == nil {
			return c6, nil
		}
	}
	return c, err
}

// printResult prints a command's one-line result, and returns code.
func printResult(code int, format string, args ...any) int {
	out := io.Writer(os.Stdout)
	if code != 0 {
		out = os.Stderr
		format = "drainit: " + format
	}
	fmt.Fprintf(out, format+"\n", args...)
	return code
}

// check is for HEALTHCHECK and exec probes in images without curl.
func check(args []string) int {
	paths := map[string]string{"ready": "/readyz", "live": "/livez", "started": "/startupz"}
	what := "ready"
	if len(args) > 0 {
		what = args[0]
	}
	path, ok := paths[what]
	if !ok || len(args) > 1 {
		return printResult(1, "check %s: check takes live, ready (the default) or started",
			strings.Join(args, " "))
	}
	code, body, err := get(path)
	answer := strings.TrimSpace(string(body))
	switch {
	case err != nil:
		return printResult(1, "%v", err)
	case code != 200:
		return printResult(1, "not %s: %s", what, strings.TrimPrefix(answer, "unready: "))
	}
	return printResult(0, "%s", answer)
}

// status requests all that the running drainit knows.
func status() (s health.Status, err error) {
	code, body, err := get("/statusz")
	if err == nil && code != 200 {
		err = fmt.Errorf("/statusz answered %d", code)
	}
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	if err == nil && s.PID <= 0 { // to kill(2), -1 is every process
		err = errors.New("the server on DRAINIT_HEALTH_ADDR did not answer like drainit " +
			"(is it another program, or overloaded?)")
	}
	return s, err
}

// sendControl sends sig to the running drainit and waits until done reports
// that it took effect, for at most controlTimeout.
func sendControl(sig unix.Signal, done func(health.Status) bool) (s health.Status, err error) {
	before, err := status()
	if err != nil {
		return before, err
	}
	if err := signalDrainit(before.PID, sig); err != nil {
		return before, err
	}
	for deadline := time.Now().Add(controlTimeout); ; {
		s, err = status()
		if err == nil && done(s) || time.Now().After(deadline) {
			break
		}
		if err != nil && errors.Is(err, unix.ECONNREFUSED) {
			return before, err // it has ended
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err == nil && !done(s) {
		err = fmt.Errorf("drainit (pid %d) has not acted on it within %s: it is %s",
			before.PID, controlTimeout, s.Phase)
	}
	return s, err
}

// signalDrainit sends sig to the drainit that says that its PID is pid.
func signalDrainit(pid int, sig unix.Signal) error {
	const here = "run this in the container (and PID namespace) " +
		"of the one that answers on DRAINIT_HEALTH_ADDR"
	if !handlesSignal(pid, sig) {
		return fmt.Errorf("process %d here is not a drainit: %s", pid, here)
	}
	switch err := unix.Kill(pid, sig); {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("drainit (pid %d) runs as uid %s, and uid %d may not signal it: "+
			"use that uid (docker exec -u)", pid, uidOf(pid), os.Getuid())
	case errors.Is(err, unix.ESRCH):
		return fmt.Errorf("there is no process %d here: %s", pid, here)
	case err != nil:
		return fmt.Errorf("can't signal drainit (pid %d): %w", pid, err)
	}
	return nil
}

// uidOf returns the uid a process runs as, for people.
func uidOf(pid int) string {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil {
		return "another"
	}
	return strconv.Itoa(int(st.Uid))
}

// handlesSignal reports whether process pid has a handler for sig, without
// which the signal would end it. It returns true where /proc can't tell.
func handlesSignal(pid int, sig unix.Signal) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, mask, found := strings.Cut(string(status), "\nSigCgt:\t")
	if err != nil || !found {
		return true
	}
	mask, _, _ = strings.Cut(mask, "\n")
	caught, err := strconv.ParseUint(mask, 16, 64)
	return err != nil || caught&(1<<(sig-1)) != 0
}

// noArguments reports whether args is empty, and prints an error if it isn't.
func noArguments(command string, args []string) bool {
	return len(args) == 0 || printResult(1, "%s takes no arguments", command) == 0
}

// drain turns the container not ready until undrain, without a stop.
func drain(args []string) int {
	if !noArguments("drain", args) {
		return 1
	}
	s, err := sendControl(supervisor.SigDrain, func(s health.Status) bool {
		return s.Drained || s.Stop != nil
	})
	switch {
	case err != nil:
		return printResult(1, "%v", err)
	case s.Stop != nil:
		return printResult(1, "a stop is in progress already, asked for by %s", s.Stop.AskedBy)
	}
	return printResult(0, "not ready: %s", strings.TrimPrefix(s.Reason, "unready: "))
}

// undrain takes a drain back.
func undrain(args []string) int {
	if !noArguments("undrain", args) {
		return 1
	}
	s, err := sendControl(supervisor.SigUndrain, func(s health.Status) bool {
		return !s.Drained || s.Stop != nil
	})
	switch {
	case err != nil:
		return printResult(1, "%v", err)
	case s.Stop != nil:
		return printResult(1, "a stop is in progress, asked for by %s: it can't be taken back",
			s.Stop.AskedBy)
	case !s.Ready:
		return printResult(0, "no longer drained, but not ready: %s",
			strings.TrimPrefix(s.Reason, "unready: "))
	}
	return printResult(0, "ready")
}

// skip ends the wait of a stop.
func skip(args []string) int {
	if !noArguments("skip", args) {
		return 1
	}
	if s, err := status(); err != nil {
		return printResult(1, "%v", err)
	} else if s.Stop == nil || forwarded(s) {
		return printResult(1, "nothing to skip: no stop is waiting, the container is %s", s.Phase)
	}
	s, err := sendControl(supervisor.SigSkip, forwarded)
	if errors.Is(err, unix.ECONNREFUSED) {
		return printResult(0, "the signal was forwarded, and the child has ended")
	}
	if err != nil {
		return printResult(1, "%v", err)
	}
	if s.Stop.Error != "" {
		return printResult(1, "%s could not be sent: %s", s.Stop.Signal, s.Stop.Error)
	}
	return printResult(0, "%s forwarded", s.Stop.Signal)
}

// forwarded reports whether the stop signal was forwarded, or could not be.
func forwarded(s health.Status) bool {
	return s.Stop != nil && (s.Stop.Forwarded != nil || s.Stop.Error != "")
}

// prestop begins the stop, and returns when its signal may be forwarded: the
// signal that the kubelet sends next then costs no further wait. An error costs
// little: a preStop hook that fails is only an event, and the SIGTERM that
// follows begins the stop just the same.
func prestop(args []string) int {
	if !noArguments("prestop", args) {
		return 1
	}
	began := time.Now()
	s, err := sendControl(supervisor.SigPrestop, func(s health.Status) bool { return s.Stop != nil })
	var killAt time.Time // by the monotonic clock, which Stop.KillAt has lost
	if err == nil {
		killAt = time.Now().Add(time.Duration(s.Stop.KillIn * float64(time.Second)))
	}
	for err == nil && !s.Stop.MayForward && time.Now().Before(killAt) {
		time.Sleep(100 * time.Millisecond)
		next, again := status()
		if errors.Is(again, unix.ECONNREFUSED) {
			break // it has ended: there is nothing more to wait for
		}
		if again == nil && next.Stop != nil {
			s = next
		}
	}
	if errors.Is(err, unix.ECONNREFUSED) && s.PID != 0 { // it was there a moment ago
		return printResult(0, "the child has ended")
	}
	if err != nil {
		return printResult(1, "%v", err)
	}
	return printResult(0, "drained after %s", time.Since(began).Round(100*time.Millisecond))
}
