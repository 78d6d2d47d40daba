package proc

import (
	"errors"
	"fmt"
)

// maxDepth bounds the walk from a process up to its ancestors. No server's tree
// is that deep, and the walk is paid for each notify datagram.
const maxDepth = 128

var errNotFound = errors.New("/proc does not show this process")

// Descendants returns the processes that descend from root, without root and
// without those that have ended. A process forked meanwhile may be missing:
// call it again after further exits.
func Descendants(root int) ([]Process, error) {
	all, err := All()
	if err != nil {
		return nil, err
	}
	return descendants(all, root)
}

func descendants(all []Process, root int) ([]Process, error) {
	parents := make(map[int]int, len(all))
	for _, p := range all {
		parents[p.PID] = p.Parent
	}
	if _, ok := parents[root]; !ok {
		return nil, errNotFound
	}
	parent := func(pid int) (int, error) {
		if p, ok := parents[pid]; ok {
			return p, nil
		}
		return 0, errNotFound
	}
	var found []Process
	for _, p := range all {
		if p.PID == root || p.Ended() {
			continue
		}
		if yes, _ := climb(p.PID, root, parent); yes {
			found = append(found, p)
		}
	}
	return found, nil
}

// Descends returns nil if process pid is root or descends from it.
//
// In doubt it returns an error: without a readable /proc, or when the process
// has ended already, nothing tells it from a stranger. An ancestor that ends
// during the walk is no doubt: the kernel has given its children a new parent
// (root itself, which is a subreaper), so the walk begins again.
func Descends(pid, root int) error {
	return descends(pid, root, func(pid int) (int, error) {
		p, err := Stat(pid)
		return p.Parent, err
	})
}

func descends(pid, root int, parent func(int) (int, error)) error {
	var failed *walkError
	for range 8 {
		yes, err := climb(pid, root, parent)
		switch {
		case yes:
			return nil
		case err == nil:
			return fmt.Errorf("process %d does not descend from %d", pid, root)
		case !errors.As(err, &failed):
			return err
		case failed.at == pid:
			return failed.because(pid)
		}
	}
	return failed.because(pid)
}

// walkError says at which process a walk ended, and why.
type walkError struct {
	at  int
	err error
}

func (e *walkError) Error() string { return e.err.Error() }
func (e *walkError) Unwrap() error { return e.err }

func (e *walkError) because(pid int) error {
	return fmt.Errorf("the ancestors of process %d can't be read: %w", pid, e.err)
}

// climb walks from pid up to its ancestors, and reports whether root is met. It
// is bounded, since a PID reused while /proc is read could close a circle.
func climb(pid, root int, parent func(int) (int, error)) (bool, error) {
	at := pid
	for range maxDepth {
		if at == root {
			return true, nil
		}
		up, err := parent(at)
		if err != nil {
			return false, &walkError{at, err}
		}
		if up == 0 {
			return false, nil
		}
		at = up
	}
	return false, fmt.Errorf("process %d is more than %d levels deep", pid, maxDepth)
}
