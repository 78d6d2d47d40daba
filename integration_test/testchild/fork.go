package main

import (
	"runtime"
	"syscall"
	"unsafe"
)

// Forks without exec, for which Go has no call: executing twenty thousand
// programs would take minutes. The forked process has one thread and no working
// Go runtime, so it makes raw system calls and nothing else.

func pointer[T any](p *T) unsafe.Pointer { return unsafe.Pointer(p) }

func lockThread() { runtime.LockOSThread() }

// forkLeaves forks up to count processes that read fd 3 to its end and then
// exit, and returns how many it made.
func forkLeaves(count int) int { return fork(count, false) }

// forkSpinners forks count processes that keep a CPU busy until they are
// killed.
func forkSpinners(count int) int { return fork(count, true) }

//go:noinline
//go:norace
func fork(count int, spin bool) int {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := range count {
		pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			return i
		}
		for pid == 0 {
			if !spin {
				leaf()
			}
		}
	}
	return count
}

//go:nosplit
//go:norace
func leaf() {
	var b [1]byte
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, 3, uintptr(unsafe.Pointer(&b)), 1)
		if n == 0 || errno != 0 && errno != syscall.EINTR {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
}
