package integration_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestNotifyReadinessComesAndGoes(t *testing.T) {
	for where, run := range runs {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			w := run(t, []string{"READY_CHECK=notify"})
			w.becomes(503, "starting: no READY=1 from the child yet")
			w.notify("STATUS=loading 3 of 7\nX_OWN=field")
			eventually(t, "STATUS is shown", func() bool { return w.status().Text == "loading 3 of 7" })
			w.asks("/readyz", 503, "")
			w.notify("READY=1\nSTATUS=läuft")
			w.becomes(200, "ready")
			if s := w.status(); s.Text != "läuft" || s.Phase != "ready" {
				t.Errorf("status %q, phase %s", s.Text, s.Phase)
			}
			w.notify("RELOADING=1\nMONOTONIC_USEC=1")
			w.becomes(503, "unready: the child is reloading")
			w.asks("/startupz", 200, "")
			w.asks("/livez", 200, "")
			w.notify("READY=1")
			w.becomes(200, "ready")
			w.notify("STOPPING=1\nSTATUS=")
			w.becomes(503, "unready: the child is stopping")
			if s := w.status(); s.Text != "" || s.Phase != "unready" {
				t.Errorf("status %q, phase %s", s.Text, s.Phase)
			}
			w.stop(0)
		})
	}
}

func TestNotifyIsHeardWhateverTheCheckIs(t *testing.T) {
	t.Parallel()
	w := runs["as PID 1"](t, []string{"READY_CHECK=http://127.0.0.1:PORT/", "READY_INTERVAL=20ms", "WATCHDOG=1h"}, "code 500", "listen 127.0.0.1:PORT")
	w.becomes(503, ": 500")
	w.notify("READY=1") // READY_CHECK decides, not this
	w.notify("STATUS=said so")
	eventually(t, "STATUS is shown", func() bool { return w.status().Text == "said so" })
	w.asks("/readyz", 503, ": 500")
	w.tell("code 200", "code 200")
	w.becomes(200, "")
	w.notify("RELOADING=1")
	w.becomes(503, "reloading")
	w.notify("READY=1")
	w.becomes(200, "")
	w.notify("STOPPING=1")
	w.becomes(503, "stopping")
}

func TestExtendTimeoutPutsTheForwardingOff(t *testing.T) {
	t.Parallel()
	w := work(t, setup{env: []string{"GRACE_PERIOD=30s", "DRAIN_WINDOW=500ms", "WATCHDOG=1h"}}, "onterm 3")
	w.becomes(200, "")
	asked := w.deliver(term)
	w.logs("stop asked for")
	w.notify("EXTEND_TIMEOUT_USEC=2000000")
	line := w.logs("stop signal forwarded")
	if after := duration(t, line, "after"); after < 2*time.Second {
		t.Errorf("forwarded after %s, want the 2 s that the child asked for", after)
	}
	about(t, "forwarded", logged(t, line).Sub(asked), 2*time.Second)
	w.exits(3)
}

func TestExtendTimeoutNeverMovesTheDeadline(t *testing.T) {
	t.Parallel()
	// forward_by is 3.5 s, kill_at 4.5 s.
	w := work(t, setup{env: []string{"GRACE_PERIOD=5s", "DRAIN_WINDOW=500ms", "STOP_RESERVE=1s", "KILL_MARGIN=500ms", "WATCHDOG=1h"}}, "onterm -1")
	w.becomes(200, "")
	w.deliver(term)
	w.logs("stop asked for")
	before := w.status().Stop
	for _, much := range []string{"10000000", "18446744073709551615"} { // systemd's infinity
		w.notify("EXTEND_TIMEOUT_USEC=" + much)
	}
	if after := w.status().Stop; after == nil || !after.KillAt.Equal(before.KillAt) || !after.ForwardBy.Equal(before.ForwardBy) {
		t.Errorf("the deadlines were %+v and are %+v", before, after)
	}
	line := w.logs("stop signal forwarded")
	about(t, "forwarded", duration(t, line, "after"), 3500*time.Millisecond)
	if why := attribute(t, line, "why"); why == "skip" {
		t.Errorf("why=%s", why)
	}
	w.notify("EXTEND_TIMEOUT_USEC=60000000")
	w.exits(137)
	about(t, "SIGKILL", duration(t, w.logs("SIGKILL to everything"), "after"), 4500*time.Millisecond)
}

func TestWatchdog(t *testing.T) {
	for where, run := range runs {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			w := run(t, []string{"READY_CHECK=notify", "WATCHDOG=1500ms", "WATCHDOG_USEC=9", "WATCHDOG_PID=9"})
			pid, env := w.childEnv()
			if env["WATCHDOG_USEC"] != "1500000" || env["WATCHDOG_PID"] != pid {
				t.Errorf("WATCHDOG_USEC=%s, WATCHDOG_PID=%s; want 1500000 and %s", env["WATCHDOG_USEC"], env["WATCHDOG_PID"], pid)
			}
			if s := w.status(); fmt.Sprint(s.ChildPID) != pid {
				t.Errorf("child_pid is %d, want %s", s.ChildPID, pid)
			}
			w.asks("/livez", 200, "") // not armed before READY=1
			w.notify("READY=1")
			w.becomes(200, "")
			eventually(t, "a missed WATCHDOG=1 shows", func() bool { code, _ := get(w.url + "/livez"); return code == 503 })
			w.logs("watchdog missed: /livez answers 503")
			if s := w.status(); s.Alive {
				t.Error("/statusz says it is alive")
			}
			w.notify("WATCHDOG=1")
			answers(t, w.url+"/livez", 200)
			w.logs("watchdog: the child is alive again")
			// Sent in time for a while: what counts is the silence after it.
			for range 20 {
				w.notify("WATCHDOG=1")
			}
			w.notify("WATCHDOG_USEC=600000000\nWATCHDOG=1")
			answers(t, w.url+"/livez", 200)
			w.notify("WATCHDOG=trigger")
			answers(t, w.url+"/livez", 503)
			w.logs(`why="WATCHDOG=trigger"`)
			w.notify("WATCHDOG=1")
			answers(t, w.url+"/livez", 200)
			w.notify("WATCHDOG_USEC=100000") // a shorter interval, from now on
			answers(t, w.url+"/livez", 503)
			w.notify("WATCHDOG_USEC=0\nWATCHDOG=1") // disarms it
			answers(t, w.url+"/livez", 200)
			w.stop(0)
		})
	}
}

func TestNoWatchdogUnlessAskedFor(t *testing.T) {
	t.Parallel()
	w := work(t, setup{env: []string{"READY_CHECK=notify"}})
	_, env := w.childEnv()
	for _, name := range []string{"WATCHDOG_USEC", "WATCHDOG_PID"} {
		if v, set := env[name]; set {
			t.Errorf("the child has %s=%s", name, v)
		}
	}
	w.notify("READY=1\nWATCHDOG=1\nWATCHDOG_USEC=1000")
	w.becomes(200, "")
	w.notify("WATCHDOG=trigger") // it needs no interval
	answers(t, w.url+"/livez", 503)
	w.notify("WATCHDOG=1")
	w.notify("READY=1")
	w.asks("/readyz", 200, "")
}

// Under a service manager with a watchdog the child feeds it, through drainit.
func TestAnInheritedWatchdogIsTheChilds(t *testing.T) {
	t.Parallel()
	w := work(t, setup{env: []string{"READY_CHECK=notify", "WATCHDOG_USEC=5000000", "WATCHDOG_PID=1"}})
	pid, env := w.childEnv()
	if env["WATCHDOG_USEC"] != "5000000" || env["WATCHDOG_PID"] != fmt.Sprint(pid) {
		t.Errorf("the child %v has WATCHDOG_USEC=%s WATCHDOG_PID=%s", pid, env["WATCHDOG_USEC"], env["WATCHDOG_PID"])
	}
}

func TestMalformedDatagramsCostNothingButThemselves(t *testing.T) {
	t.Parallel()
	w := work(t, setup{env: []string{"READY_CHECK=notify", "WATCHDOG=1h", "LOG_LEVEL=warn"}})
	bad := []string{
		"READY=0", "READY=yes", "WATCHDOG=2", "EXTEND_TIMEOUT_USEC=-1", "EXTEND_TIMEOUT_USEC=99999999999999999999999",
		"WATCHDOG_USEC=1s", "MAINPID=-7", "MAINPID=0", "STOPPING=", "RELOADING=true",
		"\x00", "READY\x00=1\x00", "\n\x00\nREADY=1", "READY=1" + strings.Repeat("x", 4090), strings.Repeat("A=b\n", 5000),
		strings.Repeat("\xff\x00", 50_000),
	}
	for _, d := range bad {
		w.notify(d)
	}
	// Valid, but without effect.
	for _, d := range []string{"no line with an equals sign", "\n\n\n", "=", "READY", "FDSTORE=1\nFDNAME=x", "ready=1", " READY=1"} {
		w.notify(d)
	}
	eventually(t, "each is counted", func() bool { return w.status().Notify.Malformed == uint64(len(bad)) })
	w.asks("/readyz", 503, "no READY=1")
	w.asks("/metrics", 200, fmt.Sprintf("drainit_notify_refused_total{reason=\"malformed\"} %d\n", len(bad)))
	w.notify("READY=maybe\nSTATUS=\x1b[2J\xff\u202e" + strings.Repeat("ü", 1000) + "\nREADY=1")
	w.becomes(200, "")
	if s := w.status().Text; len(s) > 256 || strings.ContainsAny(s, "\x1b\u202e") || !strings.Contains(s, "\ufffd") {
		t.Errorf("status is %q", s)
	}
	if got := w.err.String(); got != "" {
		t.Errorf("stderr: %s", got)
	}
}

// 100,000 datagrams while SIGTERM arrives.
func TestAFloodNeverDelaysASignal(t *testing.T) {
	const datagrams = 100_000
	kinds := map[string]string{
		"of good ones":      "STATUS=flood\nWATCHDOG=1",
		"of malformed ones": "STATUS=flood\nREADY=0\nWATCHDOG=2\nMAINPID=x",
	}
	for name, datagram := range kinds {
		t.Run(name, func(t *testing.T) {
			w := work(t, setup{env: []string{"GRACE_PERIOD=60s", "DRAIN_WINDOW=1s", "WATCHDOG=1h"}}, "onterm -1")
			w.becomes(200, "")
			began := stamped(t, w.tell("flood "+fmt.Sprint(datagrams)+" "+strconv.Quote(datagram), "flooding")+" "+fmt.Sprint(time.Now().UnixNano()))
			eventually(t, "the flood has arrived", func() bool { return w.status().Text == "flood" })
			asked := w.deliver(term)
			t0 := logged(t, w.logs("stop asked for"))
			if w.out.count("flooded") > 0 {
				t.Error("the flood was over before the signal")
			}
			if d := t0.Sub(asked); d > 3*time.Second {
				t.Errorf("t0 is %s after SIGTERM", d)
			} else {
				t.Logf("t0 is %s after SIGTERM", d.Round(time.Millisecond))
			}
			w.asks("/readyz", 503, "draining")
			forwarded := duration(t, w.logs("stop signal forwarded"), "after")
			about(t, "forwarded", forwarded, time.Second)
			w.says("got 15")
			var line string
			for end := time.Now().Add(2 * time.Minute); line == ""; time.Sleep(10 * time.Millisecond) {
				line, _, _, _ = w.out.find("flooded")
				if time.Now().After(end) {
					t.Fatal("the flood does not end")
				}
			}
			if want := fmt.Sprintf("flooded %d", datagrams); !strings.HasPrefix(line, want) {
				t.Errorf("%s, want %s: senders wait, nothing is lost", line, want)
			}
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.pid))
			_, rss, _ := strings.Cut(string(status), "VmHWM:")
			rss, _, _ = strings.Cut(rss, "\n")
			t.Logf("forwarded after %s; %d datagrams in %s; at most %s resident",
				forwarded, datagrams, stamped(t, line).Sub(began).Round(time.Millisecond), strings.TrimSpace(rss))
			w.stop(2)
		})
	}
}

// sendTo sends a datagram to a notify socket from this process.
func sendTo(t *testing.T, addr, datagram string) {
	t.Helper()
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(datagram)); err != nil {
		t.Fatal(err)
	}
}

// refuses waits until drainit has counted the given number of foreign senders,
// and checks that what they sent had no effect.
func (w *worker) refuses(n uint64) {
	w.t.Helper()
	eventually(w.t, "the datagram is counted as foreign", func() bool { return w.status().Notify.Foreign == n })
	if s := w.status(); s.Phase != "starting" || s.Text != "" || !s.Alive || s.Notify.Malformed != 0 || !strings.Contains(s.Notify.Last, "outside") && !strings.Contains(s.Notify.Last, "descend") {
		w.t.Errorf("a stranger was believed: %+v", s)
	}
	w.asks("/metrics", 200, fmt.Sprintf("drainit_notify_refused_total{reason=\"foreign\"} %d\n", n))
}

const lie = "READY=1\nSTATUS=a lie\nWATCHDOG=trigger"

func TestDatagramsFromOutsideAreRefused(t *testing.T) {
	t.Run("of the PID namespace", func(t *testing.T) {
		t.Parallel()
		w := work(t, setup{env: []string{"READY_CHECK=notify"}})
		_, env := w.childEnv()
		sendTo(t, env["NOTIFY_SOCKET"], lie)
		w.refuses(1)
		w.notify("READY=1")
		w.becomes(200, "")
	})
	t.Run("of drainit's descendants, where it is not PID 1", func(t *testing.T) {
		t.Parallel()
		w := work(t, setup{direct: true, env: []string{"READY_CHECK=notify"}})
		_, env := w.childEnv()
		sendTo(t, env["NOTIFY_SOCKET"], lie)
		w.refuses(1)
		w.notify("READY=1")
		w.becomes(200, "")
	})
	t.Run("of the container, by its file system", func(t *testing.T) {
		t.Parallel()
		w := box(t, nil, []string{"READY_CHECK=notify"})
		_, env := w.childEnv()
		// A socket's path has room for 107 bytes.
		link := filepath.Join(t.TempDir(), "s")
		if err := os.Symlink(fmt.Sprintf("/proc/%d/root%s", w.pidHere(), env["NOTIFY_SOCKET"]), link); err != nil {
			t.Fatal(err)
		}
		sendTo(t, link, lie)
		w.refuses(1)
		w.notify("READY=1")
		w.becomes(200, "")
	})
	t.Run("from a neighbour that shares the IPC namespace", func(t *testing.T) {
		t.Parallel()
		w := box(t, []string{"--ipc", "shareable"}, []string{"READY_CHECK=notify"})
		_, env := w.childEnv()
		neighbour := runBox(t, []string{"--ipc", "container:" + w.box, "--entrypoint", "/worker", "-e", "NOTIFY_SOCKET=" + env["NOTIFY_SOCKET"]},
			image(t, "drainit"), "notify "+strconv.Quote(lie))
		neighbour.says("notified")
		w.refuses(1)
		w.notify("READY=1")
		w.becomes(200, "")
	})
	t.Run("from a neighbour that shares the network namespace", func(t *testing.T) {
		t.Parallel()
		// Without /dev/shm the name is abstract, and belongs to the network
		// namespace.
		w := box(t, []string{"--ipc", "none", "--read-only"}, []string{"READY_CHECK=notify"})
		_, env := w.childEnv()
		if !strings.HasPrefix(env["NOTIFY_SOCKET"], "@") {
			t.Fatalf("NOTIFY_SOCKET=%s is not abstract", env["NOTIFY_SOCKET"])
		}
		neighbour := runBox(t, []string{"--network", "container:" + w.box, "--entrypoint", "/worker", "-e", "NOTIFY_SOCKET=" + env["NOTIFY_SOCKET"]},
			image(t, "drainit"), "notify "+strconv.Quote(lie))
		neighbour.says("notified")
		w.refuses(1)
		w.notify("READY=1")
		w.becomes(200, "")
	})
}

func TestWhatDockerExecStartsIsHeard(t *testing.T) {
	t.Parallel()
	w := box(t, []string{"--read-only", "--user", "65534", "--cap-drop", "ALL"}, []string{"READY_CHECK=notify"})
	_, env := w.childEnv()
	if _, err := docker("exec", "-e", "NOTIFY_SOCKET="+env["NOTIFY_SOCKET"], w.box, "/worker", `notify "READY=1"`, "exit 0"); err != nil {
		t.Fatal(err)
	}
	w.becomes(200, "")
}

func TestTheNotifySocketIsRemoved(t *testing.T) {
	t.Parallel()
	w := work(t, setup{env: []string{"WATCHDOG=1h"}})
	_, env := w.childEnv()
	path := env["NOTIFY_SOCKET"]
	if info, err := os.Stat(path); err != nil || info.Mode().Type() != os.ModeSocket {
		t.Fatalf("NOTIFY_SOCKET=%s: %v", path, err)
	}
	w.stop(0)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", path, err)
	}
}

// upstream is what supervises drainit: systemd, podman.
func upstream(t *testing.T, addr string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func receive(t *testing.T, c *net.UnixConn, want string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 8192)
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("no %q from drainit: %v", want, err)
	}
	if got := string(b[:n]); got != want {
		t.Fatalf("drainit sent %q, want %q", got, want)
	}
}

func TestUpstreamIsToldOfReadinessStoppingAndStatus(t *testing.T) {
	path := func(t *testing.T) string { return filepath.Join(t.TempDir(), "s") }
	for name, addr := range map[string]func(*testing.T) string{
		"a path": path,
		"an abstract name": func(t *testing.T) string {
			return "@drainit-test/" + filepath.Base(filepath.Dir(path(t))) + fmt.Sprint(os.Getpid())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := addr(t)
			u := upstream(t, at)
			w := work(t, setup{env: []string{"READY_CHECK=notify", "NOTIFY_SOCKET=" + at, "GRACE_PERIOD=10s", "DRAIN_WINDOW=500ms"}}, "onterm 0")
			if _, env := w.childEnv(); env["NOTIFY_SOCKET"] == at {
				t.Error("the child has drainit's own NOTIFY_SOCKET")
			}
			w.notify("STATUS=two\u2028lines\nMAINPID=1")
			receive(t, u, "STATUS=twolines\n")
			w.notify("READY=1\nSTATUS=up")
			receive(t, u, "STATUS=up\n")
			receive(t, u, "READY=1\n")
			w.notify("RELOADING=1")
			w.becomes(503, "reloading")
			w.notify("READY=1\nSTATUS=reloaded")
			receive(t, u, "STATUS=reloaded\n") // READY=1 only once
			w.becomes(200, "")
			w.deliver(term)
			receive(t, u, "STOPPING=1\n")
			w.exits(0)
		})
	}
}

func TestAnUpstreamThatDoesNotReadOrIsNotThere(t *testing.T) {
	t.Parallel()
	full := filepath.Join(t.TempDir(), "full")
	upstream(t, full) // without a reader
	for name, at := range map[string]string{"full": full, "gone": filepath.Join(t.TempDir(), "gone"), "nonsense": "nonsense", "too long": "/" + strings.Repeat("x", 200)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := work(t, setup{env: []string{"READY_CHECK=notify", "NOTIFY_SOCKET=" + at, "GRACE_PERIOD=10s", "DRAIN_WINDOW=500ms"}}, "onterm 7")
			for i := range 1000 { // more than any queue holds
				if i%100 == 99 {
					w.notify(fmt.Sprintf("STATUS=%d", i))
				} else {
					fmt.Fprintf(w.in, "notify \"STATUS=%d\"\n", i)
				}
			}
			w.notify("READY=1")
			w.becomes(200, "")
			w.deliver(term)
			w.exits(7)
			told := w.err.count("can't report readiness to NOTIFY_SOCKET")
			if wrong := name == "nonsense" || name == "too long"; wrong != (told == 1) {
				t.Errorf("%d complaints: %s", told, w.err)
			}
		})
	}
}

func TestNotifyWithoutAWritablePlace(t *testing.T) {
	t.Parallel()
	// No /dev/shm, a read-only disk, no capability, another uid: it still
	// works, for senders that understand abstract names.
	w := box(t, []string{"--ipc", "none", "--read-only", "--user", "65534", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"},
		[]string{"READY_CHECK=notify", "WATCHDOG=1h"})
	pid, env := w.childEnv()
	if env["WATCHDOG_PID"] != pid {
		t.Errorf("WATCHDOG_PID=%s, want %s", env["WATCHDOG_PID"], pid)
	}
	w.notify("READY=1")
	w.becomes(200, "")
	// Without a request for the protocol the child gets no name that breaks
	// Ruby's senders.
	quiet := box(t, []string{"--ipc", "none", "--read-only"}, []string{"READY_CHECK=started"})
	if _, env := quiet.childEnv(); env["NOTIFY_SOCKET"] != "" {
		t.Errorf("NOTIFY_SOCKET=%s", env["NOTIFY_SOCKET"])
	}
}

func TestASenderOfAnotherUserIsHeard(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root to change the user")
	}
	child, err := workerProgram()
	if err != nil {
		t.Fatal(err)
	}
	w := work(t, setup{env: []string{"READY_CHECK=notify"}})
	_, env := w.childEnv()
	setpriv := program(t, "/usr/bin/setpriv", "util-linux")
	other := exec.Command("/usr/bin/nsenter", "-t", fmt.Sprint(w.pid), "-p", "-m", setpriv, "--reuid", "65534", "--clear-groups",
		child, `notify "READY=1"`, "exit 0")
	other.Env = []string{"NOTIFY_SOCKET=" + env["NOTIFY_SOCKET"]}
	if out, err := other.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.becomes(200, "")
}
