package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// slowWire connects the namespaces as the pair of interfaces does, by two
// devices of TUN's and a delay of half the round trip each way: over a real
// network an acknowledgement comes later than the answer it is for.
func (w *world) slowWire(trip time.Duration) error {
	near, err := tunDevice()
	if err != nil {
		return err
	}
	var far *os.File
	w.inside(func() { far, err = tunDevice() })
	if err != nil {
		return err
	}
	go delayed(near, far, trip/2)
	go delayed(far, near, trip/2)
	go func() { <-w.over; near.Close(); far.Close() }()
	return nil
}

// tunDevice makes eth0 in the thread's network namespace.
func tunDevice() (*os.File, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq("eth0")
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, fmt.Errorf("make a TUN device: %w", err)
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

// delayed carries packets from one end to the other, each so much later.
func delayed(from io.Reader, to io.Writer, d time.Duration) {
	type packet struct {
		due time.Time
		b   []byte
	}
	under := make(chan packet, 4096)
	go func() {
		for p := range under {
			time.Sleep(time.Until(p.due))
			to.Write(p.b)
		}
	}()
	defer close(under)
	for b := make([]byte, 65536); ; {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		under <- packet{time.Now().Add(d), append([]byte(nil), b[:n]...)}
	}
}
