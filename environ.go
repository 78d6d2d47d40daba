package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/drainit/drainit/internal/proc"
)

// childEnv returns the child's environment: drainit's own, except what the
// protocols of systemd say to drainit alone. pidVars names the variables that
// have to hold the child's PID, which only the child knows:
//
//   - WATCHDOG_PID, if it must send WATCHDOG=1 (to drainit, or relayed to
//     drainit's own supervisor),
//   - LISTEN_PID, if drainit was handed sockets, since they are the child's.
func (r *runner) childEnv() (env, pidVars []string) {
	var replaced, set []string
	if r.notify != nil {
		replaced = append(replaced, "NOTIFY_SOCKET", "WATCHDOG_PID")
		set = append(set, "NOTIFY_SOCKET="+r.notify.Addr())
		if w := r.config.Watchdog.Duration; w > 0 {
			replaced = append(replaced, "WATCHDOG_USEC")
			set = append(set, fmt.Sprintf("WATCHDOG_USEC=%d", w.Microseconds()))
			pidVars = append(pidVars, "WATCHDOG_PID")
		} else if os.Getenv("WATCHDOG_USEC") != "" {
			pidVars = append(pidVars, "WATCHDOG_PID")
		}
	}
	if os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		replaced = append(replaced, "LISTEN_PID")
		pidVars = append(pidVars, "LISTEN_PID")
	}
	env = slices.DeleteFunc(proc.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(replaced, name)
	})
	return append(env, set...), pidVars
}
