package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// environment says where a run was made.
type environment struct {
	Commit   string            `json:"commit"`
	Date     string            `json:"date"`
	Took     string            `json:"took,omitempty"`
	Command  string            `json:"command"`
	Kernel   string            `json:"kernel"`
	CPUs     int               `json:"cpus"`
	Model    string            `json:"cpu"`
	Parallel int               `json:"parallel,omitempty"`
	Versions map[string]string `json:"versions"`
}

// line is one of the raw results: it has one of these.
type line struct {
	Environment *environment `json:"environment,omitempty"`
	Restart     *record      `json:"restart,omitempty"`
	Strip       *strip       `json:"strip,omitempty"`
	Error       string       `json:"error,omitempty"`
}

// results are all that a run has measured.
type results struct {
	envs     []environment // one for each run
	restarts []record
	strips   []strip
	errors   []string
}

// journal writes lines as they come.
type journal struct {
	mu sync.Mutex
	f  *os.File
}

func newJournal(path string, keep bool) (*journal, error) {
	f, err := openResults(path, keep)
	return &journal{f: f}, err
}

// openResults opens raw results for writing, and begins them anew unless keep is
// set.
func openResults(path string, keep bool) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	how := os.O_TRUNC
	if keep {
		how = os.O_APPEND
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|how, 0o644)
}

func (j *journal) write(l line) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b, err := json.Marshal(l)
	if err != nil {
		panic(err) // not with these types
	}
	j.f.Write(append(b, '\n'))
}

func readResults(path string) (*results, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := new(results)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		switch {
		case l.Environment != nil:
			r.envs = append(r.envs, *l.Environment)
		case l.Restart != nil:
			r.restarts = append(r.restarts, *l.Restart)
		case l.Strip != nil:
			r.strips = append(r.strips, *l.Strip)
		case l.Error != "":
			r.errors = append(r.errors, l.Error)
		}
	}
	return r, lines.Err()
}

// where describes this machine.
func where(command string, parallel int) environment {
	e := environment{Date: time.Now().UTC().Format("2006-01-02 15:04 MST"), Command: command, CPUs: runtime.NumCPU(), Parallel: parallel, Versions: make(map[string]string)}
	e.Commit = output("git", "rev-parse", "--short=12", "HEAD")
	e.Kernel = output("uname", "-sr")
	info, _ := os.ReadFile("/proc/cpuinfo")
	if _, rest, ok := strings.Cut(string(info), "model name"); ok {
		e.Model, _, _ = strings.Cut(strings.TrimLeft(rest, "\t :"), "\n")
	}
	for _, p := range []string{"tini", "dumb-init", "catatonit", "haproxy", "nginx", "nginx-light", "apache2", "php8.2-fpm", "puma", "redis-server",
		"postgresql-15", "gunicorn", "python3-fastapi", "python3-uvicorn", "python3-hypercorn", "openjdk-17-jdk-headless", "libtomcat10-embed-java"} {
		if v := output("dpkg-query", "-W", "-f", "${Version}", p); v != "" {
			e.Versions[p] = v
		}
	}
	e.Versions["node"] = output("node", "--version")
	e.Versions["go"] = runtime.Version()
	e.Versions["docker"] = output("docker", "version", "--format", "{{.Server.Version}}")
	return e
}

func output(argv ...string) string {
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// row is what the restarts of one cell come to.
type row struct {
	server, way, balancer, until string
	n                            int
	sent, lost                   map[string]int // by kind
	how                          map[failure]int
	stops                        []float64
	starts                       []float64
	acted                        []float64 // in Kubernetes, what the command took
	codes                        map[int]int
	killed, zombies              int
	whys                         map[string]int
	rss                          []float64 // MB
}

// rows groups restarts, in the order in which their cells first appear.
func (r *results) rows() (rows []*row) {
	for _, x := range r.restarts {
		if x.Stop == 0 {
			continue // interrupted, or before the first
		}
		i := slices.IndexFunc(rows, func(w *row) bool { return w.server == x.Server && w.way == x.Way && w.balancer == x.Balancer })
		if i < 0 {
			i = len(rows)
			rows = append(rows, &row{server: x.Server, way: x.Way, balancer: x.Balancer, until: x.Until, sent: make(map[string]int),
				lost: make(map[string]int), how: make(map[failure]int), codes: make(map[int]int), whys: make(map[string]int)})
		}
		rows[i].add(x)
	}
	return rows
}

// before counts what ended before the first restart of each cell.
func (r *results) before() (sent, lost int) {
	for _, x := range r.restarts {
		if x.Restart < 0 {
			sent, lost = sent+x.sent(), lost+x.lost()
		}
	}
	return sent, lost
}

// count adds requests to the row.
func (w *row) count(sent map[string]int, failed map[string]map[failure]int) {
	for k, n := range sent {
		w.sent[k] += n
	}
	for k, hows := range failed {
		for how, n := range hows {
			w.lost[k] += n
			w.how[how] += n
		}
	}
}

func (w *row) add(x record) {
	w.n++
	w.count(x.Sent, x.Failed)
	w.stops, w.starts = append(w.stops, x.Stop), append(w.starts, x.Start)
	w.codes[x.Code]++
	if x.Killed {
		w.killed++
	}
	w.zombies = max(w.zombies, x.Zombies)
	if x.Why != "" {
		w.whys[x.Why]++
	}
	if x.InitRSS > 0 {
		w.rss = append(w.rss, float64(x.InitRSS)/1000)
	}
}

func total(m map[string]int) (n int) {
	for _, k := range m {
		n += k
	}
	return n
}

func (w *row) perRestart() float64 { return float64(total(w.lost)) / float64(w.n) }

// atMost is the upper end of a 95 % confidence interval for the losses of one
// restart, if losses come by themselves: 3/n where there were none (the rule of
// three), otherwise by the usual approximation of Poisson's distribution.
func (w *row) atMost() float64 {
	k := float64(total(w.lost))
	if k == 0 {
		return 3 / float64(w.n)
	}
	// Wilson and Hilferty's approximation of the chi-squared quantile.
	x := k + 1
	upper := x * math.Pow(1-1/(9*x)+1.96/(3*math.Sqrt(x)), 3)
	return upper / float64(w.n)
}

// quantile returns the q-th quantile of values, which it sorts.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	at := q * float64(len(values)-1)
	low := int(at)
	high := min(low+1, len(values)-1)
	return values[low] + (values[high]-values[low])*(at-float64(low))
}
