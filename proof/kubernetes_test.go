package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// TestManifests: every trial's manifest is YAML, and says how the server is
// stopped.
func TestManifests(t *testing.T) {
	for _, x := range trials(1) {
		docs := strings.Split(x.manifest("image"), "\n---\n")
		var d struct {
			Spec struct {
				Template struct {
					Spec struct {
						InitContainers []struct{ Name string } `yaml:"initContainers"`
						Containers     []struct {
							Name    string
							Command []string
							Env     []struct{ Name, Value string }
						}
					}
				}
			}
		}
		for i, doc := range docs {
			if err := yaml.Unmarshal([]byte(doc), map[bool]any{true: &d, false: new(any)}[i == 0]); err != nil {
				t.Fatalf("%s, %s: %v\n%s", x.name, x.way, err, doc)
			}
		}
		pod := d.Spec.Template.Spec
		if got, want := len(pod.Containers)+len(pod.InitContainers), 1+min(len(x.sidecar), 1); got != want {
			t.Errorf("%s, %s: %d containers, want %d", x.name, x.way, got, want)
		}
		grace := false
		for _, e := range pod.Containers[0].Env {
			grace = grace || e.Name == "DRAINIT_GRACE_PERIOD" && e.Value == strconv.Itoa(x.grace)
		}
		if grace != x.drains() || x.drains() != (pod.Containers[0].Command[0] == "/drainit") {
			t.Errorf("%s, %s: command %q, grace period %v", x.name, x.way, pod.Containers[0].Command, grace)
		}
	}
}

func TestKeepAliveRace(t *testing.T) {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	stops := []stop{{At: at}}
	for _, c := range []struct {
		name string
		l    loss
		want bool
	}{
		{"sent just after the signal", loss{Kind: "kept", How: reset, Used: 9, At: at.Add(30 * time.Millisecond), After: 0.01}, true},
		{"sent just before it", loss{Kind: "kept", How: reset, Used: 9, At: at.Add(30 * time.Millisecond), After: 0.1}, true},
		{"sent long before it", loss{Kind: "kept", How: reset, Used: 9, At: at.Add(30 * time.Millisecond), After: 0.5}, false},
		{"the first of its connection", loss{Kind: "kept", How: reset, At: at}, false},
		{"on a connection of its own", loss{Kind: "slow", How: reset, At: at}, false},
		{"long after the signal", loss{Kind: "kept", How: reset, Used: 9, At: at.Add(time.Minute)}, false},
		{"cut", loss{Kind: "kept", How: cut, Used: 9, At: at}, false},
	} {
		if got := c.l.race(stops); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if (loss{Kind: "kept", How: reset, Used: 9, At: at}).race([]stop{{}}) {
		t.Error("a stop without a forwarding is no race")
	}
}

func TestForwardedAt(t *testing.T) {
	log := "time=2026-01-01T00:00:01.000Z level=INFO msg=\"drainit: stop signal received\"\n" +
		"time=2026-01-01T00:00:07.250Z level=INFO msg=\"drainit: stop signal forwarded\" why=idle\n"
	if got := forwardedAt(log); !got.Equal(time.Date(2026, 1, 1, 0, 0, 7, 250e6, time.UTC)) {
		t.Error(got)
	}
	if got := forwardedAt("Killed\n"); !got.IsZero() {
		t.Error(got)
	}
}

// TestStops: a stop lasts from the deletion to the end of the container, and
// has its exit code, whether that is seen or only that the pod is gone.
func TestStops(t *testing.T) {
	s := &stops{pods: make(map[string]pod)}
	for _, name := range []string{"a", "b"} {
		s.update(pod{name: name, ready: true}, false)
	}
	if !s.settled(2) || s.settled(3) {
		t.Error("two pods are ready")
	}
	if s.update(pod{name: "a", ready: true, deleted: true}, false) == nil || s.update(pod{name: "a", deleted: true}, false) != nil {
		t.Error("a stop begins once")
	}
	if s.settled(2) {
		t.Error("settled while one is being deleted")
	}
	s.update(pod{name: "a", deleted: true, ended: true, code: 143}, false)
	s.update(pod{name: "a", deleted: true, ended: true, code: 143}, true)
	got := s.take()
	if len(got) != 1 || got[0].Pod != "a" || got[0].Code != 143 || got[0].Took <= 0 {
		t.Errorf("%+v", got)
	}
	if !s.settled(1) || len(s.take()) != 0 {
		t.Error("not over")
	}
}

// TestClusterReport: a later run of a trial replaces an earlier one, also one
// that failed, and what was lost before the first round is told.
func TestClusterReport(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "proof")
	x := trials(1)[0]
	round := func(i, lost int) clusterLine {
		r := &clusterRecord{Trial: x.name, Server: x.server, Way: x.way, Round: i, Took: 9, Stops: []stop{{Took: 2, Code: 143}}, traffic: traffic{Sent: map[string]int{"fresh": 100}}}
		if lost > 0 {
			r.Failed = map[string]map[failure]int{"fresh": {refused: lost}}
		}
		return clusterLine{Round: r}
	}
	for _, run := range [][]clusterLine{
		{round(-1, 0), round(0, 7), {Error: x.name + ", " + x.way + ": too late"}},
		{round(-1, 0), round(0, 3), round(1, 0)},
	} {
		if err := writeClusterResults(dir, true, environment{Versions: map[string]string{"nodes": "1"}}, run); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeClusterReport(dir); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "proof-kubernetes.md"))
	if err != nil {
		t.Fatal(err)
	}
	for want, there := range map[string]bool{
		"| " + x.way + " | 2 | 200 | 3 |": true, "3 refused": true, "| 143 |": true, "0 of 100 requests were lost": true, "too late": false,
	} {
		if strings.Contains(string(page), want) != there {
			t.Errorf("%q in the page: %v\n%s", want, !there, page)
		}
	}
}
