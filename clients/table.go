package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A table is put between two lines of the report; the rest of it is written by
// hand.
type place struct {
	begins, ends string
	raw          string // the end of the name of the results' file
	write        func(results []result) string
}

var (
	whole = place{
		"<!-- table: written by make clients -->", "<!-- end of the table -->", ".jsonl", table,
	}
	ofDefault = place{
		"<!-- default rule: written by make clients -->", "<!-- end of the default rule -->", "-default.jsonl", defaultTable,
	}
)

// report writes the results as JSON lines beside path, and the table made of
// them into it. With keep set they are added to those that are there.
func report(path string, p place, results []result, keep bool) error {
	raw := strings.TrimSuffix(path, filepath.Ext(path)) + p.raw
	if keep {
		old, err := load(raw)
		if err != nil {
			return err
		}
		results = append(old, results...)
	}
	for i := range results {
		results[i].judgeAgain()
	}
	slices.SortStableFunc(results, byRow)
	var b bytes.Buffer
	for _, r := range results {
		if err := json.NewEncoder(&b).Encode(r); err != nil {
			return err
		}
	}
	if err := os.WriteFile(raw, b.Bytes(), 0o644); err != nil {
		return err
	}
	return p.insert(path, p.write(results))
}

// judgeAgain judges by what is expected today: of kept results too.
func (r *result) judgeAgain() {
	if c := find(r.Case); c != nil && r.Verdict != failed {
		r.judge(c.want(r.Until, time.Duration(r.Budget*float64(time.Second))))
	}
}

func load(path string) (all []result, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for d := json.NewDecoder(bytes.NewReader(b)); err == nil; {
		var r result
		if err = d.Decode(&r); err == nil {
			all = append(all, r)
		}
	}
	if err == io.EOF {
		err = nil
	}
	return all, err
}

// insert puts the table where it belongs in the file.
func (p place) insert(path, table string) error {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	head, rest, found := strings.Cut(string(b), p.begins)
	_, tail, _ := strings.Cut(rest, p.ends)
	if !found {
		head, tail = string(b), "\n"
	}
	return os.WriteFile(path, []byte(head+p.begins+"\n\n"+table+"\n"+p.ends+tail), 0o644)
}

// row is where a result's case is in the table.
func (r *result) row() int {
	return slices.IndexFunc(cases, func(c scenario) bool { return c.name == r.Case })
}

func byRow(a, b result) int {
	for _, d := range []int{
		slices.Index(kinds, a.Kind) - slices.Index(kinds, b.Kind),
		a.row() - b.row(),
		int(a.Budget - b.Budget),
		slices.Index(values, a.Until) - slices.Index(values, b.Until),
		strings.Compare(a.Subject, b.Subject),
		a.Round - b.Round,
	} {
		if d != 0 {
			return d
		}
	}
	return 0
}

var (
	kinds  = []string{early, late, stays}
	values = []string{"window", "", "quiet", "idle", "closed"}
	titles = map[string]string{early: "Too early", late: "Too late", stays: "What works stays"}
)

// table has a row for each case and value, with the subjects side by side.
// Sorted results are expected.
func table(results []result) string {
	subjects := map[string]bool{}
	for _, r := range results {
		subjects[r.Subject] = true
	}
	labels := slices.Sorted(maps.Keys(subjects))
	var b strings.Builder
	summary(&b, results, labels)
	kind := ""
	for len(results) > 0 {
		first := results[0]
		n := slices.IndexFunc(results, func(r result) bool { return r.name() != first.name() })
		if n < 0 {
			n = len(results)
		}
		if first.Kind != kind {
			kind = first.Kind
			heading(&b, kind, labels)
		}
		tableRow(&b, results[:n], labels)
		results = results[n:]
	}
	return b.String()
}

// summary counts the stops that came to what they must.
func summary(b *strings.Builder, results []result, labels []string) {
	for _, l := range labels {
		stops, ok := 0, 0
		for _, r := range results {
			if r.Subject != l {
				continue
			}
			stops++
			if strings.HasPrefix(r.Verdict, "ok") {
				ok++
			}
		}
		fmt.Fprintf(b, "- %s: %d of %d stops came to what they must\n", l, ok, stops)
	}
}

func heading(b *strings.Builder, kind string, labels []string) {
	fmt.Fprintf(b, "\n### %s\n\n| case | value |", titles[kind])
	for _, l := range labels {
		fmt.Fprintf(b, " %s: lost | forwarded | why |", l)
	}
	fmt.Fprintf(b, " verdict |\n|---|---|%s---|\n", strings.Repeat("---|---|---|", len(labels)))
}

func tableRow(b *strings.Builder, results []result, labels []string) {
	r := results[0]
	value := r.until()
	if r.Budget != fullBudget.Seconds() {
		value = fmt.Sprintf("%s of %.0f s", value, r.Budget)
	}
	fmt.Fprintf(b, "| %s | %s |", r.Case, value)
	verdict := ""
	for _, l := range labels {
		var lost, forwarded, why, verdicts []string
		for _, r := range results {
			if r.Subject != l {
				continue
			}
			lost = append(lost, fmt.Sprintf("%d/%d", r.lostAll(), r.Total))
			forwarded = append(forwarded, fmt.Sprintf("%.1f", r.Forwarded))
			why = append(why, r.reason())
			verdicts = append(verdicts, r.Verdict)
		}
		fmt.Fprintf(b, " %s | %s | %s |", joined(lost), joined(forwarded), joined(why))
		verdict = joined(verdicts) // of the last: that is now
	}
	fmt.Fprintf(b, " %s |\n", verdict)
}

// joined lists what differs, and a thing that is always the same once.
func joined(all []string) string {
	if len(all) == 0 {
		return ""
	}
	if len(slices.Compact(slices.Clone(all))) == 1 {
		return all[0]
	}
	return strings.Join(all, ", ")
}

func (r *result) until() string {
	if r.Until == "" {
		return "default"
	}
	return r.Until
}

func (r *result) reason() string {
	if r.Killed {
		return r.Why + ", killed"
	}
	return r.Why
}

func (r *result) name() string {
	return order{Case: r.Case, Until: r.Until, Budget: time.Duration(r.Budget * float64(time.Second))}.name()
}

// defaultTable compares no value, or another one, with window: a row for each
// case and budget. Sorted results of one subject are expected.
func defaultTable(results []result) string {
	var b strings.Builder
	b.WriteString("| case | budget | window: lost | over | default: lost | over | why | what is worse |\n" +
		"|---|---|---|---|---|---|---|---|\n")
	type key struct {
		name   string
		budget float64
	}
	at := map[key][2][]result{}
	var keys []key
	for _, r := range results {
		k := key{r.Case, r.Budget}
		pair, seen := at[k]
		if !seen {
			keys = append(keys, k)
		}
		i := 0
		if r.Until != "window" {
			i = 1
		}
		pair[i] = append(pair[i], r)
		at[k] = pair
	}
	for _, k := range keys {
		window, none := at[k][0], at[k][1]
		fmt.Fprintf(&b, "| %s | %.0f s | %s | %s | %s | %s | %s | %s |\n", k.name, k.budget,
			list(window, (*result).losses), list(window, (*result).exit),
			list(none, (*result).losses), list(none, (*result).exit), list(none, (*result).reason), worse(window, none))
	}
	return b.String()
}

func (r *result) losses() string { return fmt.Sprintf("%d/%d", r.lostAll(), r.Total) }
func (r *result) exit() string   { return fmt.Sprintf("%.1f", r.Exit) }

func list(results []result, word func(*result) string) string {
	all := make([]string, len(results))
	for i := range results {
		all[i] = word(&results[i])
	}
	return joined(all)
}

// worse says what no value loses that window keeps.
func worse(window, none []result) string {
	lost, killed := func(all []result) (n int, k bool) {
		for _, r := range all {
			n += r.lostAll()
			k = k || r.Killed
		}
		return n, k
	}, ""
	before, killedBefore := lost(window)
	now, killedNow := lost(none)
	if killedNow && !killedBefore {
		killed = "killed "
	}
	if now > before {
		killed += fmt.Sprintf("%d more lost", now-before)
	}
	return killed
}
