package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// writeClusterReport makes the page about Kubernetes from its raw results.
func writeClusterReport(dir string) error {
	f, err := os.Open(filepath.Join(dir, clusterResults))
	if err != nil {
		return err
	}
	defer f.Close()
	var env environment
	var rows []*row
	var errs []string
	var before, lostBefore int
	for lines := json.NewDecoder(f); ; {
		var l clusterLine
		if err := lines.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		switch {
		case l.Environment != nil:
			env = *l.Environment
		case l.Round != nil && l.Round.Round < 0:
			x := record{Sent: l.Round.Sent, Failed: l.Round.Failed}
			before, lostBefore = before+x.sent(), lostBefore+x.lost()
		case l.Round != nil:
			rows = addRound(rows, *l.Round)
		default:
			errs = append(errs, l.Error)
		}
	}
	page := clusterReport(rows, env, filepath.Base(dir), fmt.Sprintf("%d of %d", lostBefore, before))
	return write(filepath.Dir(dir), "proof-kubernetes.md", page+notEnded(errs))
}

// addRound adds a round to the row of its trial and way: the trial is what a
// balancer is elsewhere.
func addRound(rows []*row, r clusterRecord) []*row {
	i := slices.IndexFunc(rows, func(w *row) bool { return w.balancer == r.Trial && w.way == r.Way })
	if i < 0 {
		i = len(rows)
		rows = append(rows, &row{server: r.Server, way: r.Way, balancer: r.Trial, sent: make(map[string]int), lost: make(map[string]int),
			how: make(map[failure]int), codes: make(map[int]int), whys: make(map[string]int)})
	}
	w := rows[i]
	w.n++
	w.count(r.Sent, r.Failed)
	w.starts = append(w.starts, r.Took)
	for _, s := range r.Stops {
		w.stops = append(w.stops, s.Took)
		w.codes[s.Code]++
		if s.Why != "" {
			w.whys[s.Why]++
		}
	}
	for _, l := range r.Losses {
		if l.race(r.Stops) {
			w.how[keepAliveRace]++
			w.how[l.How]--
		}
	}
	return rows
}

const (
	raceTakes = 100 * time.Millisecond // from sending to the reset
	raceApart = 250 * time.Millisecond // from drainit's forwarding
)

// race reports whether l is one, by the times that drainit's own log gives: it
// was sent on a connection that had served before, and reset at once, when a
// signal had just been forwarded.
func (l loss) race(stops []stop) bool {
	if l.Kind != "kept" || l.Used == 0 || l.How != reset || l.After > raceTakes.Seconds() {
		return false
	}
	return slices.ContainsFunc(stops, func(s stop) bool {
		return !s.At.IsZero() && l.At.Sub(s.At).Abs() < raceApart
	})
}

func clusterReport(rows []*row, env environment, dir, before string) string {
	t := new(text)
	t.say("# Proof in Kubernetes\n")
	t.say("`make proof-kubernetes` wrote this page from [the raw results](%s/%s). It runs against whatever kubectl points at; "+
		"`PROOF_LOAD` is the command that brings an image to the nodes, which gets its name as the last argument:\n", dir, clusterResults)
	t.say("```\nmake proof-kubernetes PROOF_LOAD='kind load docker-image'\n```\n")
	t.say("Kubernetes %s, nodes: %s, kube-proxy in mode %s, %s, %s, %d CPUs, %s at commit %s, %s. Load average, trials included: %s.\n", env.Versions["Kubernetes"], env.Versions["nodes"],
		env.Versions["kube-proxy"], env.Versions["containers"], env.Kernel, env.CPUs, env.Date, env.Commit, env.Took, env.Versions["load"])
	t.say(clusterMeasured, before)
	for _, name := range trialNames(rows) {
		trialSection(t, rows, name)
	}
	t.say("\n## lifecycle.stopSignal\n\nKEP-4960's field is %s here.", env.Versions["lifecycle.stopSignal"])
	return t.String()
}

const clusterMeasured = `A server is a Deployment of three replicas behind a Service, and its clients are a pod in the same cluster:
[the same kinds](proof.md#how-it-is-measured), never sent again. The Go server dies on SIGTERM; FastAPI on uvicorn finishes its
requests and closes its WebSockets. Kept connections stay with their pod until it closes them: kube-proxy leaves them alone.
terminationGracePeriodSeconds is 60 everywhere.

A pod's stop is from its deletion to the end of its container, as the API server tells it; a round from the command to the
last pod's end. Times are medians, in brackets the fifth and the ninety-fifth percentile. "At most" is the upper end of a
95 %% confidence interval for the losses of one round. A **keep-alive race** is a request that was sent on a connection which had
served others before, and was reset at once, within 250 ms of the moment in which drainit's log has the signal: it was on its
way while the server died. Nothing outside the server can prevent it. Before the first rounds %s requests were lost.`

func notEnded(errs []string) string {
	if len(errs) == 0 {
		return ""
	}
	t := new(text)
	t.say("\n## Trials that did not run to their end\n")
	for _, e := range errs {
		t.say("- %s", strings.ReplaceAll(e, "\n", " "))
	}
	return t.String()
}

// trialNames are in the order of trials, not of the results.
func trialNames(rows []*row) (names []string) {
	for _, t := range trials(1) {
		if !slices.Contains(names, t.name) && slices.ContainsFunc(rows, func(w *row) bool { return w.balancer == t.name }) {
			names = append(names, t.name)
		}
	}
	return names
}

func trialSection(t *text, rows []*row, name string) {
	var ways []*row
	for _, x := range trials(1) {
		if i := slices.IndexFunc(rows, func(w *row) bool { return w.balancer == name && x.name == name && w.way == x.way }); i >= 0 {
			ways = append(ways, rows[i])
		}
	}
	t.say("\n## %s%s", strings.ToUpper(name[:1]), name[1:])
	kinds := kindsSent(ways)
	head := append([]string{"way", "rounds", "requests", "lost", "at most"}, kinds...)
	t.table(append(head, "how", "a pod's stop, s", "a round, s", "exit codes", "why forwarded")...)
	for _, w := range ways {
		cells := []string{w.way, fmt.Sprint(w.n), fmt.Sprint(total(w.sent)), bold(total(w.lost)), fmt.Sprintf("%.2f", w.atMost())}
		for _, k := range kinds {
			cells = append(cells, fmt.Sprint(w.lost[k]))
		}
		stop := "–"
		if len(w.stops) > 0 {
			stop = spread(w.stops)
		}
		t.row(append(cells, hows(w), stop, fmt.Sprintf("%.1f", quantile(w.starts, 0.5)), seenCodes(w), counts(w.whys))...)
	}
}

func kindsSent(rows []*row) (names []string) {
	for _, k := range kinds {
		if slices.ContainsFunc(rows, func(w *row) bool { return w.sent[k.name] > 0 }) {
			names = append(names, k.name)
		}
	}
	return names
}

func seenCodes(w *row) string {
	var parts []string
	for _, c := range slices.Sorted(maps.Keys(w.codes)) {
		if w.codes[c] > 0 {
			parts = append(parts, fmt.Sprint(c))
		}
	}
	return strings.Join(parts, ", ")
}
