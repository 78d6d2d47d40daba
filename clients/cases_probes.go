package main

import (
	"context"
	"io"
	"net"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

// Probers of the server's own port, and clients that look like them.

var probeCases = []scenario{
	prober("3 like ALB's, each 15 s", func(w *world) {
		for i := range 3 {
			w.proberAt(time.Duration(i)*5*time.Second, balancerIP(20+i), 15*time.Second, 20*time.Millisecond, w.probeHTTP)
		}
	}),
	prober("3 like NLB's, each 10 s", func(w *world) {
		for i := range 3 {
			w.proberAt(time.Duration(i)*3300*time.Millisecond, balancerIP(20+i), 10*time.Second, 20*time.Millisecond, w.probeTCP)
		}
	}),
	prober("5 like GCP's, each 5 s ± 0.3 s", func(w *world) {
		for i := range 5 {
			w.proberAt(time.Duration(i)*time.Second, balancerIP(20+i), 5*time.Second, 300*time.Millisecond, w.probeHTTP)
		}
	}),
	prober("a kubelet, each 1 s ± 0.1 s", func(w *world) {
		w.prober(nodeIP, time.Second, 100*time.Millisecond, w.probeHTTP)
	}),
	prober("Docker's health check, each 5 s ± 60 ms", func(w *world) {
		w.prober("", 5*time.Second, 60*time.Millisecond, w.probeInside)
	}),
	{
		name: "probers: a kubelet's gRPC probe, each 10 s",
		kind: late, server: goServer("grpc"), warm: 32 * time.Second,
		traffic: func(w *world) { w.prober(nodeIP, 10*time.Second, 100*time.Millisecond, w.probeGRPC) },
		rows:    by(soon, "quiet", "idle"),
	},
	prober("a kubelet's and ALB's at once", func(w *world) {
		w.prober(nodeIP, time.Second, 100*time.Millisecond, w.probeHTTP)
		w.prober(nodeIP, 10*time.Second, 100*time.Millisecond, w.probeHTTP)
		for i := range 3 {
			w.proberAt(time.Duration(i)*5*time.Second, balancerIP(20+i), 15*time.Second, 20*time.Millisecond, w.probeHTTP)
		}
	}),
	prober("the container's own chatter", func(w *world) { w.chatter(3) }),
	poller(time.Second, 12*time.Second, ""), poller(2*time.Second, 12*time.Second, ""), poller(5*time.Second, 12*time.Second, ""),
	poller(time.Second, 40*time.Second, slowerThanPatience), poller(2*time.Second, 30*time.Second, slowerThanPatience),
	poller(5*time.Second, 40*time.Second, slowerThanPatience),
	{
		name: "bursts of 100 each 7 s, moved after 20 s",
		kind: early, server: plain, warm: 22 * time.Second, late: 20 * time.Second,
		traffic: func(w *world) {
			w.clients.Go(func() {
				for !closed(w.moved) {
					for i := range 100 {
						w.clients.Go(func() { w.once(clientIP(i), "/") })
					}
					time.Sleep(7 * time.Second)
				}
			})
		},
		rows: lossless("quiet", "idle"),
	},
	{
		name: "10/s, all from the node's address, moved after 12 s",
		kind: early, server: plain, warm: 10 * time.Second, late: 12 * time.Second,
		traffic: func(w *world) {
			w.arriveFrom(func(int) string { return nodeIP }, 10, mixed(0.1, 300*time.Millisecond))
		},
		rows: lossless("quiet", "idle"),
	},
	{
		name: "2/s beside a kubelet's probes, moved after 12 s",
		kind: early, server: plain, warm: 15 * time.Second, late: 12 * time.Second,
		traffic: func(w *world) {
			w.prober(nodeIP, time.Second, 100*time.Millisecond, w.probeHTTP)
			w.arrive(2, fixed("/"))
		},
		rows: losslessBy(12*time.Second+soon-5*time.Second, "quiet", "idle"),
	},
}

const slowerThanPatience = "physics: regular arrivals are a prober's or a client's, and hold for the patience"

// prober is a case of nothing but probers: they never move on, and nothing of
// theirs is lost.
func prober(name string, traffic func(w *world)) scenario {
	return scenario{
		name: "probers: " + name,
		kind: late, server: plain, warm: 32 * time.Second, traffic: traffic,
		rows: by(soon, "quiet", "idle"),
	}
}

// poller is one client with a connection for each poll, whose balancer moves on
// so late.
func poller(period, moved time.Duration, physics string) scenario {
	w := want{lossless: true}
	if physics != "" {
		w = want{from: 15 * time.Second, physics: physics}
	}
	return scenario{
		name: "a poll each " + period.String() + ", moved after " + moved.String(), kind: early,
		server: plain, warm: 16 * time.Second, late: moved,
		traffic: func(w *world) { w.poll(clientIP(0), period, fixed("/")) },
		rows:    each(w, []string{"quiet", "idle"}),
	}
}

// prober probes from an address in each period, give or take the jitter, until
// the server is gone.
func (w *world) prober(from string, period, jitter time.Duration, probe func(from string)) {
	w.proberAt(spread(0, period), from, period, jitter, probe)
}

// proberAt is a prober with a phase of its own: several that are as far apart
// as can be leave no pause.
func (w *world) proberAt(phase time.Duration, from string, period, jitter time.Duration, probe func(from string)) {
	start := time.Now()
	w.clients.Go(func() {
		for i := time.Duration(0); !closed(w.over); i++ {
			time.Sleep(time.Until(start.Add(phase + i*period + spread(-jitter, jitter))))
			probe(from)
		}
	})
}

func (w *world) probeHTTP(from string) {
	if c, err := w.connect(from); err == nil {
		c.ask("/")
		c.Close()
	}
}

func (w *world) probeGRPC(from string) {
	if c, err := w.channel(from, 0); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c.Invoke(ctx, "/clients.Service/Wait", durationpb.New(0), new(durationpb.Duration))
		c.Close()
	}
}

func (w *world) probeTCP(from string) {
	if c, err := w.dial(from); err == nil {
		c.Close()
	}
}

// probeInside asks from inside the container.
func (w *world) probeInside(string) {
	w.inside(func() {
		c, err := net.DialTimeout("tcp4", "127.0.0.1:8000", time.Second)
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second))
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")
		io.Copy(io.Discard, c)
	})
}

// chatter is requests at random moments, so many a second, from inside the
// container: a sidecar's, or the server's to itself.
func (w *world) chatter(rate float64) {
	w.clients.Go(func() {
		for !closed(w.over) {
			time.Sleep(exponential(time.Duration(float64(time.Second) / rate)))
			w.probeInside("")
		}
	})
}
