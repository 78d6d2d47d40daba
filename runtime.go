package main

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// limitRuntime keeps the Go runtime idle.
//
// GOMAXPROCS is set explicitly: otherwise the runtime re-reads the cgroup's CPU
// limit periodically, which wakes an idle container. The 20 KB that the runtime
// has allocated for each CPU by now are never returned.
//
// From 200 CPUs on they are more than the 4 MB at which the first collection
// begins, and all processors take part in it: 67 threads at 256 CPUs, 255 at
// 1,000, where a pids limit of 100 ends the program. That happens before any
// package is initialized (measured with GOMAXPROCS=1000; an init function that
// imports package runtime alone comes too late), and no linker setting or
// "go:debug" line changes it. GOMAXPROCS=1 in the container's environment does.
//
// Variables for the Go runtime are meant for a server written in Go. A limit of
// its memory would have drainit collect all the time (ten times the CPU time
// for each /statusz at GOMEMLIMIT=1MiB), GOGC=off never. GODEBUG and
// GOTRACEBACK have no effect that matters; a malformed GOMEMLIMIT ends any Go
// program before its first line.
func limitRuntime() {
	runtime.GOMAXPROCS(1)
	if os.Getenv("GOMEMLIMIT") != "" {
		debug.SetMemoryLimit(math.MaxInt64)
	}
	if os.Getenv("GOGC") != "" {
		debug.SetGCPercent(100)
	}
}

// limitMemory returns memory to the kernel after every burst of work: some
// time after a garbage collection, and again until the heap grows no more.
//
// The collector is aggressive: it runs when the heap has 1 MB, not 4, and what
// it frees is returned at once, not over minutes by wake-ups of its own. It is
// left alone before it has run by itself: a collection costs 0.5 MB of
// bookkeeping that stays, and at the start, with what it returns, 5 ms of CPU
// time: more than all the rest. Once it has run the next collections cost
// little, so they come at 0.4 MB, and what gathers slowly between them is less.
func limitMemory() {
	const (
		settleTime     = 2 * time.Second
		worthReturning = 64 << 10
	)
	time.Sleep(settleTime)
	debug.SetGCPercent(25)
	var used uint64 // of the heap, after the last return
	for {           // ends with the program
		<-nextCollection()
		for {
			time.Sleep(settleTime)
			if residentHeap() < used+worthReturning {
				break
			}
			runtime.GC() // what the first of two has freed the second finds unused
			debug.FreeOSMemory()
			used = residentHeap()
		}
		// Set after each collection, which puts the next one off by 1 MB: it
		// sets its goal before it has swept.
		debug.SetGCPercent(10)
	}
}

// residentHeap returns how much of the heap has not been returned.
func residentHeap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapSys - m.HeapReleased
}

// nextCollection returns a channel that the next garbage collection closes.
func nextCollection() <-chan struct{} {
	collected := make(chan struct{})
	runtime.AddCleanup(new([16]byte), func(c chan struct{}) { close(c) }, collected)
	return collected
}

// spareThreads is the number of OS threads created up front, while the pids
// limit still allows it. Go creates a thread when a system call takes long and
// another goroutine is ready to run, never returns one, and ends the program if
// it can't: a server that exhausts the pids limit would end PID 1.
//
// Eight: one for each goroutine that can be in a system call at the same time
// (the loop, the log, the client counter, the readiness and the liveness check,
// and the health port, which makes one call at a time), one for the goroutine
// that runs, and one to spare. TestNoThreadIsCreatedUnderLoad counts them.
const spareThreads = 8

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
