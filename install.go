package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// install copies this program, for an init container that hands it to an image
// which can't be rebuilt.
func install(args []string) int {
	if len(args) != 1 || args[0] == "" {
		return printResult(1, "install takes one path: drainit install /shared/drainit")
	}
	path := args[0]
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "drainit")
	}
	if err := copySelf(path); err != nil {
		return printResult(1, "can't install to %s: %v", path, err)
	}
	return printResult(0, "installed %s", path)
}

// copySelf writes the running binary to path: first beside it, then renamed, so
// that half a binary is never executed and a running copy can be replaced.
func copySelf(path string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		if self, err = os.Open(os.Args[0]); err != nil {
			return err
		}
	}
	defer self.Close()
	tmp, err := os.CreateTemp(filepath.Dir(path), ".drainit-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // after a rename it no longer exists
	if _, err := io.Copy(tmp, self); err != nil {
		return err
	}
	if err := errors.Join(tmp.Chmod(0o755), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
