// Package kernels runs drainit on kernels other than this machine's: as the only
// program of a virtual machine, which may lose its clock, its memory, its modules
// and its IPv6. scripts/test-kernels boots them; elsewhere the tests are skipped.
package kernels

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for what should happen soon, on an emulated machine.
const patience = 4 * time.Minute

// role is the variable that makes the test binary a program of its own.
const role = "KERNELS_ROLE"

func TestMain(m *testing.M) {
	switch words := strings.Fields(os.Getenv(role)); {
	case len(words) == 2 && words[0] == "serve":
		serve(words[1])
	case len(words) == 1 && words[0] == "eat":
		eat()
	}
	os.Exit(m.Run())
}

// serve answers each line, a number of milliseconds, after that time, and dies of
// SIGTERM as most servers do.
func serve(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		go func() {
			defer c.Close()
			lines := bufio.NewScanner(c)
			for lines.Scan() {
				n, _ := strconv.Atoi(lines.Text())
				time.Sleep(time.Duration(n) * time.Millisecond)
				fmt.Fprintln(c, "done")
			}
		}()
	}
}

// eat takes memory until there is none.
func eat() {
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		all = append(all, b)
		runtime.KeepAlive(all)
	}
}

// inVM skips where the tests would do to this machine what they do to theirs.
func inVM(t *testing.T) {
	t.Helper()
	if os.Getenv("KERNELS_VM") == "" {
		t.Skip("runs in a virtual machine: make test-kernels")
	}
}

const health, server = "127.0.0.1:8099", "127.0.0.1:8080"

// running is a drainit in front of this binary.
type running struct {
	*exec.Cmd
	t    *testing.T
	log  *buffer
	done chan struct{}
}

// buffer is a log that is read while it is written.
type buffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// start runs drainit in front of a child of this role, in a cgroup of its own
// with these settings.
func start(t *testing.T, child string, limits map[string]string, env ...string) *running {
	t.Helper()
	inVM(t)
	group := cgroup(t, limits)
	return startIn(t, group, child, env...)
}

func startIn(t *testing.T, group, child string, env ...string) *running {
	t.Helper()
	return prepare(t, child, env...).launch(group)
}

// prepare returns drainit, not started yet, in front of a child of this role.
func prepare(t *testing.T, child string, env ...string) *running {
	r := &running{Cmd: exec.Command("/drainit", "--", os.Args[0]), t: t, log: new(buffer), done: make(chan struct{})}
	r.Env = append([]string{"PATH=/bin", role + "=" + child, "DRAINIT_HEALTH_ADDR=" + health, "DRAINIT_GRACE_PERIOD=30s",
		"DRAINIT_DRAIN_WINDOW=1s", "DRAINIT_DRAIN_UNTIL=idle"}, env...)
	r.Stdout, r.Stderr = r.log, r.log
	return r
}

// launch starts it in a cgroup.
func (r *running) launch(group string) *running {
	t := r.t
	t.Helper()
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	r.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with drainit
		r.Wait()
		close(r.done)
	}()
	t.Cleanup(func() {
		os.WriteFile(filepath.Join(group, "cgroup.kill"), []byte("1"), 0)
		<-r.done
		if t.Failed() {
			t.Logf("drainit's log:\n%s", r.log)
		}
	})
	return r
}

var groups int

// cgroup makes one, which ends with the test.
func cgroup(t *testing.T, limits map[string]string) string {
	t.Helper()
	groups++
	dir := fmt.Sprintf("/sys/fs/cgroup/test-%d", groups)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, value := range limits {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// readiness asks drainit's port.
func readiness() (string, error) {
	c, err := net.DialTimeout("tcp", health, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(c, "GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n")
	answer, err := io.ReadAll(c)
	return string(answer), err
}

func (r *running) ready() *running {
	r.t.Helper()
	eventually(r.t, "ready", func() bool {
		answer, _ := readiness()
		return strings.HasPrefix(answer, "HTTP/1.1 200 ")
	})
	return r
}

func (r *running) signal(s unix.Signal) {
	r.t.Helper()
	if err := unix.Kill(r.Process.Pid, s); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) says(words string) {
	r.t.Helper()
	eventually(r.t, "the log says "+words, func() bool { return strings.Contains(r.log.String(), words) })
}

// ends waits for drainit's end and checks its exit code.
func (r *running) ends(code int) {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Fatalf("not ended within %s", patience)
	}
	if got := r.ProcessState.ExitCode(); got != code {
		r.t.Errorf("exit code %d, want %d", got, code)
	}
}

// request sends one that takes ms to answer; the channel has the answer, or why
// there is none.
func request(t *testing.T, ms int) <-chan string {
	t.Helper()
	c, err := net.Dial("tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(c, ms)
	answer := make(chan string, 1)
	go func() { // ends with the connection
		defer c.Close()
		b := make([]byte, 16)
		n, err := c.Read(b)
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- strings.TrimSpace(string(b[:n]))
	}()
	return answer
}

// diag is how the kernel's sock_diag is there: loaded, loadable or absent.
func diag() string { return os.Getenv("KERNELS_DIAG") }

func TestARequestInFlightIsWaitedFor(t *testing.T) {
	r := start(t, "serve "+server, nil).ready()
	answer := request(t, 4000)
	time.Sleep(500 * time.Millisecond) // so that it is read, and nothing queued
	r.signal(unix.SIGTERM)
	r.says("stop asked for")
	if diag() == "absent" {
		// Only what is queued is seen there, and the log says so.
		r.says("reading /proc/net/tcp")
		r.ends(143)
		return
	}
	if got := <-answer; got != "done" {
		t.Errorf("the client got %q, want done", got)
	}
	r.ends(143)
	if log := r.log.String(); strings.Contains(log, "level=WARN") {
		t.Error("warnings, want none")
	}
}

func TestIPv6(t *testing.T) {
	inVM(t)
	_, err := net.Listen("tcp", "[::1]:0")
	if off := os.Getenv("KERNELS_IPV6") == "off"; off != (err != nil) {
		t.Fatalf("IPv6 off: %v, listen: %v", off, err)
	}
	r := start(t, "serve :8080", nil, "DRAINIT_HEALTH_ADDR=:8099").ready()
	answer := request(t, 3000)
	time.Sleep(300 * time.Millisecond)
	r.signal(unix.SIGTERM)
	if got := <-answer; got != "done" && diag() != "absent" {
		t.Errorf("the client got %q, want done", got)
	}
	r.ends(143)
}

func TestTheClockIsSteppedInTheDrain(t *testing.T) {
	for _, step := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
		r := start(t, "serve "+server, nil, "DRAINIT_DRAIN_UNTIL=window", "DRAINIT_DRAIN_WINDOW=4s").ready()
		began := monotonic()
		r.signal(unix.SIGTERM)
		r.says("stop asked for")
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
			t.Fatal(err)
		}
		stepped := unix.NsecToTimespec(now.Nano() + int64(step))
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &stepped); err != nil {
			t.Fatal(err)
		}
		r.ends(143)
		if took := monotonic() - began; took < 4*time.Second || took > time.Minute {
			t.Errorf("stepped by %s: ended after %s, want 4s and little more", step, took)
		}
		if !strings.Contains(r.log.String(), "why=window") {
			t.Errorf("stepped by %s: not forwarded because of the window", step)
		}
	}
}

// TestSuspendedInTheDrain suspends the machine to RAM, and has its clock wake it.
// CLOCK_MONOTONIC, by which a drain is timed, stands still meanwhile.
func TestSuspendedInTheDrain(t *testing.T) {
	inVM(t)
	const (
		alarm  = "/sys/class/rtc/rtc0/wakealarm"
		asleep = 8 * time.Second
	)
	if err := os.WriteFile("/sys/power/mem_sleep", []byte("deep"), 0); err != nil {
		t.Skipf("this machine can't suspend to RAM: %v", err)
	}
	r := start(t, "serve "+server, nil, "DRAINIT_DRAIN_WINDOW=4s").ready()
	answer := request(t, 6000)
	began, woken := monotonic(), boottime()
	r.signal(unix.SIGTERM)
	r.says("stop asked for")
	if err := os.WriteFile(alarm, fmt.Appendf(nil, "+%d", asleep/time.Second), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/sys/power/state", []byte("mem"), 0); err != nil {
		t.Fatal(err)
	}
	if slept := (boottime() - woken) - (monotonic() - began); slept < asleep/2 {
		t.Fatalf("the machine slept for %s, want about %s", slept, asleep)
	}
	if answer, err := readiness(); err != nil || !strings.HasPrefix(answer, "HTTP/1.1 503 ") {
		t.Errorf("after the resume /readyz answers %q, %v, want 503", answer, err)
	}
	if got := <-answer; got != "done" && diag() != "absent" {
		t.Errorf("the client got %q, want done", got)
	}
	r.ends(143)
	if awake := monotonic() - began; awake < 4*time.Second {
		t.Errorf("the stop took %s of waking time, want 4s at least", awake)
	}
}

// boottime goes on while the machine is suspended.
func boottime() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
	return time.Duration(t.Nano())
}

func monotonic() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return time.Duration(t.Nano())
}

func TestLastWordsAfterTheOOMKiller(t *testing.T) {
	r := start(t, "eat", map[string]string{"memory.max": "24M"}, "DRAINIT_READY_CHECK=started")
	r.ends(137)
	r.says("oom_kill counter rose by 1")
}

func TestLittleMemory(t *testing.T) {
	for _, limit := range []string{"8M", "16M"} {
		r := start(t, "serve "+server, map[string]string{"memory.max": limit}).ready()
		answer := request(t, 2000)
		r.signal(unix.SIGTERM)
		if got := <-answer; got != "done" && diag() != "absent" {
			t.Errorf("%s: the client got %q, want done", limit, got)
		}
		r.ends(143)
	}
}

// TestHugePages has a kernel that gives huge pages to all, as Debian's does: a
// heap of some hundred kilobytes would have two of 2 MB.
func TestHugePages(t *testing.T) {
	inVM(t)
	const enabled, mostKB = "/sys/kernel/mm/transparent_hugepage/enabled", 2 << 10
	if err := os.WriteFile(enabled, []byte("always"), 0); err != nil {
		t.Skipf("this kernel has no transparent huge pages: %v", err)
	}
	r := start(t, "serve "+server, nil).ready()
	for range 100 {
		readiness()
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	var kB int
	if fmt.Sscan(rest, &kB); kB == 0 || kB > mostKB {
		t.Errorf("%d kB of anonymous memory, want at most %d", kB, mostKB)
	}
	r.signal(unix.SIGTERM)
	r.ends(143)
}

func TestLittleCPU(t *testing.T) {
	// Of 100,000. An emulated CPU has a tenth of a real one's speed, or less.
	for _, quota := range []string{"10000", "50000"} {
		r := start(t, "serve "+server, nil).ready()
		group := strings.TrimSpace(cgroupOf(t, r.Process.Pid))
		if err := os.WriteFile(filepath.Join(group, "cpu.max"), []byte(quota+" 100000"), 0); err != nil {
			t.Fatal(err)
		}
		r.signal(unix.SIGTERM)
		r.says("stop signal forwarded")
		r.ends(143)
	}
}

func cgroupOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, path, _ := strings.Cut(strings.TrimSpace(string(b)), "0::")
	return "/sys/fs/cgroup" + path
}

// TestFullDisk has no room for the log, nor for the termination message.
func TestFullDisk(t *testing.T) {
	inVM(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	termination := filepath.Join(dir, "termination-log")
	stderr, err := os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	if err := os.WriteFile(termination, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "full"), make([]byte, 8192), 0o644); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	r := prepare(t, "serve "+server, "DRAINIT_TERMINATION_LOG="+termination)
	r.Stderr = stderr
	r.launch(cgroup(t, nil)).ready()
	answer := request(t, 2000)
	r.signal(unix.SIGTERM)
	if got := <-answer; got != "done" && diag() != "absent" {
		t.Errorf("the client got %q, want done", got)
	}
	r.ends(143)
	for _, f := range []string{stderr.Name(), termination} {
		if info, err := os.Stat(f); err != nil || info.Size() != 0 {
			t.Errorf("%s: %d bytes on a full disk, %v", f, info.Size(), err)
		}
	}
}

func TestNoMoreProcesses(t *testing.T) {
	r := start(t, "serve "+server, nil).ready()
	group := cgroupOf(t, r.Process.Pid)
	current, err := os.ReadFile(filepath.Join(group, "pids.current"))
	if err != nil {
		t.Fatal(err)
	}
	// From now on nothing in there can make a thread.
	if err := os.WriteFile(filepath.Join(group, "pids.max"), current, 0); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if _, err := readiness(); err != nil {
			t.Fatal(err)
		}
	}
	r.signal(unix.SIGTERM)
	r.ends(143)
	r.says("stop signal forwarded")
}

func TestFrozenInTheDrain(t *testing.T) {
	r := start(t, "serve "+server, nil).ready()
	group := cgroupOf(t, r.Process.Pid)
	r.signal(unix.SIGTERM)
	r.says("stop asked for")
	freeze := filepath.Join(group, "cgroup.freeze")
	if err := os.WriteFile(freeze, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // past the window: everything is due when it goes on
	if err := os.WriteFile(freeze, []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	r.ends(143)
	r.says("stop signal forwarded")
}

func TestFewDescriptors(t *testing.T) {
	inVM(t)
	var old unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &old)
	few := unix.Rlimit{Cur: 16, Max: old.Max}
	group := cgroup(t, nil)
	// Inherited by what is started now; restored for this process.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	r := startIn(t, group, "serve "+server)
	unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	r.ready()
	r.signal(unix.SIGTERM)
	r.ends(143)
}

// TestWhoseListener has a neighbour in another cgroup of the same network
// namespace: two containers of one pod.
func TestWhoseListener(t *testing.T) {
	inVM(t)
	neighbour := exec.Command(os.Args[0])
	neighbour.Env = []string{role + "=serve 127.0.0.1:8081"}
	dir, err := os.Open(cgroup(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	neighbour.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Cloneflags: unix.CLONE_NEWPID}
	if err := neighbour.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { neighbour.Process.Kill(); neighbour.Wait() }()
	eventually(t, "the neighbour listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:8081")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	r := start(t, "serve "+server, nil).ready()
	answer, err := readiness()
	if err != nil || !strings.Contains(answer, "listening on 8080") {
		t.Errorf("%v %q, want: listening on 8080", err, answer)
	}
	r.signal(unix.SIGTERM)
	r.ends(143)
}

// TestHiddenProcesses runs as a user that sees no process but its own.
func TestHiddenProcesses(t *testing.T) {
	inVM(t)
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_REMOUNT, "hidepid=2"); err != nil {
		t.Fatal(err)
	}
	defer unix.Mount("proc", "/proc", "proc", unix.MS_REMOUNT, "hidepid=0")
	r := &running{Cmd: exec.Command("/drainit", "--", os.Args[0]), t: t, log: new(buffer), done: make(chan struct{})}
	r.Env = []string{"PATH=/bin", role + "=serve " + server, "DRAINIT_HEALTH_ADDR=" + health, "DRAINIT_DRAIN_WINDOW=1s"}
	r.Stdout, r.Stderr = r.log, r.log
	r.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.Wait(); close(r.done) }() // ends with drainit
	defer r.Process.Kill()
	r.ready()
	r.signal(unix.SIGTERM)
	r.ends(143)
}

// TestAsPID1 is a container's: everything ends with it.
func TestAsPID1(t *testing.T) {
	inVM(t)
	c := exec.Command("/drainit", "--", "/bin/sh", "-c", "(sleep 1000 &) ; (sleep 0.1 &) ; sleep 0.5; exit 7")
	c.Env = []string{"PATH=/bin", "DRAINIT_HEALTH_ADDR=off", "DRAINIT_READY_CHECK=started", "DRAINIT_ORPHAN_GRACE=1s"}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("%v, want exit code 7\n%s", err, out)
	}
}
