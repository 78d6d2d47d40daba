//go:build linux

package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// display prints the timeline, one line per event of any site.
type display struct {
	mu    sync.Mutex
	began time.Time // zero before and after the timeline: nothing is printed
}

// begin makes this instant the zero of the timeline.
func (d *display) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.began = time.Now()
}

// end ends the timeline.
func (d *display) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.began = time.Time{}
}

// say prints one event of the named site.
func (d *display) say(name, format string, args ...any) {
	d.print(name, fmt.Sprintf(format, args...), "")
}

// own matches what the timeline shows already in a line of drainit's log.
var own = regexp.MustCompile(`^time=\S+ level=INFO msg=`)

// log prints a line that a replica of the named site wrote to its stderr,
// indented.
func (d *display) log(name, replica, line string) {
	d.print(name, replica+": "+own.ReplaceAllString(line, ""), "| ")
}

func (d *display) print(name, text, indent string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.began.IsZero() {
		return
	}
	const width = 80
	start := fmt.Sprintf("%6.2f s  %-8s  %s", time.Since(d.began).Seconds(), name, indent)
	line := start
	for i, word := range strings.Fields(text) {
		if i > 0 && len(line)+1+len(word) > width && len(line) > len(start) {
			fmt.Println(line)
			start = strings.Repeat(" ", len(start)-len(indent)) + indent
			line = start + "  " + word
			continue
		}
		if i > 0 {
			line += " "
		}
		line += word
	}
	fmt.Println(line)
}

// terminal reports whether stdout is one that shows colours.
var terminal = sync.OnceValue(func() bool {
	info, err := os.Stdout.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
})

// paint colours text by how much is lost: red for some, green for none.
func paint(lost int, text string) string {
	switch {
	case !terminal():
		return text
	case lost > 0:
		return "\x1b[31m" + text + "\x1b[0m"
	}
	return "\x1b[32m" + text + "\x1b[0m"
}

// progress does what takes a while and shows that it goes on: with the seconds
// on a terminal, else with a dot for each.
func progress(what string, do func() error) error {
	fmt.Print(what, " ...")
	began, done := time.Now(), make(chan error, 1)
	go func() { done <- do() }()
	for tick := time.Tick(time.Second); ; {
		select {
		case err := <-done:
			fmt.Printf(" %.1f s\n", time.Since(began).Seconds())
			return err
		case <-tick:
			if terminal() {
				fmt.Printf("\r%s ... %.0f s", what, time.Since(began).Seconds())
			} else {
				fmt.Print(".")
			}
		}
	}
}
