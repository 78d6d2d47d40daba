// Package bug reports defects of drainit itself: panics that were recovered,
// since one that is not ends PID 1 and every process of the container with it.
package bug

import (
	"fmt"
	"log/slog"
	"runtime/debug"
)

// Tracker is where users report defects.
const Tracker = "https://github.com/drainit/drainit/issues"

// Report logs the recovered panic p of the part called where. It must be called
// by the deferred function that recovered, for the stack to be the panic's.
func Report(log *slog.Logger, where string, p any) {
	log.Error("internal error, please report it", "report_to", Tracker,
		"in", where, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}
