package notify

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestListener(t *testing.T) {
	out := make(chan Message)
	l := serve(t, out)
	s := newSender(t, l.Addr())
	s.send("READY=1\nSTATUS=up")
	want := Message{PID: os.Getpid(), Ready: true, Status: "up", HasStatus: true}
	if got := await(t, out); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for i := range 100 {
		go s.send(fmt.Sprintf("STATUS=%d", i))
	}
	for range 100 {
		await(t, out)
	}
	if pid, err := l.LastRefusal(); pid != 0 || err != nil {
		t.Errorf("last refusal: %d, %v", pid, err)
	}
}

func TestListenersHaveTheirOwnNames(t *testing.T) {
	a, b := serve(t, nil), serve(t, nil)
	if a.Addr() == b.Addr() {
		t.Errorf("both are %s", a.Addr())
	}
	if !strings.HasPrefix(a.Addr(), "@") || len(a.Addr()) < 32 || len(a.Addr()) > 107 {
		t.Errorf("address %q", a.Addr())
	}
}

func TestListenIn(t *testing.T) {
	dir := t.TempDir()
	l, err := ListenIn(dir, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan Message)
	serveOn(t, l, out)
	info, err := os.Stat(l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != os.ModeSocket|0o666 || filepath.Dir(l.Addr()) != dir {
		t.Errorf("%s is %v", l.Addr(), info.Mode())
	}
	newSender(t, l.Addr()).send("READY=1")
	await(t, out)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := ListenIn(filepath.Join(dir, "missing"), os.Getpid()); err == nil {
		t.Error("no error for a missing directory")
	}
}

func TestRefusedDatagrams(t *testing.T) {
	out := make(chan Message)
	l := serve(t, out)
	s := newSender(t, l.Addr())
	for _, bad := range []string{
		"", "\x00", "READY=1\x00STATUS=x", "READY=yes", "EXTEND_TIMEOUT_USEC=soon",
		"READY=1\nX=" + strings.Repeat("x", MaxDatagram),
		"READY=1\nX=" + strings.Repeat("x", 20*MaxDatagram),
	} {
		s.send(bad)
	}
	s.send("X_NOTHING=1") // not refused, and not worth a message
	s.send("READY=1\nMAINPID=none\nX=" + strings.Repeat("x", MaxDatagram-23))
	if got, want := await(t, out), (Message{PID: os.Getpid(), Ready: true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if malformed, foreign := l.Refused(); malformed != 8 || foreign != 0 {
		t.Errorf("refused %d malformed and %d foreign, want 8 and 0", malformed, foreign)
	}
	if pid, err := l.LastRefusal(); pid != os.Getpid() || err == nil || !strings.Contains(err.Error(), "MAINPID") {
		t.Errorf("last refusal: %d, %v", pid, err)
	}
}

// TestServeRecovers: a panic (here: a closed channel) costs only the datagram.
func TestServeRecovers(t *testing.T) {
	out := make(chan Message)
	close(out)
	l := serve(t, out)
	s := newSender(t, l.Addr())
	for range 3 {
		s.send("READY=1")
	}
	barrier(t, s)
	if malformed, _ := l.Refused(); malformed != 3 {
		t.Errorf("counted %d, want 3", malformed)
	}
}

// barrier waits until everything sent before has been handed on.
func barrier(t *testing.T, s *sender) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.send("BARRIER=1", int(w.Fd()))
	w.Close()
	r.SetReadDeadline(time.Now().Add(deadline))
	if n, err := r.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		t.Fatalf("barrier: read %d bytes, %v", n, err)
	}
}

func TestBarrier(t *testing.T) {
	out := make(chan Message, 5)
	s := newSender(t, serve(t, out).Addr())
	for range cap(out) {
		s.send("WATCHDOG=1")
	}
	barrier(t, s)
	if len(out) != cap(out) {
		t.Errorf("%d of %d messages were handed on before the barrier", len(out), cap(out))
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestDescriptorsDoNotLeak(t *testing.T) {
	if n := descriptorsWithoutRoom(t); n > 0 {
		t.Skipf("recvmsg(2) has opened %d descriptors that it had no room to report, as qemu's user-mode emulator does", n)
	}
	out := make(chan Message, 1000)
	l := serve(t, out)
	s := newSender(t, l.Addr())
	barrier(t, s)
	before := openFiles(t)
	many := make([]int, 200)
	for i := range many {
		many[i] = s.fd
	}
	for range 100 {
		s.send("FDSTORE=1\nFDNAME=x", many...)
		s.send("READY=1", s.fd)
		s.send("READY=1\x00\x00", s.fd, s.fd)                          // malformed
		s.send("X="+strings.Repeat("x", MaxDatagram), s.fd)            // oversized
		s.send("BARRIER=1\nREADY=1\nSTATUS=more than a barrier", s.fd) // tolerated
	}
	barrier(t, s)
	if after := openFiles(t); after != before {
		t.Errorf("%d open files before, %d after", before, after)
	}
	if len(out) != 200 {
		t.Errorf("%d messages, want 200", len(out))
	}
}

// descriptorsWithoutRoom returns how many descriptors a message opens here that
// the receiver has no room for. Linux closes them.
func descriptorsWithoutRoom(t *testing.T) int {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	many := make([]int, 20)
	for i := range many {
		many[i] = pair[0]
	}
	if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(many...), nil, 0); err != nil {
		t.Fatal(err)
	}
	before := openFiles(t)
	room := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[1], make([]byte, 1), room, 0)
	if err != nil {
		t.Fatal(err)
	}
	opened := openFiles(t) - before
	reported := (n - unix.CmsgLen(0)) / 4
	for fd := range reported {
		unix.Close(int(binary.NativeEndian.Uint32(room[unix.CmsgLen(0)+4*fd:])))
	}
	return opened - reported
}

func TestCloseEndsServe(t *testing.T) {
	run := func(t *testing.T, out chan Message) (*Listener, chan struct{}) {
		l, err := Listen(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			l.Serve(out)
		}()
		return l, ended
	}
	t.Run("while it waits for a datagram", func(t *testing.T) {
		out := make(chan Message)
		l, ended := run(t, out)
		newSender(t, l.Addr()).send("READY=1")
		await(t, out)
		for range 2 {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		await(t, ended)
	})
	t.Run("while the message is not received", func(t *testing.T) {
		l, ended := run(t, make(chan Message))
		newSender(t, l.Addr()).send("READY=1")
		for giveUp := time.Now().Add(deadline); queued(t, l) > 0; runtime.Gosched() {
			if time.Now().After(giveUp) {
				t.Fatal("the datagram is still in the queue")
			}
		}
		l.Close()
		await(t, ended)
	})
	t.Run("before it began", func(t *testing.T) {
		l, err := Listen(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		l.Serve(nil)
	})
}

// onSocket calls f with l's descriptor.
func onSocket(t *testing.T, l *Listener, f func(fd int)) {
	t.Helper()
	conn, err := l.file.SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) { f(int(fd)) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// queued is the size of the first datagram that l has not read yet.
func queued(t *testing.T, l *Listener) (size int) {
	t.Helper()
	onSocket(t, l, func(fd int) {
		var err error
		if size, err = unix.IoctlGetInt(fd, unix.SIOCINQ); err != nil {
			t.Fatal(err)
		}
	})
	return size
}

// TestFlood: every datagram of another process arrives, in order, and nothing
// grows.
func TestFlood(t *testing.T) {
	flood := 100_000
	if testing.Short() {
		flood = 10_000
	}
	out := make(chan Message)
	l := serve(t, out)
	cmd, stdin := role(t, "send", "NOTIFY_SOCKET="+l.Addr(), fmt.Sprint("COUNT=", flood),
		"DATAGRAM=WATCHDOG=1\nSTATUS="+strings.Repeat("x", 1000))
	var before, after runtime.MemStats
	files := openFiles(t)
	runtime.GC()
	runtime.ReadMemStats(&before)
	start(t, cmd, stdin)
	timeout := time.After(2 * time.Minute)
	for i := range flood {
		select {
		case m := <-out:
			if m.PID != cmd.Process.Pid || !m.Watchdog || len(m.Status) != MaxStatus {
				t.Fatalf("datagram %d: %+v", i, m)
			}
		case <-timeout:
			t.Fatalf("stopped after %d datagrams", i)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 16<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("%d bytes are still in use", grown)
	}
	stdin.Close()
	cmd.Wait()
	if after := openFiles(t); after > files {
		t.Errorf("%d open files before, %d after", files, after)
	}
}

// listener starts a listener in another process. It returns its address and a
// function that makes it report and returns what it printed.
func listener(t *testing.T, attr *syscall.SysProcAttr) (addr string, report func() string) {
	t.Helper()
	cmd, stdin := role(t, "listen")
	cmd.SysProcAttr = attr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		if attr != nil {
			t.Skipf("no PID namespace to be had: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	printed := lines(stdout)
	return await(t, printed), func() string {
		if _, err := fmt.Fprintln(stdin, "report"); err != nil {
			t.Fatal(err)
		}
		return await(t, printed)
	}
}

// newPIDNamespace makes a process PID 1 of its own, as any user may.
func newPIDNamespace() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
}

// As PID 1 of a container: a sender from outside has no PID there.
func TestSenderOutsideThePIDNamespace(t *testing.T) {
	addr, report := listener(t, newPIDNamespace())
	if got, want := report(), "report true 0 0"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	s := newSender(t, addr)
	s.send("READY=1\nSTATUS=from outside")
	s.send(strings.Repeat("x", 2*MaxDatagram), s.fd)
	if got, want := report(), "report true 0 2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// With the PID namespace shared: a process that is not the listener's own.
func TestSenderThatDoesNotDescend(t *testing.T) {
	addr, report := listener(t, nil)
	newSender(t, addr).send("READY=1\nSTATUS=from a stranger")
	if got, want := report(), "report true 0 1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSenderInANestedPIDNamespace(t *testing.T) {
	out := make(chan Message)
	cmd, stdin := role(t, "send", "NOTIFY_SOCKET="+serve(t, out).Addr(), "COUNT=1", "DATAGRAM=READY=1")
	cmd.SysProcAttr = newPIDNamespace()
	if err := cmd.Start(); err != nil {
		t.Skipf("no PID namespace to be had: %v", err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	if m := await(t, out); m.PID != cmd.Process.Pid || !m.Ready {
		t.Errorf("got %+v from process %d", m, cmd.Process.Pid)
	}
}

// TestSenderWithAStrangeName: a process may choose any name.
func TestSenderWithAStrangeName(t *testing.T) {
	out := make(chan Message)
	cmd, stdin := role(t, "send", "NOTIFY_SOCKET="+serve(t, out).Addr(), "COUNT=1",
		"DATAGRAM=READY=1", "COMM=x) S 1 1\n(y) Z")
	start(t, cmd, stdin)
	if m := await(t, out); m.PID != cmd.Process.Pid {
		t.Errorf("got %+v from process %d", m, cmd.Process.Pid)
	}
}

// A sender that has gone when its datagram is read can't be told from a
// stranger, if drainit is not PID 1.
func TestSenderThatHasGone(t *testing.T) {
	l, err := Listen(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	cmd, stdin := role(t, "send", "NOTIFY_SOCKET="+l.Addr(), "COUNT=1", "DATAGRAM=READY=1")
	stdin.Close()
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	out := make(chan Message, 1)
	serveOn(t, l, out)
	barrier(t, newSender(t, l.Addr()))
	if _, foreign := l.Refused(); foreign != 1 || len(out) != 0 {
		t.Errorf("%d foreign, %d messages; want 1, 0", foreign, len(out))
	}
}

// TestSocketIsNotInherited: children inherit no descriptor of the socket.
func TestSocketIsNotInherited(t *testing.T) {
	l := serve(t, nil)
	var socket string
	onSocket(t, l, func(fd int) { socket, _ = os.Readlink(fmt.Sprint("/proc/self/fd/", fd)) })
	if !strings.HasPrefix(socket, "socket:[") {
		t.Fatalf("the listener is %q", socket)
	}
	inherited, err := exec.Command("ls", "-l", "/proc/self/fd").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(inherited), socket) {
		t.Errorf("%s is open in a child:\n%s", socket, inherited)
	}
}
