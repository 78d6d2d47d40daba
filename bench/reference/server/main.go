// Server is the child of a soak: it echoes what connections send, and leaves an
// orphan behind on each SIGUSR1.
package main

import (
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	asked := make(chan os.Signal, 8)
	signal.Notify(asked, syscall.SIGUSR1)
	l, err := net.Listen("tcp4", os.Args[1])
	if err != nil {
		os.Exit(1)
	}
	go func() {
		for range asked {
			exec.Command("/bin/sh", "-c", "sleep 0.2 &").Run()
		}
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		go func() {
			io.Copy(c, c)
			c.Close()
		}()
	}
}
