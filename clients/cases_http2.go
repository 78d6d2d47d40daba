package main

import (
	"time"

	"google.golang.org/grpc"
)

// Multiplexed connections: the last bytes say nothing of the requests that are
// still in flight.

var h2c = goServer("h2c")

var http2Cases = []scenario{
	grpcStream(100*time.Millisecond, 0), grpcStream(time.Second, 0), grpcStream(3*time.Second, 0),
	grpcStream(500*time.Millisecond, 2*time.Second),
	{
		name: "gRPC streams in TLS, a message each 1 s",
		kind: early, server: goServer("grpc"), tls: true, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.channels(3, 0, func(c *grpc.ClientConn) {
				w.until(-2 * time.Second)
				w.watch(c, 20, time.Second)
			})
		},
		rows: lossless("idle"),
	},
	{
		name: "gRPC streams that pause for 12 s beside calls, DRAINIT_STREAM_PAUSE=15s",
		kind: early, server: goServer("grpc"), warm: 4 * time.Second, newer: []string{"STREAM_PAUSE=15s"},
		traffic: func(w *world) {
			w.channels(3, 0, func(c *grpc.ClientConn) {
				w.until(-2 * time.Second)
				watched := make(chan struct{})
				go func() { defer close(watched); w.watch(c, 2, 12*time.Second) }()
				for time.Until(w.t0) > -500*time.Millisecond {
					w.call(c, 0)
					time.Sleep(200 * time.Millisecond)
				}
				<-watched
			})
		},
		rows: lossless("idle"),
	},
	{
		name: "gRPC, 10 channels, moved after 2 s, DRAINIT_STREAM_PAUSE=3s",
		kind: early, server: goServer("grpc"), newer: []string{"STREAM_PAUSE=3s"},
		warm: 10 * time.Second, late: 2 * time.Second,
		traffic: func(w *world) { w.calls(10, 200*time.Millisecond) },
		rows:    losslessBy(9*time.Second, "idle"),
	},
	{
		name: "gRPC uploads of 4 KB each 2 s",
		kind: early, server: goServer("grpc"), warm: 4 * time.Second,
		traffic: func(w *world) {
			w.channels(3, 0, func(c *grpc.ClientConn) {
				w.until(-2 * time.Second)
				w.push(c, 10, 4<<10, 2*time.Second)
			})
		},
		rows: lossless("idle"),
	},
	{
		name: "HTTP/2: 12 s beside quick requests",
		kind: early, server: h2c, warm: 4 * time.Second,
		traffic: func(w *world) { w.beside(3, 12*time.Second, 0, true) },
		rows:    lossless("idle"),
	},
	{
		name: "HTTP/2: 20 s beside quick requests",
		kind: early, server: h2c, warm: 4 * time.Second,
		traffic: func(w *world) { w.beside(3, 20*time.Second, 0, true) },
		rows:    lossless("idle"),
	},
	{
		name: "HTTP/2 in TLS: 12 s beside quick requests",
		kind: early, server: secure, tls: true, warm: 4 * time.Second,
		traffic: func(w *world) { w.beside(3, 12*time.Second, 0, true) },
		rows:    lossless("idle"),
	},
	{
		name: "HTTP/2: 12 s, and the client pings",
		kind: early, server: h2c, warm: 4 * time.Second,
		traffic: func(w *world) { w.beside(3, 12*time.Second, 2*time.Second, false) },
		rows:    lossless("idle"),
	},
	{
		name: "HTTP/2: 12 s, and the server pings",
		kind: early, server: goServer("h2c", "2s"), warm: 4 * time.Second,
		traffic: func(w *world) { w.beside(3, 12*time.Second, 0, false) },
		rows:    lossless("idle"),
	},
	{
		name: "gRPC: a call of 12 s, and both sides ping",
		kind: early, server: goServer("grpc", "3s"), warm: 4 * time.Second,
		traffic: func(w *world) {
			w.channels(3, 10*time.Second, func(c *grpc.ClientConn) {
				w.call(c, 0)
				w.until(-time.Second)
				w.call(c, 12*time.Second)
			})
		},
		rows: lossless("idle"),
	},
	{
		name: "HTTP/2 events of 2 KB/s, 10 ms apart",
		kind: early, server: h2c, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.http2s(3, 0, func(_ int, m *multiplexed) {
				w.until(-2 * time.Second)
				m.get(stream(20*time.Second, 10*time.Millisecond, 0, 20))
			})
		},
		rows: lossless("idle"),
	},
	{
		name: "HTTP/2 tokens, 3 s between", kind: early, server: h2c, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.http2s(3, 0, func(_ int, m *multiplexed) {
				w.until(-2 * time.Second)
				m.get(stream(20*time.Second, 3*time.Second, 0, 20))
			})
		},
		rows: lossless("idle"),
	},
	{
		name: "HTTP/2 uploads of 64 KB each 2 s", kind: early, server: h2c, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.http2s(2, 0, func(_ int, m *multiplexed) {
				w.until(-2 * time.Second)
				began := time.Now()
				w.record("upload", began, m.do("POST", "/upload", upload(10, 64<<10, 2*time.Second)))
			})
		},
		rows: lossless("idle"),
	},
	{
		name: "HTTP/2: a first request of 20 s", kind: early, server: h2c, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.http2s(3, 0, func(_ int, m *multiplexed) {
				w.until(-time.Second)
				m.get(slow(20 * time.Second))
			})
		},
		rows: lossless("idle"),
	},
	{
		name: "gRPC: a later call of 20 s",
		kind: early, server: goServer("grpc"), warm: 4 * time.Second,
		traffic: func(w *world) {
			w.channels(3, 0, func(c *grpc.ClientConn) {
				for range 5 {
					w.call(c, 100*time.Millisecond)
				}
				w.until(-time.Second)
				w.call(c, 20*time.Second)
			})
		},
		rows: lossless("idle"),
	},
	{
		name: "gRPC: a first call of 20 s",
		kind: early, server: goServer("grpc"), warm: 4 * time.Second,
		traffic: func(w *world) {
			w.channels(3, 0, func(c *grpc.ClientConn) {
				w.until(-time.Second)
				w.call(c, 20*time.Second)
			})
		},
		rows: lossless("idle"),
	},
}

// grpcStream is three server streams at a pace, until 18 s after t0. The client
// pings after so long, if not zero.
func grpcStream(pace, ping time.Duration) scenario {
	name := "gRPC streams, a message each " + pace.String()
	if ping > 0 {
		name += ", and pings"
	}
	return scenario{
		name: name, kind: early, server: goServer("grpc"), warm: 4 * time.Second,
		traffic: func(w *world) {
			w.channels(3, ping, func(c *grpc.ClientConn) {
				w.until(-2 * time.Second)
				w.watch(c, int(20*time.Second/pace), pace)
			})
		},
		rows: lossless("idle"),
	}
}

// beside is so many connections with a slow request from one second before t0,
// and quick ones beside it if asked for.
func (w *world) beside(n int, d, ping time.Duration, quick bool) {
	w.http2s(n, ping, func(_ int, m *multiplexed) {
		m.get("/")
		w.until(-time.Second)
		done := make(chan struct{})
		go func() { defer close(done); m.get(slow(d)) }()
		for quick && !closed(done) && !closed(w.over) {
			time.Sleep(spread(300*time.Millisecond, 900*time.Millisecond))
			m.do("GET", "/", nil)
		}
		<-done
	})
}
