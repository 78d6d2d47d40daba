//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, `demo: drainit is for Linux. With Docker, from here: docker run --rm -v "$PWD":/src -w /src golang:1.26 make demo`)
	os.Exit(1)
}
