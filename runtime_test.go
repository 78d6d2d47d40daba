package main

import (
	"math"
	"runtime/debug"
	"testing"
)

func TestRuntimeIsNotTheChilds(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "1MiB")
	t.Setenv("GOGC", "off")
	limit := debug.SetMemoryLimit(1 << 20)
	percent := debug.SetGCPercent(-1)
	defer debug.SetMemoryLimit(limit)
	defer debug.SetGCPercent(percent)
	limitRuntime()
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("the memory limit is %d, want none", got)
	}
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("GOGC is %d, want 100", got)
	}
}
