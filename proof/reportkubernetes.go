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
		case l.Round != nil:
			rows = addRound(rows, *l.Round)
		default:
			errs = append(errs, l.Error)
		}
	}
	return write(filepath.Dir(dir), "proof-kubernetes.md", clusterReport(rows, env, errs, filepath.Base(dir)))
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
	w.add(record{Sent: r.Sent, Failed: r.Failed})
	w.stops, w.starts = append(w.stops[:len(w.stops)-1], r.Stops...), append(w.starts[:len(w.starts)-1], r.Took)
	w.codes[0]-- // add's: a round has no code of its own
	for code, n := range r.Codes {
		w.codes[code] += n
	}
	return rows
}

func clusterReport(rows []*row, env environment, errs []string, dir string) string {
	t := new(text)
	t.say("# Proof in Kubernetes\n")
	t.say("`make proof-kubernetes` wrote this page from [the raw results](%s/%s). It runs against whatever kubectl points at; "+
		"`PROOF_LOAD` is the command that brings an image to the nodes, which gets its name as the last argument:\n", dir, clusterResults)
	t.say("```\nmake proof-kubernetes PROOF_LOAD='kind load docker-image'\n```\n")
	t.say("Kubernetes %s, %s node(s), kube-proxy in mode %s, %s, %s, %s at commit %s, %s.\n", env.Versions["Kubernetes"], env.Versions["nodes"],
		env.Versions["kube-proxy"], env.Versions["containers"], env.Kernel, env.Date, env.Commit, env.Took)
	t.say("A server is a Deployment behind a Service, and its clients are a pod in the same cluster: [the same kinds](proof.md#how-it-is-measured), " +
		"never sent again. The Go server dies on SIGTERM, FastAPI on uvicorn finishes its requests and closes its WebSockets. " +
		"Kept connections stay with their pod until it closes them, as kube-proxy leaves them alone. terminationGracePeriodSeconds is 60 everywhere. " +
		"A pod's stop is from its deletion to the end of its container, a round from the command to the last pod's end.")
	for _, name := range trialNames(rows) {
		trialSection(t, rows, name)
	}
	settled(t, env)
	if len(errs) > 0 {
		t.say("\n## Trials that did not run to their end\n")
		for _, e := range errs {
			t.say("- %s", strings.ReplaceAll(e, "\n", " "))
		}
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
	head := append([]string{"way", "rounds", "requests", "lost"}, kinds...)
	t.table(append(head, "how", "a pod's stop, s", "a round, s", "exit codes")...)
	for _, w := range ways {
		cells := []string{w.way, fmt.Sprint(w.n), fmt.Sprint(total(w.sent)), bold(total(w.lost))}
		for _, k := range kinds {
			cells = append(cells, fmt.Sprint(w.lost[k]))
		}
		stop := "–"
		if len(w.stops) > 0 {
			stop = spread(w.stops)
		}
		t.row(append(cells, hows(w), stop, fmt.Sprintf("%.1f", quantile(w.starts, 0.5)), seenCodes(w))...)
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

func settled(t *text, env environment) {
	t.say("\n## lifecycle.stopSignal\n\nKEP-4960's field is %s here.", env.Versions["lifecycle.stopSignal"])
}
