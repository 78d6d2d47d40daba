package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// sleeps are the ways that wait for a fixed time, the shortest first.
func sleeps() []way { return ordered(func(w way) time.Duration { return w.sleep }) }

// budgets are the ways of drainit idle, that with the smallest budget first.
func budgets() []way {
	return ordered(func(w way) time.Duration {
		if w.until != "idle" {
			return 0
		}
		return w.budget()
	})
}

// ordered returns the ways of which a time is not 0, that with the shortest
// first.
func ordered(by func(way) time.Duration) []way {
	some := slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return by(w) == 0 })
	slices.SortFunc(some, func(a, b way) int { return cmp.Compare(by(a), by(b)) })
	return some
}

// sum is what some cells of one way come to.
type sum struct {
	lost, sent, restarts int
	stops                []float64
}

func (o *sum) add(w *row) {
	o.lost, o.sent, o.restarts = o.lost+total(w.lost), o.sent+total(w.sent), o.restarts+w.n
	o.stops = append(o.stops, w.stops...)
}

func (o sum) perRestart() float64 { return float64(o.lost) / float64(o.restarts) }

func (o sum) stop() float64 { return quantile(o.stops, 0.5) }

// sumOf adds up one way of stopping a server behind some balancers. It has
// no restarts if the way is missing behind one of them.
func sumOf(rows []*row, s server, w string, behind []plan) (o sum) {
	for _, p := range behind {
		x := find(rows, s.name, w, p.String())
		if x == nil {
			return sum{}
		}
		o.add(x)
	}
	return o
}

// shortest returns the first of some ways that loses as little as is allowed,
// and false if none does.
func shortest(rows []*row, s server, among []way, behind []plan, allowed float64) (way, sum, bool) {
	for _, w := range among {
		if o := sumOf(rows, s, w.name, behind); o.restarts > 0 && o.perRestart() <= allowed {
			return w, o, true
		}
	}
	return way{}, sum{}, false
}

// longer says why a value of DRAIN_UNTIL may wait for longer than a sleep that
// loses as little.
func longer(until string) string {
	why := "it waits, [up to 12 s](drain-until.md#how-it-knows) after the stop began, while connections that are kept open may carry requests: " +
		"those of clients that never leave, and those in a balancer's pool of which the kernel's counts leave a doubt"
	if until == "closed" {
		why += "; after that for connections that have been silent for less than `DRAINIT_CLOSED_IDLE`"
	}
	return why
}

func upper(sentence string) string { return strings.ToUpper(sentence[:1]) + sentence[1:] }

const knownDelay = "The sleep is short enough only because the balancer's delay and the longest request are known here."

// sleepOf says what the shortest sleep that loses as little as drainit's
// recommended value takes, in front of a server with a section of its own.
func sleepOf(rows []*row, s server) string {
	behind, ours := []plan{headline}, "drainit "+s.until
	d := sumOf(rows, s, ours, behind)
	if d.restarts == 0 || !slices.ContainsFunc(sleeps(), func(w way) bool { return find(rows, s.name, w.name, headline.String()) != nil }) {
		return ""
	}
	w, o, found := shortest(rows, s, sleeps(), behind, d.perRestart())
	if !found {
		return fmt.Sprintf("No sleep that was tried lost as little as %s (%d), whose median stop is %.1f s.", ours, d.lost, d.stop())
	}
	line := fmt.Sprintf("The shortest sleep tried that lost as little as %s (%d) is %s: its median stop is %.1f s, that of %s %.1f s.", ours, d.lost, w.name, o.stop(), ours, d.stop())
	if d.stop() > o.stop() {
		line += " drainit takes longer here, because " + longer(s.until) + ". " + knownDelay
	}
	return line
}

// sleptAsWell names the servers in front of which a sleep of 5 s lost as little
// as drainit, and took less.
func sleptAsWell(rows []*row) string {
	var names []string
	most := 0.0
	for _, s := range servers {
		ours := find(rows, s.name, "drainit "+s.until, "")
		if ours == nil || s.jobs {
			continue
		}
		slept := find(rows, s.name, "sleep 5", ours.balancer)
		if slept == nil || slept.perRestart() > ours.perRestart() {
			continue
		}
		if less := quantile(ours.stops, 0.5) - quantile(slept.stops, 0.5); less > 0 {
			names, most = append(names, s.name), max(most, less)
		}
	}
	if names == nil {
		return ""
	}
	return fmt.Sprintf("A sleep of 5 s lost as little in its few restarts, and took up to %.1f s less, in front of these: %s. It fits a balancer that is told after 2 s, and servers that finish "+
		"what they have. drainit waits until it sees that nothing arrives any more. Behind balancers that take longer, the next section, that sleep loses.", most, strings.Join(names, "; "))
}

// sleepSection compares drainit with a sleep that is set once for servers
// behind any balancer. It leaves out balancers behind which not all were tried.
func sleepSection(t *text, rows []*row) {
	compared := append(sleeps(), budgets()...)
	behind := slices.DeleteFunc(slices.Clone(balancers), func(p plan) bool {
		return slices.ContainsFunc(compared, func(w way) bool { return sumOf(rows, requests, w.name, []plan{p}).restarts == 0 })
	})
	if len(behind) == 0 {
		return
	}
	t.say("\n### A sleep that is set once\n\nWhat deploys a server seldom knows how late its balancer is: a fixed sleep has to be long enough behind the slowest. " +
		"drainit has to be given a budget. For each balancer the shortest of the sleeps that lost nothing, and the smaller of two budgets in which drainit idle lost nothing:")
	t.table("behind", "sleep", "stop, s", "budget of drainit idle", "stop, s")
	var hopeless, slower []string
	var rest []plan
	line := func(name string, behind []plan) (sleep, budget sum) {
		cells := []string{name}
		w, sleep, found := shortest(rows, requests, sleeps(), behind, 0)
		cells = append(cells, chosen(w.name, sleep, found)...)
		d, budget, found := shortest(rows, requests, budgets(), behind, 0)
		cells = append(cells, chosen(fmt.Sprintf("%.0f s", d.budget().Seconds()), budget, found)...)
		t.row(cells...)
		return sleep, budget
	}
	for _, p := range behind {
		switch sleep, budget := line(p.String(), []plan{p}); {
		case sleep.restarts == 0:
			hopeless = append(hopeless, p.String())
			continue
		case budget.restarts > 0 && budget.stop() > sleep.stop():
			slower = append(slower, p.String())
		}
		rest = append(rest, p)
	}
	line("all of them", behind)
	if len(hopeless) > 0 && len(rest) > 0 {
		line("all but "+strings.Join(hopeless, ", "), rest)
	}
	t.say("\n%s", lostBehind(rows, compared, behind))
	if len(slower) > 0 {
		t.say("\ndrainit takes longer than the shortest sleep that lost nothing behind these: %s. %s. %s", strings.Join(slower, ", "), upper(longer("idle")), knownDelay)
	}
}

// chosen is a way in the table, and its time.
func chosen(name string, o sum, found bool) []string {
	if !found {
		return []string{"none of them", ""}
	}
	return []string{name, fmt.Sprintf("%.1f", o.stop())}
}

// lostBehind adds up what each way lost behind some balancers.
func lostBehind(rows []*row, compared []way, behind []plan) string {
	var parts []string
	for _, w := range compared {
		o := sumOf(rows, requests, w.name, behind)
		parts = append(parts, fmt.Sprintf("%s lost %d of %d", w.name, o.lost, o.sent))
	}
	return fmt.Sprintf("Behind all of them together %s.", strings.Join(parts, ", "))
}
