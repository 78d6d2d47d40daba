package integration_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These are about what other processes of a container, and its limits, can do
// to PID 1.

// sigqueue sends sig as sigqueue(3) does. The Go runtime takes a fault signal
// that was sent so for a fault of its own.
func (p *process) sigqueue(sig unix.Signal) {
	p.t.Helper()
	const siQueue = -1
	info := struct {
		signo, errno, code, pad, pid, uid int32
		rest                              [104]byte
	}{signo: int32(sig), code: siQueue, pid: int32(os.Getpid())}
	if _, _, errno := unix.Syscall(unix.SYS_RT_SIGQUEUEINFO,
		uintptr(p.pid), uintptr(sig), uintptr(unsafe.Pointer(&info))); errno != 0 {
		p.t.Fatalf("sigqueue %d: %v", sig, errno)
	}
}

func TestQueuedFaultSignalsAreForwarded(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("on " + runtime.GOARCH + " they end drainit, as SECURITY.md says")
	}
	p := start(t, setup{env: quick}, "--", testchild, "signals", "-exit", "15:3")
	p.says("ready")
	for _, sig := range []unix.Signal{unix.SIGILL, unix.SIGTRAP, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS} {
		p.sigqueue(sig)
		p.says(fmt.Sprintf("got %d\n", sig))
	}
	p.signal(unix.SIGTERM)
	p.exits(3)
}

// A pipe holds far less than the lines about so many processes.
func TestTheEndOfTheLogIsThereWhenManyProcessesEndTogether(t *testing.T) {
	crowd(t, 2000)
	p := start(t, setup{env: append(quick, "LOG_LEVEL=debug")}, "--", testchild, "orphans", "-count", "2000", "-exit", "42")
	long(t, p.out, "ready")
	p.signal(unix.SIGUSR1)
	p.exits(42)
	if !strings.Contains(p.err.String(), `drainit: ended"`) {
		t.Errorf("the last line is missing: %s", p.err.tail())
	}
}

// A server with an inherited listener (socket activation) closes it when it
// stops. A second copy would go on accepting connections that are never served.
func TestAnInheritedListenerIsTheChildsAlone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	stdin, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	p := start(t, setup{env: quick, extra: []*os.File{f}, stdin: stdin}, "--", "/bin/sh", "-c",
		`read -r line; exec 3<&-; exec "$0" signals -exit 15:3`, testchild)
	f.Close()
	l.Close()
	addr := l.Addr().String()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("the child has no listener: %v", err)
	}
	c.Close()
	w.Close() // now the child goes on
	p.says("ready")
	eventually(t, "connections are refused once the child has closed its listener", func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	p.signal(unix.SIGTERM)
	p.exits(3)
}

// The kernel raises SIGXFSZ for a write beyond RLIMIT_FSIZE, here drainit's own
// to its log.
func TestItsOwnSIGXFSZIsNotTheChilds(t *testing.T) {
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := start(t, setup{env: append(quick, "LOG_LEVEL=debug"), stderr: log,
		shell: []string{"/bin/sh", "-c", `ulimit -f 0; exec "$0" -- "$1" signals -exit 15:3`, drainit, testchild}})
	p.says("ready")
	for range 10 {
		p.signal(unix.SIGUSR1) // each is a line of the log
	}
	p.says("got 10")
	p.signal(unix.SIGTERM)
	p.exits(3)
	if p.out.count("got 25") > 0 {
		t.Errorf("the child got SIGXFSZ: %s", p.out)
	}
}

// With fewer than seven descriptors the Go runtime ends the program before its
// first line.
func TestTooFewDescriptorsAreExplained(t *testing.T) {
	env, _ := healthPort(t)
	for n := 7; n <= 24; n++ {
		p := start(t, setup{direct: true, env: []string{env}, shell: []string{"/bin/sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" -- /bin/true`, n), drainit}})
		if code := p.wait(); code != 0 && (code != 125 || p.err.count("drainit: hint: ") != 1) {
			t.Errorf("%d descriptors: code %d, want 0, or 125 and a hint: %s", n, code, p.err.tail())
		}
	}
}

func TestAWatchdogWithoutProc(t *testing.T) {
	p := start(t, setup{proc: "none", env: append(quick, "DRAINIT_WATCHDOG=1h")}, "--", testchild, "signals", "-exit", "15:3")
	p.says("ready")
	p.signal(unix.SIGTERM)
	p.exits(3)
}

// TestBypassWithoutItsPort: a port that can't be had is no reason not to start,
// and the log does not name it as served.
func TestBypassWithoutItsPort(t *testing.T) {
	p := start(t, setup{env: []string{"HEALTH_ADDR=192.0.2.1:80", "DRAINIT_BYPASS=1"}},
		"--", testchild, "signals", "-exit", "15:3")
	line := p.logs("readiness is not served")
	if hint := attribute(t, line, "hint"); !strings.Contains(hint, "another") || strings.Contains(attribute(t, line, "error"), "hint") {
		t.Errorf("no hint of its own: %s", line)
	}
	if health := attribute(t, p.logs("forwards the stop signal at once"), "health"); health != "not served" {
		t.Errorf("health=%q, want that it is not served", health)
	}
	p.says("ready")
	p.signal(unix.SIGTERM)
	p.exits(3)
}

func TestBypassIsAPlainInit(t *testing.T) {
	health, url := healthPort(t)
	p := start(t, setup{env: []string{health, "DRAINIT_BYPASS=1", "GRACE_PERIOD=10m", "DRAIN_WINDOW=5m", "DRAIN_UNTIL=closed", "READY_CHECK=http://127.0.0.1:1/never"}},
		"--", testchild, "signals", "-exit", "15:3")
	if line := p.logs("bypassed"); !strings.Contains(line, "level=WARN") {
		t.Errorf("no warning: %s", line)
	}
	p.says("ready")
	answers(t, url+"/readyz", 200)
	if _, body := get(url + "/readyz"); !strings.Contains(body, "DRAINIT_BYPASS") || strings.Contains(body, "READY_CHECK") {
		t.Errorf("/readyz: %s", body)
	}
	answers(t, url+"/livez", 200)
	p.signal(unix.SIGTERM)
	p.exits(3)
}
