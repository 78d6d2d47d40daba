package main

import (
	"strings"
	"testing"
	"time"
)

// behind returns the row of a way behind a balancer, of three restarts that took
// stop seconds each and lost so many requests together.
func behind(way, until, balancer string, lost int, stop float64) *row {
	r := &results{}
	for i := range 3 {
		x := record{Server: requests.name, Way: way, Until: until, Balancer: balancer, Restart: i, Stop: stop, traffic: traffic{Sent: map[string]int{"fresh": 100}}}
		if i == 0 && lost > 0 {
			x.Failed = map[string]map[failure]int{"fresh": {bad: lost}}
		}
		r.restarts = append(r.restarts, x)
	}
	return r.rows()[0]
}

// sleptBehind returns what three sleeps and two budgets did behind the balancers of plans:
// losses[i] behind the i-th, in the order of the ways.
func sleptBehind(plans []plan, losses [][5]int) (rows []*row) {
	for i, p := range plans {
		for j, w := range []struct {
			name, until string
			stop        float64
		}{{"sleep 5", "", 5.3}, {"sleep 15", "", 15.3}, {"sleep 25", "", 25.3}, {"drainit idle", "idle", 10 + float64(i)},
			{"drainit idle, 60 s", "idle", 20 + float64(i)}} {
			rows = append(rows, behind(w.name, w.until, p.String(), losses[i][j], w.stop))
		}
	}
	return rows
}

func sleepText(rows []*row) string {
	t := new(text)
	sleepSection(t, rows)
	return t.String()
}

// TestSleepForAFleet: a sleep that is set once has to be long enough behind
// every balancer.
func TestSleepForAFleet(t *testing.T) {
	plans := []plan{{"follow", 0}, {"follow", 8 * time.Second}, {"follow", 20 * time.Second}}
	for _, c := range []struct {
		what   string
		losses [][5]int
		want   []string
	}{
		{"the slowest decides", [][5]int{{0, 0, 0, 0, 0}, {4, 0, 0, 0, 0}, {5, 3, 0, 2, 0}}, []string{
			"| follows after 0s | sleep 5 | 5.3 | 30 s | 10.0 |",
			"| follows after 8s | sleep 15 | 15.3 | 30 s | 11.0 |",
			"| follows after 20s | sleep 25 | 25.3 | 60 s | 22.0 |",
			"| all of them | sleep 25 | 25.3 | 60 s | 21.0 |",
			"sleep 5 lost 9 of 900, sleep 15 lost 3 of 900, sleep 25 lost 0 of 900, drainit idle lost 2 of 900, drainit idle, 60 s lost 0 of 900",
			"takes longer than the shortest sleep that lost nothing behind these: follows after 0s.",
		}},
		{"none is long enough behind one", [][5]int{{0, 0, 0, 0, 0}, {4, 0, 0, 0, 0}, {5, 3, 2, 0, 0}}, []string{
			"| follows after 20s | none of them |  | 30 s | 12.0 |",
			"| all of them | none of them |  | 30 s | 11.0 |",
			"| all but follows after 20s | sleep 15 | 15.3 | 30 s | 10.5 |",
		}},
		{"drainit loses too", [][5]int{{0, 0, 0, 0, 0}, {4, 0, 0, 1, 1}, {5, 3, 0, 0, 0}}, []string{
			"| follows after 8s | sleep 15 | 15.3 | none of them |  |",
			"| all of them | sleep 25 | 25.3 | none of them |  |",
			"drainit idle, 60 s lost 1 of 900",
		}},
	} {
		got := sleepText(sleptBehind(plans, c.losses))
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q is not in\n%s", c.what, want, got)
			}
		}
	}
}

// TestSleepsAreComparedBehindTheSame: a balancer behind which a way is missing
// does not count for the others.
func TestSleepsAreComparedBehindTheSame(t *testing.T) {
	plans := []plan{{"follow", 0}, {"follow", 20 * time.Second}}
	rows := sleptBehind(plans, [][5]int{{0, 0, 0, 0, 0}, {5, 3, 0, 0, 0}})
	got := sleepText(rows[:len(rows)-1]) // without idle behind the slower one
	if want := "| follows after 0s | sleep 5 |"; !strings.Contains(got, want) {
		t.Errorf("%q is not in\n%s", want, got)
	}
	if strings.Contains(got, "follows after 20s") {
		t.Errorf("compared behind what was not tried with all:\n%s", got)
	}
	if got := sleepText(rows[:3]); got != "" {
		t.Errorf("compared with nothing:\n%s", got)
	}
}

// TestSleepOfAHeadline: beside drainit's recommended value stands the shortest
// sleep that lost as little.
func TestSleepOfAHeadline(t *testing.T) {
	plans := []plan{headline}
	for _, c := range []struct {
		losses [5]int
		stop   float64 // of drainit
		want   string
	}{
		{[5]int{9, 0, 0, 0}, 12, "The shortest sleep tried that lost as little as drainit idle (0) is sleep 15: its median stop is 15.3 s, that of drainit idle 12.0 s."},
		{[5]int{9, 0, 0, 0}, 20, "that of drainit idle 20.0 s. drainit takes longer here, because"},
		{[5]int{9, 8, 7, 0}, 20, "No sleep that was tried lost as little as drainit idle (0), whose median stop is 20.0 s."},
		{[5]int{9, 1, 0, 1}, 12, "lost as little as drainit idle (1) is sleep 15"},
	} {
		rows := sleptBehind(plans, [][5]int{c.losses})
		for i := range rows[3].stops {
			rows[3].stops[i] = c.stop
		}
		if got := sleepOf(rows, requests); !strings.Contains(got, c.want) {
			t.Errorf("%v: %q is not in %q", c.losses, c.want, got)
		}
	}
	if got := sleepOf(nil, requests); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

// TestSleepsThatDoAsWellAreNamed: where a sleep of 5 s loses as little in less
// time, the page says so.
func TestSleepsThatDoAsWellAreNamed(t *testing.T) {
	of := func(server, way string, lost int, stop float64) *row {
		w := behind(way, "", headline.String(), lost, stop)
		w.server = server
		return w
	}
	for _, c := range []struct {
		lost int // with the sleep
		stop float64
		want bool
	}{{0, 5, true}, {1, 5, false}, {0, 8, false}} {
		got := sleptAsWell([]*row{of("nginx", "drainit quiet", 0, 7), of("nginx", "sleep 5", c.lost, c.stop)})
		if named := strings.Contains(got, "took up to 2.0 s less, in front of these: nginx."); named != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
