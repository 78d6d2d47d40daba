package main

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
)

// Connections that are not used, or that nothing can be done for: a stop that
// waits for them to the end waits for nothing.

var redis = program("redis-server", "--port", fmt.Sprint(serverPort), "--bind", "0.0.0.0", "--protected-mode", "no",
	"--save", "", "--appendonly", "no", "--logfile", "/dev/null")

func uvicorn(more ...string) func(*world) []string {
	return program(append([]string{"/usr/bin/python3", "-m", "uvicorn", "asgi:app", "--host", "0.0.0.0",
		"--port", fmt.Sprint(serverPort), "--log-level", "critical"}, more...)...)
}

var lateCases = []scenario{
	{
		name: "gRPC channels that are idle",
		kind: late, server: goServer("grpc"), warm: 6 * time.Second,
		traffic: func(w *world) { w.idleChannels(3, false) },
		rows:    by(soon, "quiet", "idle"),
	},
	{
		name: "gRPC channels that were used once",
		kind: late, server: goServer("grpc"), warm: 6 * time.Second,
		traffic: func(w *world) { w.idleChannels(3, true) },
		rows:    by(soon, "idle"),
	},
	{
		name: "gRPC channels that are idle and ping",
		kind: late, server: goServer("grpc", "4s"), warm: 12 * time.Second,
		traffic: func(w *world) {
			w.channels(3, 10*time.Second, func(c *grpc.ClientConn) { w.call(c, 0); <-w.over })
		},
		rows: by(soon, "quiet", "idle"),
	},
	{
		name: "HTTP/2 connections that are idle", kind: late, server: h2c, warm: 6 * time.Second,
		traffic: func(w *world) { w.http2s(3, 0, func(int, *multiplexed) { <-w.over }) },
		rows:    by(soon, "idle"),
	},
	{
		name: "HTTP/2 connections that were used once",
		kind: late, server: h2c, warm: 6 * time.Second,
		traffic: func(w *world) { w.http2s(3, 0, func(_ int, m *multiplexed) { m.get("/"); <-w.over }) },
		rows:    by(soon, "idle"),
	},
	{
		name: "gRPC channels that were used once, 40 ms away",
		kind: late, server: goServer("grpc"), trip: 40 * time.Millisecond, warm: 6 * time.Second,
		traffic: func(w *world) { w.idleChannels(3, true) },
		rows:    by(soon, "idle"),
	},
	{
		name: "gRPC channels that are idle, 40 ms away",
		kind: late, server: goServer("grpc"), trip: 40 * time.Millisecond, warm: 6 * time.Second,
		traffic: func(w *world) { w.idleChannels(3, false) },
		rows:    by(soon, "idle"),
	},
	{
		name: "HTTP/2 connections that were used once, 40 ms away",
		kind: late, server: h2c, trip: 40 * time.Millisecond, warm: 6 * time.Second,
		traffic: func(w *world) { w.http2s(3, 0, func(_ int, m *multiplexed) { m.get("/"); <-w.over }) },
		rows:    by(soon, "idle"),
	},
	{
		name: "connections in TLS that were used once, 40 ms away",
		kind: late, server: node, tls: true, trip: 40 * time.Millisecond, warm: 6 * time.Second,
		traffic: func(w *world) { w.spares(3) },
		rows:    by(soon, "idle"),
	},
	{
		name: "HTTP/2 connections in TLS that were used once, and ping",
		kind: late, server: secure, tls: true, warm: 12 * time.Second,
		traffic: func(w *world) {
			w.http2s(3, 4*time.Second, func(_ int, m *multiplexed) { m.get("/"); <-w.over })
		},
		rows: by(soon, "idle"),
	},
	{
		name: "gRPC channels in TLS that were used once",
		kind: late, server: goServer("grpc"), tls: true, warm: 6 * time.Second,
		traffic: func(w *world) { w.idleChannels(3, true) },
		rows:    by(soon, "idle"),
	},
	idleTLS("Go", secure), idleTLS("node", node), idleTLS("Java", java("tls")),
	webSockets("uvicorn's, pings each 5 s", uvicorn("--ws-ping-interval", "5"), 5),
	webSockets("uvicorn's, pings each 20 s", uvicorn(), 5),
	webSockets("node's, pings each 1 s", program("node", "ws.js", "1000"), 5),
	{
		name: "WebSockets, the client pings each 5 s",
		kind: late, server: uvicorn(), warm: 12 * time.Second,
		traffic: func(w *world) {
			for i := range 5 {
				w.clients.Go(func() { w.pingingSocket(clientIP(i), 5*time.Second) })
			}
		},
		rows: by(soon, "quiet", "idle"),
	},
	{
		name: "redis subscribers", kind: late, server: redis, warm: 8 * time.Second,
		traffic: func(w *world) {
			for i := range 5 {
				w.clients.Go(func() { w.subscribe(clientIP(i)) })
			}
		},
		rows: by(soon, "quiet", "idle"),
	},
	{
		name: "statsd by TCP that has ended",
		kind: late, server: goServer("sink"), warm: 6 * time.Second,
		traffic: func(w *world) { w.oneWay(3, 100*time.Millisecond, time.Second) },
		rows:    by(soon, "quiet", "idle"),
	},
	{
		name: "statsd by TCP that goes on",
		kind: late, server: goServer("sink"), warm: 6 * time.Second,
		traffic: func(w *world) { w.oneWay(3, 100*time.Millisecond, time.Minute) },
		rows:    each(want{by: soon, physics: "physics: they never move on"}, []string{"quiet", "idle"}),
	},
	{
		name: "syslog by TCP, silent since before",
		kind: late, server: goServer("sink"), warm: 8 * time.Second,
		traffic: func(w *world) { w.oneWay(3, time.Second, -4*time.Second) },
		rows:    by(soon, "idle"),
	},
	{
		name: "sessions that were greeted, and say nothing",
		kind: late, server: goServer("greets"), warm: 8 * time.Second,
		traffic: func(w *world) {
			for i := range 3 {
				w.clients.Go(func() {
					if c, err := w.connect(clientIP(i)); err == nil {
						c.hold()
					}
				})
			}
		},
		rows: by(soon, "quiet", "idle"),
	},
	{
		name: "a dead client in the middle of an answer",
		kind: late, server: plain, warm: 6 * time.Second,
		traffic: func(w *world) { w.corpse("/?kb=20000") },
		rows:    by(soon, "idle", "closed"),
	},
	{
		name: "a dead client of a stream", kind: late, server: plain, warm: 6 * time.Second,
		traffic: func(w *world) { w.corpse(stream(time.Minute, 200*time.Millisecond, 0, 40)) },
		rows:    by(soon, "idle"),
	},
	{
		name: "a dead client before its answer", kind: late, server: plain, warm: 6 * time.Second,
		traffic: func(w *world) { w.corpse(slow(8 * time.Second)) },
		rows:    by(soon, "idle"),
	},
	{
		name: "a client that reads no more", kind: late, server: plain, warm: 6 * time.Second,
		traffic: func(w *world) { w.stalled() },
		rows:    by(soon, "idle"),
	},
	{
		name: "redis BLPOP", kind: late, server: redis, warm: 6 * time.Second,
		traffic: func(w *world) { w.blpop(5, 0) },
		rows:    by(soon, "quiet", "idle"),
	},
	{
		name: "redis BLPOP as an array, beside a client that pinged",
		kind: late, server: redis, warm: 6 * time.Second,
		traffic: func(w *world) {
			w.clients.Go(func() {
				if c, err := w.connect(clientIP(9)); err == nil && c.redis("PING") == nil {
					c.hold()
				}
			})
			w.blpopArray(5)
		},
		rows: by(soon, "quiet", "idle"),
	},
	{
		name: "redis BLPOP of 5 s, again and again",
		kind: late, server: redis, warm: 8 * time.Second,
		traffic: func(w *world) { w.blpop(5, 5) },
		rows:    by(soon, "quiet", "idle"),
	},
	{
		name: "a pool that is idle for minutes", kind: late, server: plain, warm: 75 * time.Second,
		traffic: func(w *world) { w.spares(10) },
		rows:    by(soon, "closed", "idle"),
	},
	{
		name: "a Prometheus that scrapes each 15 s on a kept connection",
		kind: late, server: plain, warm: 50 * time.Second,
		traffic: func(w *world) { w.scrape(15 * time.Second) },
		rows:    by(soon, "closed", "idle"),
	},
	{
		name: "an Envoy that probes each 5 s on a kept connection",
		kind: late, server: plain, warm: 22 * time.Second,
		traffic: func(w *world) { w.scrape(5 * time.Second) },
		rows:    by(soon, "quiet", "idle", "closed"),
	},
	{
		name: "20 keep-alive clients of 400 ms without a pause, that stay",
		kind: late, server: plain, warm: 6 * time.Second,
		traffic: func(w *world) { w.keep(20, 0, true, fixed(slow(400*time.Millisecond))) },
		rows:    each(want{by: soon, physics: "physics: there is no instant without a request"}, []string{"idle"}),
	},
	{
		name: "20 keep-alive clients that stay", kind: late, server: plain, warm: 6 * time.Second,
		traffic: func(w *world) { w.keep(20, 300*time.Millisecond, true, fixed("/")) },
		rows:    each(want{by: soon, physics: "physics: they never move on"}, []string{"quiet", "idle"}),
	},
}

// idleChannels is connected ones that were used once, or not at all.
func (w *world) idleChannels(n int, used bool) {
	w.channels(n, 0, func(c *grpc.ClientConn) {
		c.Connect()
		if used {
			w.call(c, 0)
		}
		<-w.over
	})
}

func idleTLS(name string, server func(*world) []string) scenario {
	return scenario{
		name: "connections in TLS, unused and used once, " + name,
		kind: late, server: server, tls: true, warm: 8 * time.Second,
		traffic: func(w *world) {
			w.spares(3)
			for i := range 3 {
				w.clients.Go(func() {
					if c, err := w.connect(clientIP(50 + i)); err == nil {
						c.hold()
					}
				})
			}
		},
		rows: by(soon, "idle"),
	}
}

// spares is kept connections that were used once.
func (w *world) spares(n int) {
	for i := range n {
		w.clients.Go(func() {
			c, err := w.connect(clientIP(i))
			if err == nil {
				err = c.ask("/")
			}
			w.record("/", time.Now(), err)
			if err == nil {
				c.hold()
			}
		})
	}
}

func webSockets(name string, server func(*world) []string, n int) scenario {
	return scenario{
		name: "WebSockets, " + name, kind: late, server: server, warm: 8 * time.Second,
		traffic: func(w *world) {
			for i := range n {
				w.clients.Go(func() { w.webSocket(clientIP(i)) })
			}
		},
		rows: by(soon, "quiet", "idle"),
	}
}

// scrape is a scraper with one kept connection, whose server it goes on with.
func (w *world) scrape(every time.Duration) {
	w.clients.Go(func() {
		c, err := w.connect(clientIP(0))
		for err == nil && !closed(w.over) {
			if err = c.ask("/?kb=8"); err == nil && c.rest(every) {
				return
			}
		}
	})
}
