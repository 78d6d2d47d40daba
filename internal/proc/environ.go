package proc

import (
	"os"
	"strings"
)

// Environ returns the environment that this process was started with, as it
// was: os.Environ drops all but the first of a name that is there twice, and
// what has no name. Where /proc can't be read it returns os.Environ.
func Environ() []string {
	all, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return os.Environ()
	}
	return parseEnviron(string(all))
}

// parseEnviron takes the strings apart, each of which ends with a NUL byte.
func parseEnviron(all string) []string {
	all, complete := strings.CutSuffix(all, "\x00")
	if !complete {
		return nil // an empty environment
	}
	return strings.Split(all, "\x00")
}
