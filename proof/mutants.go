package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// mutant is a drainit that is broken on purpose: old is replaced by new in one
// file of the repository, and the cell has to show it.
type mutant struct {
	name, file, old, new string
	plan                 plan
	until                string
}

var mutants = []mutant{
	{"forwards at once", "supervisor/stop.go", "\tl.transition(stopAsked)\n", "\tl.transition(stopAsked)\n\tl.forward(\"mutant\")\n", headline, "idle"},
	{"ready while it drains", "supervisor/readiness.go", "a.Ready = l.stop.stillReady", "a.Ready = true", plan{name: "haproxy-checks"}, "idle"},
	{"drops one signal", "supervisor/signals.go", "\tagain := l.stop.received != 0\n", "\tagain := l.stop.received != 0\n\tif l.count(sig).Seen == 1 {\n\t\treturn\n\t}\n", plan{name: "haproxy-checks"}, "idle"},
	{"idle that never waits", "sockets/verdict.go", "v.Met = quiet && w.judge.idle(now)", "v.Met = true", plan{"follow", 8 * time.Second}, "idle"},
}

// mutants shows that the rig counts: each broken drainit has to lose something,
// and in the same places the one in the repository nothing. There are no WebSockets,
// which idle does not wait for.
func (m measurement) mutants(ctx context.Context, only string) error {
	dir, err := os.MkdirTemp("", "drainit-mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var undetected []string
	for _, x := range mutants {
		if !matches(only, x.name) {
			continue
		}
		binary := filepath.Join(dir, "drainit")
		if err := x.build(ctx, dir, binary); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
		broken, err := x.measure(ctx, binary)
		if err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
		whole, err := x.measure(ctx, "")
		if err != nil {
			return err
		}
		fmt.Printf("%-24s %s; the whole one %s\n", x.name, shown(broken), shown(whole))
		if broken.harm() == 0 || whole.harm() > 0 {
			undetected = append(undetected, x.name)
		}
	}
	if undetected != nil {
		return errors.New("the rig does not tell these from a drainit that works: " + strings.Join(undetected, ", "))
	}
	return nil
}

func shown(w *row) string {
	s := fmt.Sprintf("%d of %d lost (%s)", total(w.lost), total(w.sent), hows(w))
	if w.killed > 0 {
		s += fmt.Sprintf(", %d of %d killed", w.killed, w.n)
	}
	return strings.Replace(s, " ()", "", 1)
}

// harm counts what a stop must not do: lose requests, or end by SIGKILL.
func (w *row) harm() int { return total(w.lost) + w.killed }

// build compiles the mutant through an overlay, which leaves the source alone.
func (x mutant) build(ctx context.Context, dir, out string) error {
	path, err := filepath.Abs(filepath.Join("..", x.file))
	if err != nil {
		return err
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if strings.Count(string(source), x.old) != 1 {
		return fmt.Errorf("%s has not got %q once: the mutant has to follow the source", x.file, x.old)
	}
	broken, overlay := filepath.Join(dir, "broken.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(broken, []byte(strings.Replace(string(source), x.old, x.new, 1)), 0o644); err != nil {
		return err
	}
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{path: broken}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(overlay, list, 0o644); err != nil {
		return err
	}
	return build(ctx, "a mutant", out, "..", "-overlay", overlay)
}

func (x mutant) measure(ctx context.Context, drainit string) (*row, error) {
	e, clean, err := prepare(ctx, drainit)
	if err != nil {
		return nil, err
	}
	defer clean()
	c := cell{server: requests, way: wayNamed("drainit " + x.until), plan: x.plan, restarts: 2, limit: 3 * time.Minute}
	r := runAll(ctx, e, []cell{c}, 1, nil)
	if len(r.errors) > 0 {
		return nil, errors.New(r.errors[0])
	}
	return r.rows()[0], nil
}
