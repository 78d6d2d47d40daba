package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The addresses. The node is the container's default gateway, as it is on a
// bridge; balancers and clients come from elsewhere.
const (
	nodeIP     = "10.99.0.1"
	serverIP   = "10.99.0.2"
	nodeIP6    = "fd99::1"
	serverIP6  = "fd99::2"
	serverPort = 8000
	healthPort = 8099
	healthAddr = serverIP + ":8099"
)

// clientIP is the address of client i: there are a hundred.
func clientIP(i int) string { return fmt.Sprintf("10.99.0.%d", 100+i%100) }

// balancerIP is the address of balancer i: there are fifty.
func balancerIP(i int) string { return fmt.Sprintf("10.99.0.%d", 10+i%50) }

// ip runs iproute2's.
func ip(args string) error {
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %v: %s", args, err, out)
	}
	return nil
}

// ips runs several, until one fails.
func ips(lines ...string) error {
	for _, l := range lines {
		if err := ip(l); err != nil {
			return err
		}
	}
	return nil
}

// pair makes a pair of interfaces, one here and one in the namespace of the
// process.
func pair(pid int) error {
	return ip(fmt.Sprintf("link add eth0 type veth peer name eth0 netns %d", pid))
}

// clientSide gives this side its addresses. Those of the balancers and the
// clients are not eth0's, which ends with the server's namespace.
func clientSide() error {
	lines := []string{
		"link set lo up",
		"link set eth0 up",
		"address add " + nodeIP + "/24 dev eth0",
		"address add " + nodeIP6 + "/64 dev eth0 nodad",
	}
	if err := ips(lines...); err != nil {
		return err
	}
	var batch strings.Builder
	for i := range 100 {
		fmt.Fprintf(&batch, "address add %s/32 dev lo\n", clientIP(i))
	}
	for i := range 50 {
		fmt.Fprintf(&batch, "address add %s/32 dev lo\n", balancerIP(i))
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip -batch: %v: %s", err, out)
	}
	return nil
}

// serverSide is the other one's.
func serverSide() error {
	return ips("link set lo up", "link set eth0 up",
		"address add "+serverIP+"/24 dev eth0", "address add "+serverIP6+"/64 dev eth0 nodad",
		"route add default via "+nodeIP)
}

// enter is the first program in the server's namespaces. It waits for its
// network, and becomes the command.
func enter(args []string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "clients: enter:", err)
			os.Exit(1)
		}
	}
	var go1 [1]byte
	_, err := os.NewFile(3, "network").Read(go1[:])
	fail(err)
	fail(ownProc())
	fail(serverSide())
	if args[0] == "-denied" {
		args = args[1:]
		fail(denyNetlink())
	}
	path, err := exec.LookPath(args[0])
	fail(err)
	unix.CloseOnExec(3)
	fail(unix.Exec(path, args, os.Environ()))
}

// ownProc mounts the /proc of the PID namespace.
func ownProc() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// denyNetlink installs a seccomp filter under which socket(AF_NETLINK, …) is
// EPERM.
func denyNetlink() error {
	const (
		numberAt = 0  // offsetof(struct seccomp_data, nr)
		domainAt = 16 // args[0], little-endian
	)
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: numberAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 3, K: unix.SYS_SOCKET},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: domainAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.AF_NETLINK},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// The filter is this thread's, and the thread is what execs.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)), 0, 0)
}

// die makes a connection that of a client whose machine is gone: its kernel
// takes no packet any more, and so acknowledges none.
func die(c net.Conn) error {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	fprog := unix.SockFprog{Len: 1, Filter: &drop}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog)
	}); err != nil {
		return err
	}
	return failed
}

// inside runs f on a thread that is in the server's network namespace: sockets
// made there are the container's own.
func (w *world) inside(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and the thread ends with the goroutine
		if err := unix.Setns(int(w.serverNet.Fd()), unix.CLONE_NEWNET); err != nil {
			return // the server is gone, and its namespace closed
		}
		f()
	}()
	<-done
}
