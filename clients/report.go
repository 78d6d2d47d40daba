package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// result is what came of a stop.
type result struct {
	Case      string         `json:"case"`
	Kind      string         `json:"kind"`
	Until     string         `json:"until"`
	Budget    float64        `json:"budget"`
	Subject   string         `json:"subject"`
	Round     int            `json:"round"`
	Lost      map[string]int `json:"lost"`
	Total     int            `json:"total"`
	Forwarded float64        `json:"forwarded"` // seconds after the stop signal
	Why       string         `json:"why"`
	Exit      float64        `json:"exit"`
	Killed    bool           `json:"killed,omitempty"` // at the deadline
	Stall     float64        `json:"stall"`            // the longest wait for a CPU
	Verdict   string         `json:"verdict"`
	Losses    []string       `json:"losses,omitempty"`
	Waiting   []string       `json:"waiting,omitempty"` // what drainit said it waited for
	log       string
}

// failed is the verdict where nothing could be measured.
const failed = "ERROR"

func (o order) error(err error, log string) result {
	c := find(o.Case)
	return result{
		Case: o.Case, Kind: c.kind, Until: o.Until, Budget: o.Budget.Seconds(),
		Subject: o.Subject.Label, Round: o.Round,
		Verdict: failed, Losses: []string{fmt.Sprintf("%v: %s", err, last(log))}, log: log,
	}
}

// last is the last line.
func last(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// seconds is a duration with two decimals.
func seconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Millisecond)) / float64(time.Second)
}

// takeLog takes a line of drainit's log, which is JSON.
func (r *result) takeLog(line string) {
	var entry struct {
		Msg     string
		Why     string
		Signal  string
		After   any
		For     string
		Waiting string
	}
	if json.Unmarshal([]byte(line), &entry) != nil {
		return
	}
	switch {
	case strings.Contains(entry.Msg, "signal forwarded") && entry.Why != "":
		r.Why, r.Forwarded = entry.Why, seconds(asDuration(entry.After))
	case strings.Contains(entry.Msg, "waiting"):
		what := entry.Waiting + entry.For
		if what == "" {
			what, _, _ = strings.Cut(strings.TrimPrefix(entry.Msg, "drainit: waiting for "), ", at most")
		}
		r.Waiting = append(r.Waiting, what)
	}
}

// asDuration reads one as slog writes it: nanoseconds, or text.
func asDuration(v any) time.Duration {
	switch v := v.(type) {
	case float64:
		return time.Duration(v)
	case string:
		d, _ := time.ParseDuration(v)
		return d
	}
	return 0
}

func (r *result) lostAll() (n int) {
	for _, k := range r.Lost {
		n += k
	}
	return n
}

// judge compares a result with what must come of it.
func (r *result) judge(w want) {
	var faults []string
	lost := r.lostAll()
	if w.lossless && lost > 0 {
		faults = append(faults, fmt.Sprintf("LOST %d", lost))
	}
	// What the machine kept waiting is none of drainit's.
	if w.by > 0 && r.Forwarded-r.Stall > w.by.Seconds() {
		faults = append(faults, fmt.Sprintf("LATE, by %.0f s", w.by.Seconds()))
	}
	if w.from > 0 && r.Forwarded < w.from.Seconds() {
		faults = append(faults, fmt.Sprintf("EARLY, from %.0f s", w.from.Seconds()))
	}
	if w.why != "" && r.Why != w.why {
		faults = append(faults, "WHY, not "+w.why)
	}
	if w.lossless && r.Total == 0 {
		faults = append(faults, "NO CLIENTS")
	}
	if len(faults) == 0 {
		faults = append(faults, "ok")
	}
	r.Verdict = strings.Join(faults, "; ")
	if w.physics != "" {
		r.Verdict += " (" + w.physics + ")"
	}
}

// line is a result for a person.
func (r *result) line() string {
	s := fmt.Sprintf("%-6s %d  %-64s %5d of %-5d %6.1f s  %-12s %s",
		r.Subject, r.Round, r.name(), r.lostAll(), r.Total, r.Forwarded, r.reason(), r.Verdict)
	if r.Verdict == failed {
		s += " " + strings.Join(r.Losses, " ")
	}
	return s
}
