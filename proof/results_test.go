package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func rowOf(restarts, lostEach int) *row {
	r := &results{}
	for i := range restarts {
		x := record{Server: "s", Way: "w", Balancer: "b", Restart: i, Stop: float64(i + 1), traffic: traffic{Sent: map[string]int{"fresh": 10}}}
		if lostEach > 0 {
			x.Failed = map[string]map[failure]int{"fresh": {reset: lostEach}}
		}
		r.restarts = append(r.restarts, x)
	}
	return r.rows()[0]
}

func TestAtMost(t *testing.T) {
	for _, c := range []struct {
		restarts, each int
		want           float64
	}{
		{30, 0, 3.0 / 30},      // the rule of three
		{1, 10, 18.4},          // from a table of Poisson's distribution, two-sided
		{1, 1, 5.57},           //
		{100, 1, 121.6 / 100.}, //
	} {
		if got := rowOf(c.restarts, c.each).atMost(); math.Abs(got-c.want) > 0.01*c.want+0.005 {
			t.Errorf("%d a restart in %d restarts: at most %.3f, want %.3f", c.each, c.restarts, got, c.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	for q, want := range map[float64]float64{0: 1, 0.5: 2.5, 1: 4} {
		if got := quantile([]float64{4, 1, 3, 2}, q); got != want {
			t.Errorf("quantile %g of 1 to 4: %g, want %g", q, got, want)
		}
	}
}

func TestVerdict(t *testing.T) {
	lossless := func(until string, lost int, killed bool) error {
		r := &results{restarts: []record{{Server: "s", Way: "w", Until: until, Stop: 1, Killed: killed, traffic: traffic{Sent: map[string]int{"fresh": 9},
			Failed: map[string]map[failure]int{"fresh": {cut: lost}}}}}}
		return verdict(r)
	}
	for _, c := range []struct {
		until  string
		lost   int
		killed bool
		good   bool
	}{
		{"idle", 0, false, true},
		{"idle", 1, false, false},
		{"idle", 0, true, false},
		{"", 1, false, true},
		{"", 0, false, false},
	} {
		if err := lossless(c.until, c.lost, c.killed); (err == nil) != c.good {
			t.Errorf("until %q, %d lost, killed %v: %v", c.until, c.lost, c.killed, err)
		}
	}
}

func TestForwarding(t *testing.T) {
	why, after := forwarding(`time=2026-01-01T00:00:00Z level=INFO msg="drainit: stop signal forwarded" signal=SIGTERM why=idle after=7.25s connections=0`)
	if why != "idle" || after != 7.25 {
		t.Errorf("%q %g", why, after)
	}
}

// TestMutantsFollowTheSource: a mutant whose text is not in the source any more
// could not be built.
func TestMutantsFollowTheSource(t *testing.T) {
	for _, m := range mutants {
		source, err := os.ReadFile(filepath.Join("..", m.file))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), m.old); n != 1 {
			t.Errorf("%s: %q is %d times in %s", m.name, m.old, n, m.file)
		}
	}
}

// TestReportSaysTheSettings: what drainit was told besides DRAIN_UNTIL is on
// the page, where its row is and in its section.
func TestReportSaysTheSettings(t *testing.T) {
	s := serverNamed("FastAPI on uvicorn")
	r := &results{restarts: []record{{Server: s.name, Way: "drainit closed", Until: "closed", Balancer: headline.String(), Stop: 7, traffic: traffic{Sent: map[string]int{"fresh": 100}}}},
		strips: []strip{{Server: s.name, Way: "drainit closed", Balancer: headline.String()}}}
	page := report(r, "proof")
	for _, want := range []string{"| `closed`, `DRAINIT_CLOSED_IDLE=7s` |", "\ndrainit runs with `DRAINIT_CLOSED_IDLE=7s` here.\n"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not in\n%s", want, page)
		}
	}
}

// TestInShort counts servers: one that loses under tini and after a sleep, and
// one that loses under tini only. A third, not tried under tini, does not count.
func TestInShort(t *testing.T) {
	r := new(results)
	add := func(server, way, until string, lost int) {
		r.restarts = append(r.restarts, record{Server: server, Way: way, Until: until, Balancer: "b", Stop: 1, traffic: traffic{Sent: map[string]int{"fresh": 9},
			Failed: map[string]map[failure]int{"fresh": {cut: lost}}}})
	}
	add("Go", "tini", "", 3)
	add("Go", "sleep 5", "", 1)
	add("Go", "drainit idle", "idle", 0)
	add("nginx", "tini", "", 2)
	add("nginx", "sleep 5", "", 0)
	add("nginx", "drainit quiet", "quiet", 0)
	add("Puma", "drainit quiet", "quiet", 1)
	want := "Of 2 servers 2 lost requests under tini, 1 with a sleep of 5 s before the signal, and 0 under drainit with the settings that are recommended for them."
	if got := inShort(r.rows()); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestReportFromResults(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "proof")
	j, err := newJournal(filepath.Join(dir, "results.jsonl"), false)
	if err != nil {
		t.Fatal(err)
	}
	s := servers[0]
	for i := range replicas {
		j.write(line{Restart: &record{Server: s.name, Way: "drainit idle", Until: "idle", Balancer: headline.String(), Restart: i, Stop: 7, traffic: traffic{Sent: map[string]int{"fresh": 100}}}})
		j.write(line{Restart: &record{Server: s.name, Way: "tini", Balancer: headline.String(), Restart: i, Stop: 1, traffic: traffic{Sent: map[string]int{"fresh": 50},
			Failed: map[string]map[failure]int{"fresh": {bad: 4}}}}})
	}
	j.write(line{Strip: &strip{Server: s.name, Way: "tini", Balancer: headline.String(), Good: []int{1, 2}, Failed: []int{0, 3}, Stops: []float64{0.1}, Backs: []float64{0.2}}})
	j.write(line{Environment: &environment{Kernel: "Linux"}})
	if err := writeReport(dir); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(dir + ".md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| tini | 3 | 150 | 12 | 4.0 |", "| drainit idle | 3 | 300 | **0** | 0.0 | 1.00 |"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("%q is not in\n%s", want, page)
		}
	}
}
