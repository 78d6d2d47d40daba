// Start runs a command and exits with its code: the least that an init in Go
// can do, without a signal, a log or a port.
package main

import (
	"os"
	"syscall"
)

func main() {
	pid, err := syscall.ForkExec(os.Args[1], os.Args[1:], &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		os.Exit(125)
	}
	var status syscall.WaitStatus
	syscall.Wait4(pid, &status, 0, nil)
	os.Exit(status.ExitStatus())
}
