package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/drainit/drainit/health"
	"github.com/drainit/drainit/supervisor"
	"golang.org/x/sys/unix"
)

// askTimeout bounds one question to HEALTH_ADDR.
const askTimeout = 3 * time.Second

// get asks the running drainit's port, over a connection of its own.
func get(path string) (code int, body []byte, err error) {
	const name = "DRAINIT_HEALTH_ADDR"
	addr := os.Getenv(name)
	if addr == "" {
		addr = defaultOf(name)
	}
	if addr == "off" {
		return 0, nil, errors.New("DRAINIT_HEALTH_ADDR is off in this environment, so there is nobody to ask")
	}
	if err := checkAddr(addr); err != nil {
		return 0, nil, fmt.Errorf("DRAINIT_HEALTH_ADDR=%q: %w", addr, err)
	}
	host, port, _ := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
		if ip != nil && ip.To4() != nil {
			host = "127.0.0.1"
		}
	}
	c, err := dialLocal(host, port)
	if err != nil {
		return 0, nil, fmt.Errorf("no drainit answers on %s: %w", addr, err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(askTimeout))
	if code, body, err = health.Get(c, path); err != nil {
		return 0, nil, fmt.Errorf("no answer from %s: %w", addr, err)
	}
	return code, body, nil
}

// dialLocal connects to host. Images from scratch have no /etc/hosts that
// knows localhost, so that name never goes to a resolver.
func dialLocal(host, port string) (net.Conn, error) {
	if host != "localhost" {
		return net.DialTimeout("tcp", net.JoinHostPort(host, port), askTimeout)
	}
	c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", port), askTimeout)
	if err != nil {
		if c6, err6 := net.DialTimeout("tcp", net.JoinHostPort("::1", port), askTimeout); err6 == nil {
			return c6, nil
		}
	}
	return c, err
}

// say prints a command's one-line result.
func say(code int, format string, args ...any) int {
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
		return say(1, "check %s: check takes live, ready (the default) or started", strings.Join(args, " "))
	}
	code, body, err := get(path)
	switch {
	case err != nil:
		return say(1, "%v", err)
	case code != 200:
		return say(1, "not %s: %s", what, strings.TrimSpace(string(body)))
	}
	return say(0, "%s", strings.TrimSpace(string(body)))
}

// status asks for everything.
func status() (s health.Status, err error) {
	code, body, err := get("/statusz")
	if err == nil && code != 200 {
		err = fmt.Errorf("/statusz answered %d", code)
	}
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	if err == nil && s.PID <= 0 { // to kill(2), -1 is everybody
		err = errors.New("what answers on DRAINIT_HEALTH_ADDR is no drainit, or is too busy")
	}
	return s, err
}

// steer sends sig to the running drainit and waits until done says that it
// took effect, for at most limit. A nil done has nothing to wait for.
func steer(sig unix.Signal, limit time.Duration, done func(health.Status) bool) (s health.Status, err error) {
	before, err := status()
	if err != nil {
		return before, err
	}
	if !catches(before.PID, sig) {
		return before, fmt.Errorf("process %d here is no drainit: run this in the container (and PID namespace) of the one that answers on DRAINIT_HEALTH_ADDR", before.PID)
	}
	switch err := unix.Kill(before.PID, sig); {
	case errors.Is(err, unix.EPERM):
		return before, fmt.Errorf("drainit (pid %d) runs as uid %s, and uid %d may not signal it: use that uid (docker exec -u)", before.PID, owner(before.PID), os.Getuid())
	case errors.Is(err, unix.ESRCH):
		return before, fmt.Errorf("no process %d here: run this in the container (and PID namespace) of the drainit that answers on DRAINIT_HEALTH_ADDR", before.PID)
	case err != nil:
		return before, fmt.Errorf("can't signal drainit (pid %d): %w", before.PID, err)
	}
	for deadline := time.Now().Add(limit); ; {
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
		err = fmt.Errorf("drainit (pid %d) has not acted on it within %s: it is %s", before.PID, limit, s.Phase)
	}
	return s, err
}

// owner is the uid a process runs as, for people.
func owner(pid int) string {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil {
		return "another"
	}
	return strconv.Itoa(int(st.Uid))
}

// catches tells whether process pid has a handler for sig, without which the
// signal would end it. Where /proc does not tell, it is believed to.
func catches(pid int, sig unix.Signal) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, mask, found := strings.Cut(string(status), "\nSigCgt:\t")
	if err != nil || !found {
		return true
	}
	mask, _, _ = strings.Cut(mask, "\n")
	caught, err := strconv.ParseUint(mask, 16, 64)
	return err != nil || caught&(1<<(sig-1)) != 0
}

// enough for a loop that never blocks, on a machine that may be busy.
const steerTime = 5 * time.Second

func noArguments(word string, args []string) bool {
	return len(args) == 0 || say(1, "%s takes no arguments", word) == 0
}

// drain turns the container not ready until undrain, without a stop.
func drain(args []string) int {
	if !noArguments("drain", args) {
		return 1
	}
	s, err := steer(supervisor.SigDrain, steerTime, func(s health.Status) bool { return s.Drained || s.Stop != nil })
	switch {
	case err != nil:
		return say(1, "%v", err)
	case s.Stop != nil:
		return say(1, "a stop is under way already, asked for by %s", s.Stop.AskedBy)
	}
	return say(0, "not ready: %s", strings.TrimPrefix(s.Reason, "unready: "))
}

// undrain takes a drain back.
func undrain(args []string) int {
	if !noArguments("undrain", args) {
		return 1
	}
	s, err := steer(supervisor.SigUndrain, steerTime, func(s health.Status) bool { return !s.Drained || s.Stop != nil })
	switch {
	case err != nil:
		return say(1, "%v", err)
	case s.Stop != nil:
		return say(1, "a stop is under way, asked for by %s: it can't be taken back", s.Stop.AskedBy)
	case !s.Ready:
		return say(0, "no longer drained, but not ready: %s", s.Reason)
	}
	return say(0, "ready")
}

// skip ends the wait of a stop.
func skip(args []string) int {
	if !noArguments("skip", args) {
		return 1
	}
	if s, err := status(); err != nil {
		return say(1, "%v", err)
	} else if s.Stop == nil || s.Stop.Forwarded != nil {
		return say(1, "nothing to skip: no stop is waiting, the container is %s", s.Phase)
	}
	s, err := steer(supervisor.SigSkip, steerTime, func(s health.Status) bool { return s.Stop != nil && s.Stop.Forwarded != nil })
	if errors.Is(err, unix.ECONNREFUSED) {
		return say(0, "the signal was forwarded, and the child has ended")
	}
	if err != nil {
		return say(1, "%v", err)
	}
	return say(0, "%s forwarded", s.Stop.Signal)
}

// prestop begins the stop, and returns when its signal may be forwarded: what
// sends that signal next, the kubelet, then costs no further wait. It fails
// softly: a preStop hook that fails is only an event, and the SIGTERM that
// follows begins the stop just the same.
func prestop(args []string) int {
	if !noArguments("prestop", args) {
		return 1
	}
	began := time.Now()
	s, err := steer(supervisor.SigPrestop, steerTime, func(s health.Status) bool { return s.Stop != nil })
	for err == nil && !s.Stop.MayForward && time.Now().Before(s.Stop.KillAt) {
		time.Sleep(100 * time.Millisecond)
		next, again := status()
		if errors.Is(again, unix.ECONNREFUSED) {
			break // ended meanwhile: nothing more to wait for
		}
		if again == nil && next.Stop != nil {
			s = next
		}
	}
	if errors.Is(err, unix.ECONNREFUSED) && s.PID != 0 { // it was there a moment ago
		return say(0, "the child has ended")
	}
	if err != nil {
		return say(1, "%v", err)
	}
	return say(0, "drained after %s", time.Since(began).Round(100*time.Millisecond))
}

// install copies this program, for an init container to hand it to an image
// that can't be rebuilt.
func install(args []string) int {
	if len(args) != 1 || args[0] == "" {
		return say(1, "install takes one path: drainit install /shared/drainit")
	}
	path := args[0]
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "drainit")
	}
	if err := copySelf(path); err != nil {
		return say(1, "can't install to %s: %v", path, err)
	}
	return say(0, "installed %s", path)
}

// copySelf writes the running binary to path: first beside it, then renamed,
// so that nobody ever executes half of it and a running copy can be replaced.
func copySelf(path string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		if self, err = os.Open(os.Args[0]); err != nil {
			return err
		}
	}
	defer self.Close()
	tmp, err := os.CreateTemp(filepath.Dir(path), ".drainit-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already if all went well
	if _, err := io.Copy(tmp, self); err != nil {
		return err
	}
	if err := errors.Join(tmp.Chmod(0o755), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
