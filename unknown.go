package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// injected matches the variables that Kubernetes sets for Services whose names
// begin with drainit. DRAINIT_PORT is one of them if it is a URL; a number
// there was meant for DRAINIT_PORTS or DRAINIT_HEALTH_ADDR. The expression is
// compiled when it is needed, which is rare.
var injected = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^DRAINIT_([A-Z0-9_]+_)?(SERVICE_HOST=|SERVICE_PORT(_[A-Z0-9_]+)?=|` +
		`PORT=[a-z]+://|PORT_[0-9]+_[A-Z]+(_(PROTO|PORT|ADDR))?=)`)
})

// unknown returns the variables with our prefix that do not exist.
func unknown(environ []string) (errs []*configError) {
	var known []string
	for _, v := range new(Config).variables() {
		known = append(known, v.name)
	}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		ours := strings.HasPrefix(strings.ToUpper(name), prefix+"_")
		if !ours || slices.Contains(known, name) || injected().MatchString(kv) {
			continue
		}
		hint := "`drainit help` lists them all"
		if near := nearest(known, name); len(near) > 0 {
			hint = fmt.Sprintf("did you mean %s? %s", strings.Join(near, " or "), hint)
		}
		errs = append(errs, &configError{name, value, problem{"no such variable", hint}})
	}
	return errs
}

// generic are the variables that other programs have too, without the prefix.
var generic = []string{
	"HEALTH_ADDR", "STOP_SIGNAL", "EXIT_CODES", "WATCHDOG", "PORTS", "LOG_FORMAT", "LOG_LEVEL",
}

// unprefixed returns a hint for each variable that is set without the prefix,
// and so without effect, and was likely meant for drainit.
func unprefixed() (hints []string) {
	for _, v := range new(Config).variables() {
		name := strings.TrimPrefix(v.name, prefix+"_")
		if slices.Contains(generic, name) || os.Getenv(name) == "" || os.Getenv(v.name) != "" {
			continue
		}
		hints = append(hints, fmt.Sprintf("%s=%q has no effect on drainit, which reads %s",
			name, withoutPassword(os.Getenv(name)), v.name))
	}
	return hints
}

// nearest returns the known names that name was most likely meant to be: those
// that it is the beginning or the end of, or else those fewest letters away. It
// returns none if more than a third of the letters differ, or if there are
// hardly any letters.
func nearest(known []string, name string) (near []string) {
	name = strings.ToUpper(name)
	word := strings.TrimPrefix(name, prefix)
	if len(word) < len("_ON") {
		return nil
	}
	cost := func(k string) int {
		if strings.HasPrefix(k, name) || strings.HasSuffix(k, word) {
			return 1
		}
		return distance(k, name)
	}
	least := max(1, len(word)/3)
	for _, k := range known {
		switch c := cost(k); {
		case c < least:
			least, near = c, []string{k}
		case c == least:
			near = append(near, k)
		}
	}
	return near
}

// distance returns the number of letters to insert, delete or change
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0]++
		for j := range len(b) {
			change := last
			if a[i] != b[j] {
				change++
			}
			last = row[j+1]
			row[j+1] = min(row[j+1]+1, row[j]+1, change)
		}
	}
	return row[len(b)]
}
