package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/drainit/drainit/health"
)

// showStatus prints for a person what /statusz tells programs: one screen.
func showStatus(args []string) int {
	if !noArguments("status", args) {
		return 1
	}
	s, err := status()
	if err != nil {
		return printResult(1, "%v", err)
	}
	for _, line := range statusLines(&s) {
		fmt.Println(line)
	}
	return 0
}

// statusLines returns the screen, a subject a line.
func statusLines(s *health.Status) []string {
	lines := []string{
		fmt.Sprintf("%-9s for %s; drainit is pid %d, the server pid %d, up %s",
			s.Phase, seconds(s.Phases[s.Phase]), s.PID, s.ChildPID, seconds(s.Uptime)),
		readyLine(s),
	}
	if s.Text != "" {
		lines = append(lines, "server    "+s.Text)
	}
	if s.Stop != nil {
		lines = append(lines, stopLine(s.Stop))
	}
	if s.Clients != nil {
		lines = append(lines, clientLines(s.Clients)...)
	}
	return lines
}

func readyLine(s *health.Status) string {
	if s.Ready {
		return "ready     yes"
	}
	return "ready     no: " + s.Reason
}

// stopLine says what comes next in a stop, and when.
func stopLine(s *health.Stop) string {
	asked := fmt.Sprintf("stop      asked for by %s %s ago", s.AskedBy, seconds(s.Elapsed))
	kill := "SIGKILL in " + seconds(s.KillIn)
	switch {
	case s.Error != "":
		return fmt.Sprintf("%s; %s could not be sent: %s; %s", asked, s.Signal, s.Error, kill)
	case s.Forwarded != nil:
		return fmt.Sprintf("%s; %s forwarded (%s); %s", asked, s.Signal, s.Why, kill)
	case s.MayForward:
		return fmt.Sprintf("%s; drained: %s is forwarded as soon as it comes; %s", asked, s.Signal, kill)
	}
	return fmt.Sprintf("%s; %s in %s at the latest, %s", asked, s.Signal, seconds(s.ForwardIn), kill)
}

// clientLines says how many clients are connected, and what holds the signal
// back.
func clientLines(c *health.Clients) []string {
	if !c.Known {
		return []string{"clients   unknown: they can't be counted here"}
	}
	lines := []string{fmt.Sprintf("clients   %d connected, %d in flight, %d perhaps in flight, %d waiting to be accepted",
		c.Open, c.InFlight, c.Suspected, c.Queued)}
	lines = append(lines, fmt.Sprintf("          %d connections and %d requests on kept ones since the stop began", c.Arrived, c.Requests))
	if c.Evidence != "" {
		held := fmt.Sprintf("held by   %s evidence", c.Evidence)
		if c.Peer != "" {
			held += fmt.Sprintf(": %s, %s to port %d, for %s", c.Why, c.Peer, c.Port, seconds(c.Since))
		}
		if c.HoldsFor > 0 {
			held += fmt.Sprintf("; for %s more at most", seconds(c.HoldsFor))
		}
		lines = append(lines, held)
	}
	if len(c.UDP)+len(c.Unix) > 0 {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("not seen  clients of UDP %v, Unix %v", c.UDP, c.Unix)))
	}
	return lines
}

// seconds returns a number of seconds as people write it, and 0s for less.
func seconds(s float64) string {
	d := max(0, time.Duration(s*float64(time.Second)))
	if d >= time.Minute {
		return d.Round(time.Second).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
