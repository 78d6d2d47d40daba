package main

import (
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

// clusterRun is an environment, and what was run in it.
type clusterRun struct {
	env    environment
	rounds []clusterRecord
	errs   []string
}

// readClusterRuns reads the runs that are in the raw results.
func readClusterRuns(path string) (runs []clusterRun, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := json.NewDecoder(f); ; {
		var l clusterLine
		if err := lines.Decode(&l); err == io.EOF {
			return latest(runs), nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if l.Environment != nil {
			runs = append(runs, clusterRun{env: *l.Environment})
			continue
		}
		if len(runs) == 0 {
			return nil, fmt.Errorf("%s begins without an environment", path)
		}
		last := &runs[len(runs)-1]
		if l.Round != nil {
			last.rounds = append(last.rounds, *l.Round)
		} else {
			last.errs = append(last.errs, l.Error)
		}
	}
}

func (r clusterRecord) id() string { return r.Trial + ", " + r.Way }

// latest leaves of each trial and way its last run only.
func latest(runs []clusterRun) []clusterRun {
	seen := make(map[string]bool)
	for i := len(runs) - 1; i >= 0; i-- {
		r := &runs[i]
		r.rounds = slices.DeleteFunc(r.rounds, func(x clusterRecord) bool { return seen[x.id()] })
		r.errs = slices.DeleteFunc(r.errs, func(e string) bool {
			return slices.ContainsFunc(slices.Collect(maps.Keys(seen)), func(id string) bool { return strings.HasPrefix(e, id+":") })
		})
		for _, x := range r.rounds {
			seen[x.id()] = seen[x.id()] || x.Round >= 0
		}
	}
	return slices.DeleteFunc(runs, func(r clusterRun) bool { return len(r.rounds) == 0 })
}

// writeClusterReport makes the page about Kubernetes from its raw results.
func writeClusterReport(dir string) error {
	runs, err := readClusterRuns(filepath.Join(dir, clusterResults))
	if err != nil {
		return err
	}
	if len(runs) == 0 {
		return errors.New("no trial ran to its end")
	}
	var rows []*row
	var sent, lost int // before the first rounds
	var errs []string
	for _, r := range runs {
		errs = append(errs, r.errs...)
		for _, x := range r.rounds {
			if x.Round >= 0 {
				rows = addRound(rows, x)
				continue
			}
			sent, lost = sent+x.sent(), lost+x.lost()
		}
	}
	page := clusterReport(rows, runs, filepath.Base(dir), fmt.Sprintf("%d of %d", lost, sent))
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
	w.starts, w.acted = append(w.starts, r.Took), append(w.acted, r.Acted)
	for _, s := range r.Stops {
		w.stops = append(w.stops, s.Took)
		w.codes[s.Code]++
		if s.Why != "" {
			w.whys[s.Why]++
		}
	}
	for _, l := range r.Losses {
		if l.race(r.Stops) {
			w.how[l.How]--
			w.how[keepAliveRace]++
		}
	}
	return rows
}

// unseen is how long a request may have been under way without being seen:
// drainit looks ten times a second.
const unseen = 100 * time.Millisecond

// race reports whether l is one, by the times in drainit's own log: it was sent
// on a connection that had served before, after drainit had looked for the last
// time, and was reset.
func (l loss) race(stops []stop) bool {
	if l.Kind != "kept" || l.Used == 0 || l.How != reset {
		return false
	}
	sent := l.At.Add(-time.Duration(l.After * float64(time.Second)))
	return slices.ContainsFunc(stops, func(s stop) bool {
		return !s.At.IsZero() && sent.After(s.At.Add(-unseen)) && l.At.Sub(s.At) < time.Second
	})
}

func clusterReport(rows []*row, runs []clusterRun, dir, before string) string {
	t := new(text)
	t.say("# Proof in Kubernetes\n")
	t.say("`make proof-kubernetes` wrote this page from [the raw results](%s/%s). It runs against whatever kubectl points at; "+
		"`PROOF_LOAD` is the command that brings an image to the nodes, which gets its name as the last argument:\n", dir, clusterResults)
	t.say("```\nmake proof-kubernetes PROOF_LOAD='kind load docker-image'\n```\n")
	env := runs[len(runs)-1].env
	t.say("Kubernetes %s, nodes: %s, kube-proxy in mode %s, %s, %s, %d CPUs. Runs:\n", env.Versions["Kubernetes"], env.Versions["nodes"],
		env.Versions["kube-proxy"], env.Versions["containers"], env.Kernel, env.CPUs)
	for _, r := range runs {
		t.say("- %s at commit %s, %s, load average at its end %s: %d rounds", r.env.Date, r.env.Commit, r.env.Took, r.env.Versions["load"], len(r.rounds))
	}
	t.say("")
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
terminationGracePeriodSeconds is 60 unless a way says otherwise.

A pod's stop is from its deletion to the end of its container, as the API server tells it; the command is
` + "`kubectl rollout restart` and `rollout status`" + `, or what the trial does in their place; a round lasts from it to the last pod's end. Times are medians, in brackets the fifth and the ninety-fifth percentile. "At most" is the upper end of a
95 %% confidence interval for the losses of one round. A **keep-alive race** is a request that was sent on a connection which had
served others before, and reset, and that was sent later than 100 ms before the moment in which drainit's log has the signal forwarded: it was on its
way while the server died. Nothing outside the server can prevent it.
A request that **timed out** was neither refused nor cut; on a node whose load average is far above its CPUs, as above, its server may
just have had no CPU for it. Before the first rounds %s requests were lost.`

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
	if about := aboutTrial[name]; about != "" {
		t.say("\n%s", about)
	}
	kinds := kindsSent(ways)
	head := append([]string{"way", "rounds", "requests", "lost", "at most"}, kinds...)
	t.table(append(head, "how", "a pod's stop, s", "the command, s", "a round, s", "exit codes", "why forwarded")...)
	for _, w := range ways {
		cells := []string{w.way, fmt.Sprint(w.n), fmt.Sprint(total(w.sent)), bold(total(w.lost)), fmt.Sprintf("%.2f", w.atMost())}
		for _, k := range kinds {
			cells = append(cells, fmt.Sprint(w.lost[k]))
		}
		stop := "–"
		if len(w.stops) > 0 {
			stop = spread(w.stops)
		}
		t.row(append(cells, hows(w), stop, fmt.Sprintf("%.1f", quantile(w.acted, 0.5)), fmt.Sprintf("%.1f", quantile(w.starts, 0.5)), seenCodes(w), counts(w.whys))...)
	}
}

// aboutTrial says what a table can't.
var aboutTrial = map[string]string{
	"one replica, maxSurge 0, externalTrafficPolicy Cluster": "The server starts in 3 s, and its successor is not begun before it is deleted: no endpoint is ready meanwhile, " +
		"and kube-proxy falls back to the one that is going, if its readiness probe still passes ([KEP-1669](kubernetes.md#drainit_unready_delay)).",
	diesTrial: "Nothing but the server closes a kept connection, so its client never leaves the pod. drainit can't tell it from one of a " +
		"balancer that is late: `idle` waits for the patience of [ambiguous evidence](drain-until.md), and then for an instant between two requests. " +
		"A rollout with maxSurge does not wait for that: compare the command's time.",
	"liveness restart of one": "No pod is deleted, so the Service goes on sending to the one that stops, unless its readiness probe fails: drainit sees to that, " +
		"`preStop: sleep` does not. The round has the time that the liveness probe takes.",
	rpcDiesTrial: "A client has one connection, with streams in flight at any time: there is no instant without a request, and nothing outside the server " +
		"can ask the client for another connection. What remains is those streams. GracefulStop can ask, as the next table shows.",
	sidecarTrial: "All three have the server under drainit. A container like any gets its signal together with the server's.",
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
