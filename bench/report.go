package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is what was measured, as cost.json has it.
type report struct {
	When    string `json:"when"`
	Machine string `json:"machine"`
	Command string `json:"command"`
	Rows    []row  `json:"rows"`
}

// row is one measured quantity. Values are all there are, by init.
type row struct {
	Name   string               `json:"name"`
	Unit   string               `json:"unit,omitempty"`
	What   string               `json:"what,omitempty"`
	Values map[string][]float64 `json:"values"`
}

// columns are the inits in the table's order; what else was measured follows.
var columns = []string{"tini", "dumb-init", "catatonit", "drainit"}

func (r *report) add(name, unit, what string, values map[string][]float64) {
	r.Rows = append(r.Rows, row{name, unit, what, values})
	last := r.Rows[len(r.Rows)-1]
	fmt.Fprintf(os.Stderr, "%-36s", name)
	for _, c := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(os.Stderr, "  %s %s", c, figure(median(values[c])))
	}
	fmt.Fprintln(os.Stderr, "", last.Unit)
}

// merge adds values to the row of that name, if there is one.
func (r *report) merge(name, unit, what string, values map[string][]float64) {
	i := slices.IndexFunc(r.Rows, func(w row) bool { return w.Name == name })
	if i < 0 {
		r.add(name, unit, what, values)
		return
	}
	maps.Copy(r.Rows[i].Values, values)
}

// describe says where and how it was measured.
func (r *report) describe() {
	var u unix.Utsname
	unix.Uname(&u)
	r.When = time.Now().UTC().Format(time.DateOnly)
	r.Command = "make bench"
	r.Machine = fmt.Sprintf("%d CPUs (%s), Linux %s, %s", runtime.NumCPU(), cpuModel(), unix.ByteSliceToString(u.Release[:]), runtime.Version())
	for _, name := range columns[:3] {
		if out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", name).Output(); err == nil {
			r.Machine += fmt.Sprintf(", %s %s", name, out)
		}
	}
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	if m := regexp.MustCompile(`(?m)^model name\s*:\s*(.+)$`).FindSubmatch(b); m != nil {
		return string(m[1])
	}
	return runtime.GOARCH
}

// names lists the table's columns: the inits, and others that were measured.
func (r *report) names() []string {
	all := slices.Clone(columns)
	for _, w := range r.Rows {
		for name := range w.Values {
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	slices.Sort(all[len(columns):])
	return all
}

// table is the Markdown of all rows: medians, and drainit's ratio to tini.
func (r *report) table() string {
	names := r.names()
	var b strings.Builder
	fmt.Fprintf(&b, "| | %s | drainit ÷ tini |\n|---%s|\n", strings.Join(names, " | "), strings.Repeat("|---:", len(names)+1))
	for _, w := range r.Rows {
		title := w.Name
		if w.Unit != "" {
			title += ", " + w.Unit
		}
		if w.What != "" {
			title += "<br><sub>" + w.What + "</sub>"
		}
		fmt.Fprintf(&b, "| %s", title)
		for _, name := range names {
			if len(w.Values[name]) == 0 {
				b.WriteString(" | –")
				continue
			}
			fmt.Fprintf(&b, " | %s", figure(median(w.Values[name])))
		}
		ratio := "–"
		if t := median(w.Values["tini"]); t > 0 && len(w.Values["drainit"]) > 0 {
			ratio = figure(median(w.Values["drainit"]) / t)
		}
		fmt.Fprintf(&b, " | %s |\n", ratio)
	}
	return b.String()
}

// figure writes a number with as many digits as mean something.
func figure(v float64) string {
	switch a := math.Abs(v); {
	case v == math.Trunc(v) && a < 1e5, a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

const begin, end = "<!-- make bench: -->\n", "<!-- :make bench -->"

// write puts the table into cost.md of dir, between its marks, and the picture
// and the raw figures beside it. An empty dir prints the table.
func (r *report) write(dir string) error {
	if dir == "" {
		fmt.Print(r.table())
		return nil
	}
	figures := filepath.Join(dir, "cost.json")
	if err := r.keep(figures); err != nil {
		return err
	}
	path := filepath.Join(dir, "cost.md")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for the table: %q … %q", path, begin, end)
	}
	head := fmt.Sprintf("`%s`, %s: %s.\n\n", r.Command, r.When, r.Machine)
	if err := os.WriteFile(path, []byte(before+begin+head+r.table()+end+after), 0o644); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(figures, append(compact(raw), '\n'), 0o644); err != nil {
		return err
	}
	for name, p := range map[string]palette{"cost-light.svg": light, "cost-dark.svg": dark} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(r.picture(p)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// keep takes over the rows of an earlier run that this one has not measured,
// for runs of some rows alone (-only).
func (r *report) keep(file string) error {
	raw, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var old report
	if err == nil {
		err = json.Unmarshal(raw, &old)
	}
	if err != nil {
		return err
	}
	for _, w := range r.Rows {
		if i := slices.IndexFunc(old.Rows, func(o row) bool { return o.Name == w.Name }); i >= 0 {
			old.Rows[i] = w
		} else {
			old.Rows = append(old.Rows, w)
		}
	}
	r.Rows = old.Rows
	return nil
}

// compact puts each list of numbers on one line.
func compact(raw []byte) []byte {
	lists := regexp.MustCompile(`\[[-\d.,\s]+\]`)
	return lists.ReplaceAllFunc(raw, func(list []byte) []byte {
		return []byte(strings.Join(strings.Fields(string(list)), ""))
	})
}
