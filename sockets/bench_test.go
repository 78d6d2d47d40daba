package sockets

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkPoll is one look of Watch at a port with so many accepted
// connections.
func BenchmarkPoll(b *testing.B) {
	for _, n := range []int{0, 1_000, 10_000, 50_000} {
		b.Run(fmt.Sprint(n, " connections"), func(b *testing.B) {
			port := connections(b, n)
			w := &watch{c: New(Options{Ports: []uint16{port}}), until: Idle, t0: time.Now()}
			defer w.close()
			w.start()
			if v := w.poll(); v.Err != nil || v.Open != n {
				b.Fatalf("%+v", v)
			}
			w.poll()
			leastCPU(b, func() { w.poll() })
		})
	}
}

// BenchmarkSampleArrivals is what a readiness probe costs at most, once in five
// seconds.
func BenchmarkSampleArrivals(b *testing.B) {
	c := New(Options{})
	leastCPU(b, func() { c.read(time.Now()) })
}

// leastCPU does something again and again, and reports the least CPU time that
// it took: that is comparable on a machine with other work, where a clock's
// time is not.
func leastCPU(b *testing.B, do func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.ReportAllocs()
	least := time.Hour
	for b.Loop() {
		began := cpuTime(b)
		do()
		least = min(least, cpuTime(b)-began)
	}
	b.ReportMetric(float64(least.Nanoseconds())/1e3, "least-cpu-µs")
}

// cpuTime returns the CPU time that this thread has used.
func cpuTime(tb testing.TB) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// connections makes n accepted connections to one port. As a process may have
// some 20,000 descriptors only, helpers hold both ends of up to 9,000 each, on
// an address of their own.
func connections(b *testing.B, n int) uint16 {
	b.Helper()
	_, port := listen(b, "tcp4", "127.0.0.1:0")
	for i := 2; n > 0; i++ {
		share := min(n, 9_000)
		n -= share
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Max < uint64(2*share+50) {
			b.Skipf("needs %d descriptors a process, may have %d", 2*share+50, limit.Max)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=hold 127.0.0.%d:%d %d", helper, i, port, share))
		in, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { in.Close(); cmd.Wait() })
		if word, _ := bufio.NewReader(out).ReadString('\n'); word != "ready\n" {
			b.Skipf("no %d connections to 127.0.0.%d: %s", share, i, word)
		}
	}
	return port
}

func hold(addr string, n int) int {
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	held := make([]net.Conn, 0, 2*n)
	for range n {
		client, err := net.Dial("tcp4", addr)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		server, err := l.Accept()
		if err != nil {
			fmt.Println(err)
			return 1
		}
		held = append(held, client, server)
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	for _, c := range held {
		c.(*net.TCPConn).SetLinger(0) // leaves no TIME_WAIT
		c.Close()
	}
	return 0
}
