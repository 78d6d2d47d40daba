package sockets

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// runIsolated runs the tests. The kernel counts arrivals for a whole network
// namespace, so they run in one of their own, where no other program's
// connections come in between. Where the kernel refuses one they run in the
// machine's.
func runIsolated(m *testing.M) int {
	const inside = "SOCKETS_TEST_NETNS"
	if os.Getenv(inside) != "" {
		if err := loopbackUp(); err != nil {
			fmt.Fprintln(os.Stderr, "can't bring the loopback up:", err)
			return 1
		}
		// Tests wait for the kernel's clock and for each other, not for a CPU;
		// fuzzing has a worker for each, which waits for nothing else.
		flag.Parse()
		if flag.Lookup("test.fuzz").Value.String() == "" {
			flag.Set("test.parallel", "32")
		}
		return m.Run()
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN}
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "no network namespace of our own, other programs' connections may disturb:", err)
		return m.Run()
	}
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// slow skips a test that waits for the kernel's clock, under -short.
func slow(t *testing.T, why string) {
	if testing.Short() {
		t.Skip("takes seconds: " + why)
	}
}

// runs is how many random runs a test makes; fewer under -short.
func runs(n int) int {
	if testing.Short() {
		return n / 5
	}
	return n
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
