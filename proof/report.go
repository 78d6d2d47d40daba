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
	t.say("Servers are restarted under traffic, each in several ways, and every request that a client loses is counted: %s restarts of %d servers, %s requests. %s\n\n"+
		"`make proof` measures all this and writes this page, its pictures and [the raw results](%s/results.jsonl), one line for each restart. It runs on any Debian machine with Docker. "+
		"[The same in Kubernetes](proof-kubernetes.md) is a page of its own.", thousands(restartsOf(rows)), len(serversOf(rows)), thousands(requestsOf(rows)), inShort(rows), dir)
	howMeasured(t)
	for _, s := range r.headlines() {
		headlineSection(t, r, rows, s, dir)
	}
	t.say("\n## What it costs\n\nEach dot is a way to stop one of the servers above. Further right is slower, further up loses more; the best place is the lower left corner.")
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
loop). None is ever sent again, neither by the clients nor by the balancers. The replicas are restarted one after
the other. One starts again once its balancer has heard of its stop: as with a pod, whose address is not used again, nothing
answers there until then. A request is lost if it is

- **refused**: no connection came to be,
- **reset**: its connection ended before an answer began,
- **cut**: the answer, stream or session ended before it was complete,
- **timed out**: not answered 10 s after it should have been,
- **5xx**: answered by an error, as a rule the balancer's, in place of the server.

The kinds, which the tables below call by these names:`)
	t.table("kind", "what", "how many a second")
	for _, k := range kinds {
		rate := "about 1 per worker"
		if k.rate > 0 {
			rate = fmt.Sprint(k.rate)
		}
		t.row(k.name, k.about, rate)
	}
	t.say(`
The ways of stopping a server:

- **none**: the server itself is PID 1, without an init.
- **tini**, **dumb-init**, **catatonit**: inits that pass the signal on at once.
- **sleep 5**, **sleep 15**, **sleep 25**: tini, and so many seconds of waiting before the signal, as with ` + "`preStop: sleep`" + `.
- **drainit window**, **quiet**, **idle**, **closed**: drainit with that value of [DRAINIT_DRAIN_UNTIL](drain-until.md). What
  else it is told is said with the results.

Each stop has a budget of 30 s, as Kubernetes gives by default; then comes SIGKILL. Behind balancers that may be late
**drainit idle, 60 s** has 60 s as well: [a larger budget](drain-until.md#how-it-knows) waits longer where there is doubt.

Unless a table says otherwise the balancer is HAProxy as an ingress controller runs it. It checks health every second and
keeps a pool of connections. 2 s after a stop began it is told, over its admin socket, to send that replica nothing new.
Servers keep idle connections for longer than the balancer does, as its manual asks: otherwise requests are lost without
any restart.

"At most" is the upper end of a 95 %% confidence interval for the losses of one restart: 3/n where none of n restarts
lost anything (the rule of three). Times are medians; the 5th and the 95th percentile are in brackets.`)
}

// inShort sums up the table of all servers.
func inShort(rows []*row) string {
	of := make(map[string]int) // servers that lost something, by way
	n := 0
	for _, s := range servers {
		ours := find(rows, s.name, "drainit "+s.until, "")
		if ours == nil {
			continue
		}
		before, after := find(rows, s.name, "tini", ours.balancer), find(rows, s.name, "sleep 5", ours.balancer)
		if before == nil || after == nil {
			continue
		}
		n++
		for way, w := range map[string]*row{"tini": before, "sleep 5": after, "drainit": ours} {
			if total(w.lost) > 0 {
				of[way]++
			}
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("Of %d servers %d lost requests under tini, %d with a sleep of 5 s before the signal, and %d under drainit with the settings that are recommended for them.",
		n, of["tini"], of["sleep 5"], of["drainit"])
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
	t.say("It is sent these kinds of requests: %s. The picture has the first rolling restart of each way: how many requests ended in each 100 ms, those that were lost in red. "+
		"A triangle is where the stop of a replica began.", strings.Join(s.kinds, ", "))
	t.picture(dir+"/"+strings.TrimSuffix(pictureName("strips", s, theme{}), "-.svg"), "requests over a rolling restart, one strip for each way")
	t.say("\nA column named after a kind counts the lost requests of that kind.")
	head := append([]string{"way", "restarts", "requests", "lost", "per restart", "at most"}, s.kinds...)
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
	t.say("\nHow they were lost: %s.", howLost(rows, s.name))
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
	t.say("\n## Every server\n\nEach server gets the stop signal that its users set. It runs under tini, without and with a sleep of 5 s before the signal, and under drainit with the settings that are " +
		"recommended for it. Why drainit forwarded the signal is in its own words: the value if what that waits for came about, `forward_by` if the time for it had run out, " +
		"`no listener` if the server listens on no port and so has no clients to wait for.")
	t.table("server", "signal", "what the server does then", "tini: lost per restart", "stop, s", "sleep 5: lost per restart", "stop, s", "drainit", "lost in all restarts", "at most per restart", "of requests", "stop, s", "why forwarded")
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
			remains = append(remains, fmt.Sprintf("- %s: %s (%s). %s", s.name, hows(best), kindsOf(best), s.remains))
		}
	}
	if missing != nil {
		t.say("\nNot measured in this run: %s.", strings.Join(missing, "; "))
	}
	if line := sleptAsWell(rows); line != "" {
		t.say("\n%s", line)
	}
	if remains != nil {
		t.say("\nWhat drainit lost:\n\n%s", strings.Join(remains, "\n"))
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
	t.say("\n## Every balancer\n\nThe Go server that dies on SIGTERM again, behind balancers that learn of a stop in other ways and later. It is sent neither gRPC nor WebSockets.\n\n" +
		"- **HAProxy, checks only** is told nothing and sees what its health checks see. A sleep before the signal does not help there: the server goes on saying that it is well until it is gone.\n" +
		"- **nginx** keeps a pool of 32 connections. Its configuration is written anew, without the replica, and reloaded.\n" +
		"- **follows after** gives each new connection to the next replica, as kube-proxy does, and leaves a replica out from so long after its stop began. Connections that exist stay with their replica.\n" +
		"- **gRPC clients** balance themselves: they are told the addresses that are left.")
	cells := []string{"balancer"}
	tried := []string{"tini", "sleep 5", "sleep 15", "sleep 25", "drainit quiet", "drainit idle", "drainit idle, 60 s"}
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
	t.say("\n## The inits themselves\n\nBefore each stop three processes in the container are left behind by their parents, and end 0.1 s later. " +
		"Zombies are how many of them the init had not reaped another 0.2 s later, at worst. Memory is the init's resident set, as a median.")
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
		t.say("%s at commit %s, `%s`, %s, %d CPUs of %s, %s. At most %d servers at a time, each with its balancer and clients.\n", e.Date, e.Commit, e.Command, e.Took, e.CPUs, e.Model, e.Kernel, e.Parallel)
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(e.Versions)) {
		parts = append(parts, k+" "+e.Versions[k])
	}
	t.say("%s.", strings.Join(parts, ", "))
	sent, lost := r.before()
	t.say("\nBefore the first restart of each server %d of %d requests were lost: what the machine, the servers and the balancers lose by themselves.", lost, sent)
	if len(r.errors) > 0 {
		t.say("\nNot all restarts were made of these (server, way, balancer):\n")
		for _, e := range r.errors {
			what, _, _ := strings.Cut(e, "\n")
			what, _, _ = strings.Cut(what, " level=") // the server's log is in the raw results
			t.say("- %.160s", what)
		}
	}
}
