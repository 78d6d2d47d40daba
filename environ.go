package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// childEnv returns the child's environment: drainit's own, except the notify
// protocol's variables, which drainit replaces. watched reports whether the
// child must send WATCHDOG=1 (to drainit, or relayed to drainit's own
// supervisor) and so needs its WATCHDOG_PID.
func (r *runner) childEnv() (env []string, watched bool) {
	if r.notify == nil {
		return os.Environ(), false
	}
	replaced := []string{"NOTIFY_SOCKET", "WATCHDOG_PID"}
	set := []string{"NOTIFY_SOCKET=" + r.notify.Addr()}
	watched = os.Getenv("WATCHDOG_USEC") != ""
	if w := r.config.Watchdog.Duration; w > 0 {
		watched = true
		replaced = append(replaced, "WATCHDOG_USEC")
		set = append(set, fmt.Sprintf("WATCHDOG_USEC=%d", w.Microseconds()))
	}
	return append(environ(replaced...), set...), watched
}

// environ returns os.Environ without the named variables.
func environ(without ...string) []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(without, name)
	})
}
