package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drainit/drainit/supervisor"
	"golang.org/x/sys/unix"
)

// codeError is the exit code for drainit's own failures, as `docker run` has
// it.
const codeError = 125

// userError is an error that its reader can act on: what is wrong, and how to
// mend it. The hint is on a line of its own, which says that it is one.
type userError struct{ msg, hint string }

func (e *userError) Error() string {
	if e.hint == "" {
		return e.msg
	}
	return e.msg + "\nhint: " + e.hint
}

// printError writes err to stderr, each line with the prefix that tells it from
// the child's, and waits a second at most until it is written.
func printError(s *stderr, err error) {
	for l := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(s, "drainit: "+l)
	}
	s.Flush(time.Second)
}

// failStart reports why the run could not start, on stderr and in the
// termination log, and returns the exit code.
func failStart(s *stderr, terminationLog string, err error, code int) int {
	writeTerminationLog(terminationLog, err.Error())
	printError(s, err)
	return code
}

// failExec is failStart for a command that can't be executed, which may have
// been meant for one of drainit's own.
func failExec(s *stderr, terminationLog, command string, err error) int {
	e := new(supervisor.StartError)
	errors.As(err, &e)
	if own := nearestCommand(command); own != "" && e.Code == supervisor.CodeNotFound {
		e.Hint += "; or did you mean `drainit " + own + "`?"
	}
	return failStart(s, terminationLog, &userError{e.Msg, e.Hint}, e.Code)
}

// nearestCommand returns the one of drainit's own commands that name was likely
// meant to be, or nothing.
func nearestCommand(name string) string {
	all := slices.DeleteFunc(slices.Sorted(maps.Keys(commands)), func(own string) bool {
		return strings.HasPrefix(own, "-")
	})
	own := slices.MinFunc(all, func(a, b string) int { return distance(name, a) - distance(name, b) })
	if distance(name, own) > 2 {
		return ""
	}
	return own
}

// usageError reports a mistake on the command line, and returns the exit code.
func usageError(msg, hint string) int { return failUsage(&userError{msg, hint}) }

// failUsage reports err, on stderr alone, and returns the exit code.
func failUsage(err error) int {
	printError(newStderr(fdWriter(unix.Stderr)), err)
	return codeError
}

// optionHint returns what replaces an option of another init, or says how a
// command that begins with a dash is started.
func optionHint(option string) string {
	instead := map[string]string{
		"-c":             "DRAINIT_SIGNAL_SCOPE=child, the default",
		"-e":             "DRAINIT_EXIT_CODES=143=0",
		"-g":             "DRAINIT_SIGNAL_SCOPE=group",
		"-r":             "DRAINIT_SIGNAL_MAP=SIGTERM=SIGQUIT, or DRAINIT_STOP_SIGNAL",
		"-s":             "nothing to do: drainit makes itself the subreaper",
		"-v":             "DRAINIT_LOG_LEVEL=debug",
		"-w":             "nothing to do: drainit does not warn",
		"--rewrite":      "DRAINIT_SIGNAL_MAP=SIGHUP=SIGUSR2, or DRAINIT_STOP_SIGNAL",
		"--single-child": "DRAINIT_SIGNAL_SCOPE=child, the default",
	}
	if hint, ok := instead[option]; ok {
		return "instead of " + option + ": " + hint
	}
	return fmt.Sprintf("a command that begins with a dash goes after --: %s -- %s",
		filepath.Base(os.Args[0]), option)
}
