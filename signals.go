package main

import (
	"slices"

	"github.com/drainit/drainit/internal/catch"
	"github.com/drainit/drainit/supervisor"
	"golang.org/x/sys/unix"
)

// control signals are drainit's own: `drainit drain` and the like send them.
var control = []unix.Signal{
	supervisor.SigPrestop,
	supervisor.SigDrain,
	supervisor.SigUndrain,
	supervisor.SigSkip,
}

// unusable returns why s can be in neither STOP_ON nor SIGNAL_MAP, or nothing.
func unusable(s unix.Signal) string {
	switch {
	case !catch.Caught(s):
		return "can't be caught"
	case slices.Contains(control, s):
		return "is one of drainit's own control signals"
	}
	return ""
}
