package health

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkProbe measures one probe: connect, request, answer, close. The
// client makes plain system calls, so that the allocations are the server's.
func BenchmarkProbe(b *testing.B) {
	s, err := Listen(Options{Addr: "127.0.0.1:0", Gate: new(Gate)})
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve() // ends with Close
	defer s.Close()
	to := &unix.SockaddrInet4{Port: int(s.Port()), Addr: [4]byte{127, 0, 0, 1}}
	request := []byte("GET /readyz HTTP/1.1\r\nHost: 10.0.0.1:8099\r\n" +
		"User-Agent: kube-probe/1.34\r\nAccept: */*\r\nConnection: close\r\n\r\n")
	answer := make([]byte, 4096)
	probe := func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, to)
		}
		if err == nil {
			_, err = unix.Write(fd, request)
		}
		for n := 1; err == nil && n > 0; {
			n, err = unix.Read(fd, answer)
		}
		if err != nil {
			b.Fatal(err)
		}
		unix.Close(fd)
	}
	for range 100 {
		probe()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for b.Loop() {
		probe()
	}
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N), "B/probe")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N), "allocs/probe")
}
