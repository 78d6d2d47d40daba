package proc

import (
	"os"

	"golang.org/x/sys/unix"
)

// ReadFile reads a whole file of the kernel's into buf, which it empties first
// and grows as needed. It takes four system calls; os.ReadFile takes ten, as it
// registers the file with the poller though such files never block.
func ReadFile(name string, buf []byte) ([]byte, error) {
	buf = buf[:0]
	fd, err := retry(func() (int, error) { return unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return buf, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if cap(buf) == 0 {
		buf = make([]byte, 0, 4<<10)
	}
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := retry(func() (int, error) { return unix.Read(fd, buf[len(buf):cap(buf)]) })
		if err != nil {
			return buf, &os.PathError{Op: "read", Path: name, Err: err}
		}
		if n == 0 {
			return buf, nil
		}
		buf = buf[:len(buf)+n]
	}
}
