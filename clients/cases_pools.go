package main

import (
	"time"

	"google.golang.org/grpc"
)

// Balancers and clients that keep connections, and go on using them after the
// stop signal: the connections are old, and the requests new.

func goServer(args ...string) func(*world) []string {
	return func(*world) []string { return append([]string{self(), "-server"}, args...) }
}

func program(args ...string) func(*world) []string {
	return func(*world) []string { return args }
}

var node = program("node", "node.js")

// java is the JDK's server, with threads of its own. It looks up the name of
// each client in TLS, one after the other, and without a name server that takes
// 5 s each: requests began up to 10 s late. The file of hosts has the names
// instead.
func java(more ...string) func(*world) []string {
	return program(append([]string{"java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
		"-Djdk.net.hosts.file=hosts", "Server"}, more...)...)
}

var poolCases = []scenario{
	{
		name: "nginx pool, 40/s, reloaded after 10 s", kind: early, server: goServer("http"),
		warm: 12 * time.Second, late: 10 * time.Second,
		traffic: func(w *world) { w.nginx(); w.arrive(40, mixed(0.1, 300*time.Millisecond)) },
		rows:    lossless("quiet", "idle", "closed"),
	},
	{
		name: "nginx pool before node, 40/s, reloaded after 15 s", kind: early, server: node,
		warm: 12 * time.Second, late: 15 * time.Second,
		traffic: func(w *world) { w.nginx(); w.arrive(40, mixed(0.1, 300*time.Millisecond)) },
		rows:    lossless("quiet", "idle"),
	},
	{
		name: "HAProxy pool, 40/s, checks 6 s × 3", kind: early, server: goServer("http"),
		warm: 12 * time.Second, late: 25 * time.Second,
		traffic: func(w *world) {
			w.haproxy(6*time.Second, 3, false)
			w.arrive(40, mixed(0.1, 300*time.Millisecond))
		},
		rows: lossless("quiet", "idle"),
	},
	{
		name: "HAProxy pool by HTTP/2, 40/s, checks 4 s × 3", kind: early, server: h2c,
		warm: 12 * time.Second, late: 16 * time.Second,
		traffic: func(w *world) {
			w.haproxy(4*time.Second, 3, true)
			w.arrive(40, mixed(0.1, 300*time.Millisecond))
		},
		rows: losslessBy(12*time.Second+soon, "quiet", "idle"),
	},
	{
		name: "20 keep-alive clients, moved after 15 s", kind: early, server: goServer("http"),
		warm: 10 * time.Second, late: 15 * time.Second,
		traffic: func(w *world) { w.keep(20, 500*time.Millisecond, false, fixed("/")) },
		rows:    lossless("quiet", "idle"),
	},
	{
		name: "20 keep-alive clients in TLS before node, moved after 12 s",
		kind: early, server: node, tls: true,
		warm: 10 * time.Second, late: 12 * time.Second,
		traffic: func(w *world) { w.keep(20, 500*time.Millisecond, false, fixed("/")) },
		rows:    lossless("quiet", "idle"),
	},
	{
		name: "10 keep-alive clients before uvicorn, moved after 12 s",
		kind: early, server: uvicorn("--timeout-keep-alive", "75"),
		warm: 10 * time.Second, late: 12 * time.Second,
		traffic: func(w *world) { w.keep(10, 500*time.Millisecond, false, mixed(0.1, 300*time.Millisecond)) },
		rows:    lossless("quiet", "idle"),
	},
	{
		name: "10 keep-alive clients before gunicorn's threads, moved after 12 s", kind: early,
		server: gunicorn("-k", "gthread", "--threads", "12", "--keep-alive", "75"),
		warm:   10 * time.Second, late: 12 * time.Second,
		traffic: func(w *world) { w.keep(10, 500*time.Millisecond, false, mixed(0.1, 300*time.Millisecond)) },
		rows:    lossless("quiet", "idle"),
	},
	{
		name: "one kept connection, a request each 3 s, moved after 12 s",
		kind: early, server: plain,
		warm: 13 * time.Second, late: 12 * time.Second,
		traffic: func(w *world) { w.steady(clientIP(0), 3*time.Second) },
		rows:    lossless("quiet", "idle"),
	},
	{
		name: "gRPC, 10 channels, moved after 20 s", kind: early, server: goServer("grpc"),
		warm: 10 * time.Second, late: 20 * time.Second,
		traffic: func(w *world) { w.calls(10, 200*time.Millisecond) },
		rows:    lossless("quiet", "idle"),
	},
	{
		name: "gRPC, 10 channels, moved after 12 s", kind: early, server: goServer("grpc"),
		warm: 10 * time.Second, late: 12 * time.Second,
		traffic: func(w *world) { w.calls(10, 200*time.Millisecond) },
		rows:    lossless("quiet", "idle"),
	},
	{
		name: "gRPC in TLS, 10 channels, moved after 12 s",
		kind: early, server: goServer("grpc"), tls: true,
		warm: 10 * time.Second, late: 12 * time.Second,
		traffic: func(w *world) { w.calls(10, 200*time.Millisecond) },
		rows:    lossless("quiet", "idle"),
	},
	{
		name: "redis, 10 kept connections, moved after 10 s", kind: early, server: redis,
		warm: 10 * time.Second, late: 10 * time.Second,
		traffic: func(w *world) {
			for i := range 10 {
				w.clients.Go(func() { w.pingRedis(clientIP(i)) })
			}
		},
		rows: lossless("quiet", "idle"),
	},
}

// calls is so many channels that make a quick call after each pause, until the
// balancer moves on.
func (w *world) calls(n int, pause time.Duration) {
	w.channels(n, 0, func(c *grpc.ClientConn) {
		for !closed(w.moved) {
			w.call(c, 0)
			time.Sleep(exponential(pause))
		}
	})
}

// steady is a client that makes a request in each period, on one connection.
func (w *world) steady(from string, period time.Duration) {
	w.clients.Go(func() {
		c, err := w.connect(from)
		for !closed(w.moved) {
			began := time.Now()
			if err == nil {
				err = c.ask("/")
			}
			w.record("/ on a kept connection", began, err)
			if err != nil {
				time.Sleep(period)
			}
			if err != nil || c.rest(period) {
				c, err = w.connect(from)
			}
		}
		if err == nil {
			c.Close()
		}
	})
}
