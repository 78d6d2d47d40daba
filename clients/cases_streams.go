package main

import "time"

// Answers in pieces.

var streamCases = []scenario{
	pausing("3 s between tokens", 3*time.Second, plain), pausing("8 s between tokens", 8*time.Second, plain),
	longPauses("12 s between tokens", nil,
		want{physics: "physics: longer pauses than 10 s look like the end, unless DRAINIT_STREAM_PAUSE says otherwise", by: soon}),
	longPauses("12 s between tokens, DRAINIT_STREAM_PAUSE=15s", []string{"STREAM_PAUSE=15s"}, want{lossless: true}),
	pausing("3 s between tokens, node", 3*time.Second, node),
	{
		name: "a stream without end, a heartbeat each 5 s",
		kind: late, server: plain, warm: 6 * time.Second,
		traffic: func(w *world) {
			w.several(3, -5*time.Second, func(c *conn) error { return c.ask(stream(time.Minute, 5*time.Second, 0, 20)) })
		},
		rows: each(want{by: soon, physics: "physics: it has no end to wait for"}, []string{"idle"}),
	},
	{
		name: "tokens in TLS, 3 s between",
		kind: early, server: node, tls: true, warm: 4 * time.Second,
		traffic: func(w *world) { w.tokens(3*time.Second, 18*time.Second) },
		rows:    lossless("idle"),
	},
	{
		name: "server-sent events each 0.2–0.9 s",
		kind: stays, server: plain, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.several(4, -2*time.Second, func(c *conn) error {
				return c.ask(stream(20*time.Second, 200*time.Millisecond, 900*time.Millisecond, 40))
			})
		},
		rows: lossless("idle"),
	},
	{
		name: "slow uploads by HTTP/1.1", kind: stays, server: plain, warm: 4 * time.Second,
		traffic: func(w *world) { w.uploads(3) },
		rows:    lossless("idle"),
	},
	{
		name: "slow readers of 1.5 MB", kind: stays, server: plain, warm: 4 * time.Second,
		traffic: func(w *world) { w.crawl(3, 18*time.Second) },
		rows:    lossless("idle", "closed"),
	},
}

// pausing is three streams with a pause before each piece, until 18 s after t0.
func pausing(name string, pause time.Duration, server func(*world) []string) scenario {
	return scenario{
		name: "tokens: " + name, kind: early, server: server, warm: 4 * time.Second,
		traffic: func(w *world) { w.tokens(pause, 20*time.Second) },
		rows:    lossless("idle"),
	}
}

// longPauses is the same with pauses of 12 s.
func longPauses(name string, newer []string, w want) scenario {
	s := pausing(name, 12*time.Second, plain)
	s.newer, s.rows = newer, each(w, []string{"idle"})
	return s
}

func (w *world) tokens(pause, length time.Duration) {
	w.several(3, -2*time.Second, func(c *conn) error { return c.ask(stream(length, pause, 0, 20)) })
}
