package health

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// newProbe returns a function that probes s once: connect, request, answer,
// close. It makes plain system calls, so that what is allocated is the
// server's.
func newProbe(t testing.TB, s *Server) func() {
	to := &unix.SockaddrInet4{Port: int(s.Port()), Addr: [4]byte{127, 0, 0, 1}}
	request := []byte("GET /readyz HTTP/1.1\r\nHost: 10.0.0.1:8099\r\n" +
		"User-Agent: kube-probe/1.34\r\nAccept: */*\r\nConnection: close\r\n\r\n")
	answer := make([]byte, 4096)
	return func() {
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
			t.Fatal(err)
		}
		unix.Close(fd)
	}
}

func serveProbes(t testing.TB) *Server {
	s, err := Listen(Options{Addr: "127.0.0.1:0", Gate: new(Gate)})
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve() // ends with Close
	t.Cleanup(func() { s.Close() })
	return s
}

// BenchmarkProbe measures one probe.
func BenchmarkProbe(b *testing.B) {
	probe := newProbe(b, serveProbes(b))
	b.ReportAllocs()
	for b.Loop() {
		probe()
	}
}

// TestProbesMakeNoGarbage: the first collection would cost half a megabyte of
// bookkeeping, and each burst of probes another megabyte until it is returned.
func TestProbesMakeNoGarbage(t *testing.T) {
	probe := newProbe(t, serveProbes(t))
	const probes, most = 300, 60 // the runtime allocates a little by itself
	for range 10 {
		probe()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range probes {
		probe()
	}
	runtime.ReadMemStats(&after)
	if n := after.Mallocs - before.Mallocs; n > most {
		t.Errorf("%d allocations in %d probes", n, probes)
	}
}
