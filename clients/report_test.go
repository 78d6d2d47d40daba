package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestVerdicts(t *testing.T) {
	lost := map[string]int{"cut": 2, "refused": 1}
	for _, c := range []struct {
		name string
		r    result
		w    want
		says string
	}{
		{"nothing expected", result{Lost: lost}, want{}, "ok"},
		{"lost", result{Lost: lost, Total: 9}, want{lossless: true}, "LOST 3"},
		{"nothing to lose", result{}, want{lossless: true}, "NO CLIENTS"},
		{"lossless", result{Total: 9}, want{lossless: true}, "ok"},
		{"late", result{Forwarded: 26.1}, want{by: 25 * time.Second}, "LATE, by 25 s"},
		{"late for want of a CPU", result{Forwarded: 26.1, Stall: 1.2}, want{by: 25 * time.Second}, "ok"},
		{"in time", result{Forwarded: 25}, want{by: 25 * time.Second}, "ok"},
		{"early", result{Forwarded: 14}, want{from: 15 * time.Second}, "EARLY, from 15 s"},
		{"another reason", result{Why: "idle"}, want{why: "window"}, "WHY, not window"},
		{"physics is named", result{Lost: lost}, want{physics: "why"}, "ok (why)"},
	} {
		if c.r.judge(c.w); c.r.Verdict != c.says {
			t.Errorf("%s: %q, want %q", c.name, c.r.Verdict, c.says)
		}
	}
}

func TestLogOfAForwardedSignal(t *testing.T) {
	for _, after := range []string{`"9.07s"`, `9070000000`} {
		var r result
		r.takeLog(`{"level":"INFO","msg":"drainit: stop signal forwarded","signal":"SIGTERM","why":"idle","after":` + after + `}`)
		if r.Why != "idle" || r.Forwarded != 9.07 {
			t.Errorf("after=%s: %q after %v, want idle after 9.07", after, r.Why, r.Forwarded)
		}
	}
}

// Each case can be told from the others, and each of its rows expects
// something.
func TestCases(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range cases {
		if seen[c.name] {
			t.Errorf("two cases are called %q", c.name)
		}
		seen[c.name] = true
		if titles[c.kind] == "" {
			t.Errorf("%s is of no kind", c.name)
		}
		for _, r := range c.rows {
			if r.want == (want{}) || r.want == (want{physics: r.want.physics}) {
				t.Errorf("%s/%s expects nothing", c.name, r.until)
			}
		}
	}
}

func TestTableStaysBetweenItsLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.md")
	text := "before\n" + whole.begins + "\nold\n" + whole.ends + "\nafter\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	name := "nothing" // of which no loss is judged
	stop := func(subject string, round, lost int) result {
		return result{Case: name, Kind: stays, Until: "idle", Budget: 60, Subject: subject, Round: round,
			Lost: map[string]int{"cut": lost}, Total: 9, Forwarded: 5, Why: "idle", Verdict: "ok"}
	}
	for round, keep := range []bool{false, true} {
		if err := report(path, whole, []result{stop("now", round, 0), stop("before", round, 3+round)}, keep); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	row := "| " + name + " | idle | 3/9, 4/9 | 5.0 | idle | 0/9 | 5.0 | idle | ok |\n"
	if got := string(b); !strings.Contains(got, row) || strings.Contains(got, "old") ||
		!strings.HasPrefix(got, "before\n") || !strings.HasSuffix(got, "after\n") {
		t.Errorf("got\n%s\nwant a row\n%s", got, row)
	}
}

func TestDefaultTableNamesWhatIsWorse(t *testing.T) {
	stop := func(until string, lost int, killed bool) result {
		return result{Case: cases[0].name, Until: until, Budget: 10, Lost: map[string]int{"cut": lost}, Total: 9, Killed: killed}
	}
	got := defaultTable([]result{stop("window", 1, false), stop("", 3, true)})
	if !strings.Contains(got, "| killed 2 more lost |") {
		t.Errorf("not said: %s", got)
	}
}
