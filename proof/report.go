package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// writeReport makes the report and its pictures from the raw results in dir.
func writeReport(dir string) error {
	r, err := readResults(filepath.Join(dir, "results.jsonl"))
	if err != nil {
		return err
	}
	for _, s := range r.headlines() {
		for _, t := range themes {
			if err := write(dir, pictureName("strips", s, t), strips(r, s.name, t)); err != nil {
				return err
			}
		}
	}
	for _, t := range themes {
		if err := write(dir, "price-"+t.name+".svg", dots(r, t)); err != nil {
			return err
		}
	}
	return write(filepath.Dir(dir), filepath.Base(dir)+".md", report(r, filepath.Base(dir)))
}

func write(dir, name, text string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
}

func pictureName(what string, s server, t theme) string {
	return fmt.Sprintf("%s-%s-%s.svg", what, slug(s.name), t.name)
}

func slug(name string) string {
	return strings.ToLower(strings.NewReplacer(", ", "-", " ", "-").Replace(name))
}

// text is a page in the making.
type text struct{ strings.Builder }

func (t *text) say(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }

func (t *text) table(head ...string) {
	t.say("\n| %s |\n|%s", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
}

func (t *text) row(cells ...string) { t.say("| %s |", strings.Join(cells, " | ")) }

func (t *text) picture(path, about string) {
	t.say("\n<picture>\n<source media=\"(prefers-color-scheme: dark)\" srcset=\"%s-dark.svg\">\n<img src=\"%s-light.svg\" width=\"800\" alt=\"%s\">\n</picture>", path, path, about)
}

func report(r *results, dir string) string {
	t := new(text)
	rows := r.rows()
	t.say("# Proof: what each way of stopping a server loses, and what it costs\n")
	t.say("The rig of `make proof` wrote this page, its pictures and [the raw results](%s/results.jsonl), one line for each restart: %d restarts of %d servers, %d requests. "+
		"Nothing in it is written by hand; `make proof` writes it again, on any Debian machine with Docker. [The same in Kubernetes](proof-kubernetes.md) is a page of its own.", dir, restartsOf(rows), len(serversOf(rows)), requestsOf(rows))
	howMeasured(t)
	for _, s := range r.headlines() {
		headlineSection(t, r, rows, s, dir)
	}
	t.say("\n## What it costs\n\nEach dot is a way to stop one of the servers above. To the right is slower, up is more lost; the best place is at the lower left.")
	t.picture(dir+"/price", "time of a stop against requests lost for each way")
	serverSection(t, rows)
	balancerSection(t, rows)
	sleepSection(t, rows)
	initSection(t, rows)
	environmentSection(t, r)
	return t.String()
}

// headlines are the servers with sections of their own that were measured.
func (r *results) headlines() []server {
	return slices.DeleteFunc(slices.Clone(servers[:3]), func(s server) bool {
		return !slices.ContainsFunc(r.strips, func(x strip) bool { return x.Server == s.name && x.Balancer == headline.String() })
	})
}

func howMeasured(t *text) {
	t.say(`
## How it is measured

Three replicas of a server, each in a container of its own, stand behind a balancer. All kinds of requests that the
server can answer are sent at the same time. Each is sent when it is due, whatever became of those before it (open
loop), and none is ever sent again, neither by the clients nor by the balancers. The replicas are restarted one after
the other. A request is lost if it is

- **refused**: no connection came to be,
- **reset**: its connection ended before an answer began,
- **cut**: the answer, stream or session ended before it was complete,
- **timed out**: 10 s longer than it should have taken,
- **5xx**: the balancer had to answer for the server.`)
	t.table("kind", "what", "a second")
	for _, k := range kinds {
		rate := "1 or so"
		if k.rate > 0 {
			rate = fmt.Sprint(k.rate)
		}
		t.row(k.name, k.about, rate)
	}
	t.say(`
The ways: **none**, the server is PID 1; **tini**, **dumb-init**, **catatonit** pass the signal on at once; **sleep 5**,
**sleep 15** and **sleep 25** wait so long before the signal, as ` + "`preStop: sleep`" + ` does, under tini; **drainit** with each value of
` + "`DRAINIT_DRAIN_UNTIL`" + `, and with the window of 5 s that is its default. SIGKILL comes after 60 s for all. Unless a table says
otherwise the balancer is HAProxy as an ingress controller runs it: it checks health every second and is told over its
admin socket, 2 s after a stop began, to drain that replica; it keeps a pool of connections. Servers keep idle
connections for longer than it does, as its manual asks: otherwise requests are lost without any restart.

"At most" is the upper end of a 95 %% confidence interval for the losses of one restart: 3/n where none of n restarts
lost anything (the rule of three). Times are medians, with the fifth and the ninety-fifth percentile.`)
}

func restartsOf(rows []*row) (n int) {
	for _, w := range rows {
		n += w.n
	}
	return n
}

func requestsOf(rows []*row) (n int) {
	for _, w := range rows {
		n += total(w.sent)
	}
	return n
}

func serversOf(rows []*row) map[string]bool {
	names := make(map[string]bool)
	for _, w := range rows {
		names[w.server] = true
	}
	return names
}

func find(rows []*row, server, way, balancer string) *row {
	i := slices.IndexFunc(rows, func(w *row) bool {
		return w.server == server && w.way == way && (balancer == "" || w.balancer == balancer)
	})
	if i < 0 {
		return nil
	}
	return rows[i]
}

func headlineSection(t *text, r *results, rows []*row, s server, dir string) {
	t.say("\n## %s, which %s\n", s.name, map[bool]string{true: "dies of its signal", false: s.about + " on its signal"}[s.about == dies])
	t.say("The first rolling restart of each way, in requests that ended in each 100 ms; triangles are stops, red is lost.")
	t.picture(dir+"/"+strings.TrimSuffix(pictureName("strips", s, theme{}), "-.svg"), "requests over a rolling restart, one strip for each way")
	head := append([]string{"way", "restarts", "requests", "lost", "a restart", "at most"}, s.kinds...)
	t.table(append(head, "stop, s", "exit code")...)
	for _, w := range ways {
		x := find(rows, s.name, w.name, headline.String())
		if x == nil {
			continue
		}
		cells := []string{w.name, fmt.Sprint(x.n), fmt.Sprint(total(x.sent)), bold(total(x.lost)), fmt.Sprintf("%.1f", x.perRestart()), fmt.Sprintf("%.2f", x.atMost())}
		for _, k := range s.kinds {
			cells = append(cells, fmt.Sprint(x.lost[k]))
		}
		t.row(append(cells, spread(x.stops), exitCodes(x))...)
	}
	t.say("\nHow: %s.", howLost(rows, s.name))
	if len(s.drainit) > 0 {
		t.say("\ndrainit runs with %s here.", strings.Join(s.settings(), ", "))
	}
	if line := sleepOf(rows, s); line != "" {
		t.say("\n%s", line)
	}
}

// settings are what drainit is told in front of s besides DRAIN_UNTIL.
func (s server) settings() (all []string) {
	for _, e := range s.drainit {
		all = append(all, "`"+e+"`")
	}
	return all
}

func bold(n int) string {
	if n == 0 {
		return "**0**"
	}
	return fmt.Sprint(n)
}

func spread(values []float64) string {
	return fmt.Sprintf("%.1f (%.1f–%.1f)", quantile(values, 0.5), quantile(values, 0.05), quantile(values, 0.95))
}

func exitCodes(w *row) string {
	var all []string
	for _, c := range slices.Sorted(maps.Keys(w.codes)) {
		all = append(all, fmt.Sprint(c))
	}
	s := strings.Join(all, ", ")
	if w.killed > 0 {
		s += fmt.Sprintf(" (%d killed)", w.killed)
	}
	return s
}

// howLost tells in what ways each way lost.
func howLost(rows []*row, server string) string {
	var parts []string
	for _, w := range ways {
		x := find(rows, server, w.name, headline.String())
		if x == nil || total(x.lost) == 0 {
			continue
		}
		parts = append(parts, w.name+": "+hows(x))
	}
	return strings.Join(parts, "; ")
}

func hows(x *row) string {
	var parts []string
	for _, f := range failures {
		if n := x.how[f]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, f))
		}
	}
	return strings.Join(parts, ", ")
}

func serverSection(t *text, rows []*row) {
	t.say("\n## Every server\n\nWith the stop signal that its users set, under tini, tini after `sleep 5`, and drainit with the value that fits it. " +
		"What it does says what the server does on that signal.")
	t.table("server", "signal", "what it does", "tini: lost", "stop, s", "sleep 5: lost", "stop, s", "drainit", "lost", "at most", "requests", "stop, s", "why forwarded")
	var remains, missing []string
	for _, s := range servers {
		best := find(rows, s.name, "drainit "+s.until, "")
		if best == nil {
			missing = append(missing, s.name)
			continue
		}
		cells := []string{s.name, s.signal, s.about}
		for _, w := range []string{"tini", "sleep 5"} {
			if x := find(rows, s.name, w, best.balancer); x != nil {
				cells = append(cells, fmt.Sprintf("%.1f", x.perRestart()), fmt.Sprintf("%.1f", quantile(x.stops, 0.5)))
			} else {
				cells = append(cells, "", "")
			}
		}
		cells = append(cells, strings.Join(append([]string{"`" + s.until + "`"}, s.settings()...), ", "), bold(total(best.lost)), fmt.Sprintf("%.2f", best.atMost()), fmt.Sprint(total(best.sent)), spread(best.stops), counts(best.whys))
		t.row(cells...)
		if total(best.lost) > 0 {
			remains = append(remains, fmt.Sprintf("- %s: %s, of %s. %s", s.name, hows(best), kindsOf(best), s.remains))
		}
	}
	t.say("\n\"Lost\" under tini and `sleep 5` is a restart's, under drainit all.")
	if missing != nil {
		t.say("\nNot measured in this run: %s.", strings.Join(missing, "; "))
	}
	if remains != nil {
		t.say("\nWhat remains:\n\n%s", strings.Join(remains, "\n"))
	}
}

func kindsOf(w *row) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(w.lost)) {
		if n := w.lost[k]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", k, n))
		}
	}
	return strings.Join(parts, ", ")
}

func counts(m map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if len(m) == 1 {
			return k
		}
		parts = append(parts, fmt.Sprintf("%s %d×", k, m[k]))
	}
	return strings.Join(parts, ", ")
}

func balancerSection(t *text, rows []*row) {
	if !slices.ContainsFunc(rows, func(w *row) bool {
		return w.balancer != headline.String() && (w.server == requests.name || w.server == channels.name)
	}) {
		return
	}
	t.say("\n## Every balancer\n\nThe Go server that dies on SIGTERM, with neither gRPC nor WebSockets, which `closed` is for. **HAProxy, checks only** knows nothing but what its checks tell: " +
		"there a sleep before the signal is for nothing, since the server goes on saying that it is well. **nginx** keeps a pool of 32 connections, and its configuration is " +
		"written again and reloaded. **follows after** gives each connection to the next replica, as kube-proxy does, and takes a replica out so long after its stop began; " +
		"kept connections stay with their replica. gRPC clients balance themselves, and are told so long after.")
	cells := []string{"balancer"}
	tried := []string{"tini", "sleep 5", "sleep 15", "sleep 25", "drainit quiet", "drainit idle"}
	for _, w := range tried {
		cells = append(cells, w+": lost", "stop, s")
	}
	t.table(cells...)
	line := func(server string, p plan) {
		cells := []string{p.String()}
		if server == channels.name {
			cells = []string{"gRPC clients, told after " + p.delay.String()}
		}
		for _, w := range tried {
			if x := find(rows, server, w, p.String()); x != nil {
				cells = append(cells, fmt.Sprintf("%s of %d", bold(total(x.lost)), total(x.sent)), spread(x.stops))
			} else {
				cells = append(cells, "", "")
			}
		}
		t.row(cells...)
	}
	for _, p := range balancers {
		line(requests.name, p)
	}
	line(channels.name, plan{"follow", headline.delay})
}

// initSection compares the inits themselves.
func initSection(t *text, rows []*row) {
	t.say("\n## The inits themselves\n\nBefore each stop three processes are left behind by their parents in the container. " +
		"Zombies are those that were still there, dead, 0.2 s later; memory is the init's resident set.")
	t.table("way", "zombies", "memory, MB")
	for _, w := range ways {
		i := slices.IndexFunc(rows, func(x *row) bool { return x.way == w.name })
		if i >= 0 {
			x := rows[i]
			memory := "the server's own"
			if len(x.rss) > 0 {
				memory = fmt.Sprintf("%.1f", quantile(x.rss, 0.5))
			}
			t.row(w.name, fmt.Sprintf("%d", x.zombies), memory)
		}
	}
}

func environmentSection(t *text, r *results) {
	var e environment
	t.say("\n## Where\n")
	for _, e = range r.envs {
		t.say("%s at commit %s, `%s`, %s, %d CPUs of %s, %s, %d cells at a time.\n", e.Date, e.Commit, e.Command, e.Took, e.CPUs, e.Model, e.Kernel, e.Parallel)
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(e.Versions)) {
		parts = append(parts, k+" "+e.Versions[k])
	}
	t.say("%s.", strings.Join(parts, ", "))
	sent, lost := r.before()
	t.say("\nIn the seconds before the first restart of each cell %d of %d requests were lost: what the machine, the servers and the balancers lose by themselves.", lost, sent)
	if len(r.errors) > 0 {
		t.say("\nCells that did not run to their end:\n")
		for _, e := range r.errors {
			what, _, _ := strings.Cut(e, "\n")
			what, _, _ = strings.Cut(what, " level=") // the server's log is in the raw results
			t.say("- %.160s", what)
		}
	}
}
