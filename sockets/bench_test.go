package sockets

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkPoll is one look of Watch at a port with so many accepted connections.
func BenchmarkPoll(b *testing.B) {
	for _, n := range []int{0, 1_000, 10_000, 50_000} {
		b.Run(fmt.Sprint(n, " connections"), func(b *testing.B) {
			port := connections(b, n)
			w := &watch{c: New(Options{Ports: []uint16{port}}), until: Idle, t0: time.Now()}
			defer w.close()
			w.start()
			if v := w.look(); v.Err != nil || v.Open != n {
				b.Fatalf("%+v", v)
			}
			w.look()
			b.ReportAllocs()
			for b.Loop() {
				w.look()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N), "µs/poll")
		})
	}
}

// BenchmarkNote is what a readiness probe costs at most, once in five seconds.
func BenchmarkNote(b *testing.B) {
	c := New(Options{})
	b.ReportAllocs()
	for b.Loop() {
		c.read(time.Now())
	}
}

// connections makes n connections to one port, and accepts them. Both ends are this process's.
func connections(b *testing.B, n int) uint16 {
	b.Helper()
	need := uint64(2*n + 100)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	if limit.Cur < need {
		raised := unix.Rlimit{Cur: need, Max: max(need, limit.Max)}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
			b.Skipf("needs %d descriptors, may have %d: %v", need, limit.Max, err)
		}
	}
	l, port := listen(b, "tcp4", "0.0.0.0:0")
	for i := range n {
		// Each address has its own range of ports to dial from.
		client, err := (&net.Dialer{}).DialContext(context.Background(), "tcp4", fmt.Sprintf("127.0.0.%d:%d", 1+i/10_000, port))
		if err != nil {
			b.Skipf("after %d connections: %v", i, err)
		}
		server, err := l.Accept()
		if err != nil {
			b.Skipf("after %d connections: %v", i, err)
		}
		b.Cleanup(func() { client.(*net.TCPConn).SetLinger(0); client.Close(); server.Close() })
	}
	return port
}
