package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// podObject is what is read of a pod.
type podObject struct {
	Metadata struct {
		Name              string
		DeletionTimestamp *string
	}
	Status struct {
		Conditions        []struct{ Type, Status string }
		ContainerStatuses []containerStatus
	}
}

type containerStatus struct {
	Name         string
	RestartCount int
	State        struct{ Terminated *struct{ ExitCode int } }
}

// pod is the state of one pod.
type pod struct {
	name     string
	deleted  bool
	ready    bool
	ended    bool // the server's container has
	code     int
	restarts int
}

func (o podObject) pod() pod {
	p := pod{name: o.Metadata.Name, deleted: o.Metadata.DeletionTimestamp != nil}
	for _, c := range o.Status.Conditions {
		p.ready = p.ready || c.Type == "Ready" && c.Status == "True"
	}
	for _, s := range o.Status.ContainerStatuses {
		if s.Name != "app" {
			continue
		}
		p.restarts = s.RestartCount
		if s.State.Terminated != nil {
			p.ended, p.code = true, s.State.Terminated.ExitCode
		}
	}
	return p
}

// get asks the API server about something in the namespace.
func (c *cluster) get(ctx context.Context, path string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", c.api+"/api/v1/namespaces/"+c.namespace+path, nil)
	if err != nil {
		return nil, err
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK {
		a.Body.Close()
		return nil, fmt.Errorf("%s: %s", path, a.Status)
	}
	return a.Body, nil
}

const podsPath = "/pods?labelSelector=app%3Dapp"

// pods lists the server's pods.
func (c *cluster) pods(ctx context.Context) (all []pod, err error) {
	body, err := c.get(ctx, podsPath)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var list struct{ Items []podObject }
	err = json.NewDecoder(body).Decode(&list)
	for _, o := range list.Items {
		all = append(all, o.pod())
	}
	return all, err
}

// stop is one pod's.
type stop struct {
	Pod       string    `json:"pod"`
	Began     time.Time `json:"began"`  // it was deleted
	Took      float64   `json:"took_s"` // until its container had ended
	Code      int       `json:"code"`
	Why       string    `json:"why,omitempty"`         // drainit's word for the forwarding
	Forwarded float64   `json:"forwarded_s,omitempty"` // after t0
	At        time.Time `json:"forwarded_at,omitzero"`
	Log       string    `json:"log,omitempty"` // drainit's line about it
}

// stops watches pods from their deletion to the end of their container.
type stops struct {
	mu   sync.Mutex
	pods map[string]pod
	all  []*stop
	logs sync.WaitGroup
}

func (s *stops) watch(ctx context.Context, c *cluster) {
	for ctx.Err() == nil {
		s.follow(ctx, c)
		pause(ctx, 200*time.Millisecond)
	}
}

// follow takes events as they come, the first of which are all that there is.
func (s *stops) follow(ctx context.Context, c *cluster) error {
	body, err := c.get(ctx, podsPath+"&watch=true")
	if err != nil {
		return err
	}
	defer body.Close()
	s.mu.Lock()
	s.pods = make(map[string]pod)
	s.mu.Unlock()
	for events := json.NewDecoder(body); ; {
		var e struct {
			Type   string
			Object podObject
		}
		if err := events.Decode(&e); err != nil {
			return err
		}
		if begun := s.update(e.Object.pod(), e.Type == "DELETED"); begun != nil {
			s.logs.Go(func() { s.read(ctx, c, begun) })
		}
	}
}

// update returns the stop that has begun with p's new state, or nil.
func (s *stops) update(p pod, gone bool) (begun *stop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods[p.name] = p; gone {
		delete(s.pods, p.name)
	}
	x := s.of(p.name)
	if x == nil && p.deleted {
		x = &stop{Pod: p.name, Began: time.Now().UTC()}
		s.all, begun = append(s.all, x), x
	}
	if x != nil && x.Took == 0 && (p.ended || gone) {
		x.Took, x.Code = time.Since(x.Began).Seconds(), p.code
	}
	return begun
}

func (s *stops) of(pod string) *stop {
	for _, x := range s.all {
		if x.Pod == pod {
			return x
		}
	}
	return nil
}

// read follows the log of a pod that stops, for what drainit says about it.
func (s *stops) read(ctx context.Context, c *cluster, x *stop) {
	body, err := c.get(ctx, "/pods/"+x.Pod+"/log?container=app&follow=true")
	if err != nil {
		return
	}
	defer body.Close()
	log, _ := io.ReadAll(body)
	why, after := forwarding(string(log))
	s.mu.Lock()
	defer s.mu.Unlock()
	x.Why, x.Forwarded, x.At, x.Log = why, after, forwardedAt(string(log)), forwardedLine.FindString(string(log))
}

// forwardedAt returns when drainit forwarded the signal, by its own log.
func forwardedAt(log string) time.Time {
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "stop signal forwarded") {
			continue
		}
		_, rest, _ := strings.Cut(line, "time=")
		at, _, _ := strings.Cut(rest, " ")
		t, _ := time.Parse(time.RFC3339Nano, at)
		return t.UTC()
	}
	return time.Time{}
}

// settled reports whether n pods are ready and there are no others.
func (s *stops) settled(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pods {
		if p.deleted || !p.ready {
			return false
		}
	}
	return len(s.pods) == n
}

// take returns the stops since the last call.
func (s *stops) take() (all []stop) {
	s.logs.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.all {
		all = append(all, *x)
	}
	s.all = nil
	return all
}
