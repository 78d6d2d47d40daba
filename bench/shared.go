package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shared is the memory that bench/child writes to. Times are nanoseconds of
// CLOCK_MONOTONIC.
type shared struct {
	pid     atomic.Uint64 // set when ready
	done    atomic.Uint64 // when SIGUSR2 came, or the last orphan was gone
	begun   atomic.Uint64 // when the first orphan was made
	signals [65]atomic.Uint64
	last    [65]atomic.Uint64
}

// newShared returns memory in a file of its own in dir.
func newShared(dir string) (*shared, string, error) {
	f, err := os.CreateTemp(dir, "shared-")
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	size := int(unsafe.Sizeof(shared{}))
	if err := f.Truncate(int64(size)); err != nil {
		return nil, "", err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, "", err
	}
	path, err := filepath.Abs(f.Name())
	return (*shared)(unsafe.Pointer(unsafe.SliceData(mem))), path, err
}

// monotonic returns the child's clock.
func monotonic() uint64 {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return uint64(t.Nano())
}

// await waits for a value that the child sets.
func await(v *atomic.Uint64, atLeast uint64, what string) error {
	for deadline := time.Now().Add(time.Minute); v.Load() < atLeast; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within a minute", what)
		}
		time.Sleep(20 * time.Microsecond)
	}
	return nil
}
