package main

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// limitRuntime keeps the Go runtime small and idle.
//
// GOMAXPROCS is set explicitly: otherwise the runtime re-reads the cgroup's CPU
// limit periodically, which wakes an idle container. One processor, and an
// aggressive collector, keep the heap small (after 1,000 probes: 1.9 MB, not
// 5.8). The 20 KB that the runtime has allocated for each CPU by now are never
// returned.
func limitRuntime() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(10)
}

// spareThreads is the number of OS threads created up front, while the pids
// limit still allows it. Go creates a thread when a system call takes long and
// another goroutine is ready to run, never returns one, and ends the program if
// it can't: a server that exhausts the pids limit would end PID 1.
//
// Five, because at most five goroutines can block in a system call at once: the
// loop, the log, the client counter, a readiness check, and the closing of a
// probe's connection. Package health avoids blocking in all other calls.
const spareThreads = 5

// reserveThreads has the runtime create them and keep them idle, at some 20 KB
// each.
func reserveThreads() {
	var all, made sync.WaitGroup
	made.Add(spareThreads)
	for range spareThreads {
		all.Go(func() {
			runtime.LockOSThread()
			// Unlocked, or the thread would end with the goroutine.
			defer runtime.UnlockOSThread()
			made.Done()
			made.Wait() // until each has a thread of its own
		})
	}
	all.Wait()
}
