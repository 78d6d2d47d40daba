package main

import (
	"fmt"
	"time"
)

// What works before must go on working.

func gunicorn(more ...string) func(*world) []string {
	return program(append([]string{"gunicorn", "-b", fmt.Sprintf("0.0.0.0:%d", serverPort), "--log-level", "critical",
		"--no-sendfile", "--worker-tmp-dir", "/dev/shm", "wsgi:app"}, more...)...)
}

// today is how long a stop without traffic takes: the window, or 8 s of
// silence.
const today = 8*time.Second + 2*slack

var steadyCases = []scenario{
	{
		name: "a connection per request, 40/s, moved after 8 s", kind: stays, server: plain,
		warm: 10 * time.Second, late: 8 * time.Second,
		traffic: func(w *world) { w.arrive(40, mixed(0.1, 500*time.Millisecond)) },
		rows:    losslessBy(13*time.Second, "quiet", "idle"),
	},
	{
		name: "a connection per request, 4/s, node, moved after 8 s", kind: stays, server: node,
		warm: 12 * time.Second, late: 8 * time.Second,
		traffic: func(w *world) { w.arrive(4, mixed(0.1, 500*time.Millisecond)) },
		rows:    lossless("quiet", "idle"),
	},
	{
		name: "nothing", kind: stays, server: plain, warm: 12 * time.Second,
		traffic: func(*world) {},
		rows: append(by(today, "quiet", "idle", "closed"),
			row{"window", want{by: 5*time.Second + slack, from: 5 * time.Second, why: "window"}}),
	},
	{
		name: "keep-alive clients that left before",
		kind: stays, server: plain, warm: 14 * time.Second,
		traffic: func(w *world) {
			w.clients.Go(func() {
				c, err := w.connect(clientIP(0))
				for err == nil && time.Until(w.t0) > 3*time.Second {
					err = c.ask("/")
					time.Sleep(100 * time.Millisecond)
				}
				w.record("/", time.Now(), err)
			})
		},
		rows: losslessBy(today, "idle", "closed"),
	},
	{
		name: "long polls of 25 s", kind: stays, server: plain, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.several(4, -time.Second, func(c *conn) error { return c.ask(slow(25 * time.Second)) })
		},
		rows: lossless("idle"),
	},
	{
		name: "long polls of 25 s, node", kind: stays, server: node, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.several(4, -time.Second, func(c *conn) error { return c.ask(slow(25 * time.Second)) })
		},
		rows: lossless("idle"),
	},
	{
		name: "800 idle connections and a trickle",
		kind: stays, server: plain, warm: 16 * time.Second, late: 2 * time.Second,
		traffic: func(w *world) {
			w.spares(800)
			w.arrive(12, fixed("/"))
		},
		rows: losslessBy(5500*time.Millisecond+slack, "idle"),
	},
	{
		name: "a connection per request, 20/s, 40 ms away",
		kind: stays, server: plain, trip: 40 * time.Millisecond,
		warm: 10 * time.Second, late: 8 * time.Second,
		traffic: func(w *world) { w.arrive(20, mixed(0.1, 500*time.Millisecond)) },
		rows:    losslessBy(13*time.Second, "quiet", "idle"),
	},
	{
		name: "idle kept connections, 40 ms away",
		kind: stays, server: plain, trip: 40 * time.Millisecond, warm: 14 * time.Second,
		traffic: func(w *world) { w.spares(20) },
		rows:    losslessBy(today, "quiet", "idle"),
	},
	{
		name: "idle kept connections with keepalives of 1 s",
		kind: stays, server: plain, warm: 14 * time.Second,
		traffic: func(w *world) {
			for i := range 5 {
				w.clients.Go(func() {
					c, err := w.connect(clientIP(i))
					if err == nil {
						err = keepAlive(c, time.Second)
					}
					if err == nil {
						err = c.ask("/")
					}
					w.record("/", time.Now(), err)
					if err == nil {
						c.hold()
					}
				})
			}
		},
		rows: losslessBy(today, "quiet", "idle"),
	},
	{
		name: "SO_REUSEPORT",
		kind: stays, server: goServer("shares"), warm: 10 * time.Second, late: 8 * time.Second,
		traffic: func(w *world) { w.arrive(20, mixed(0.1, 500*time.Millisecond)) },
		rows:    losslessBy(13*time.Second, "quiet", "idle"),
	},
	{
		name: "IPv6", kind: stays, server: plain, warm: 10 * time.Second, late: 8 * time.Second,
		traffic: func(w *world) {
			w.addr = fmt.Sprintf("[%s]:%d", serverIP6, serverPort)
			w.arriveFrom(func(int) string { return "" }, 20, mixed(0.1, 500*time.Millisecond))
			w.clients.Go(func() { w.until(-time.Second); w.once("", slow(15*time.Second)) })
		},
		rows: losslessBy(soon, "idle"),
	},
	{
		name: "gunicorn whose workers restart, 8/s, moved after 6 s",
		kind: stays, server: gunicorn("-w", "2", "--max-requests", "25"),
		warm: 10 * time.Second, late: 6 * time.Second,
		traffic: func(w *world) { w.arrive(8, mixed(0.2, 300*time.Millisecond)) },
		rows:    lossless("idle"),
	},
	{
		name: "gunicorn with clients in its accept queue",
		kind: stays, server: gunicorn("-w", "2"),
		warm: 8 * time.Second, late: 3 * time.Second,
		traffic: func(w *world) { w.arrive(5, fixed(slow(500*time.Millisecond))) },
		rows:    lossless("quiet", "idle"),
	},
	{
		name: "uvicorn, one connection per request and kept ones, moved after 6 s",
		kind: stays, server: uvicorn(),
		warm: 10 * time.Second, late: 6 * time.Second,
		traffic: func(w *world) {
			w.arrive(5, mixed(0.2, time.Second))
			w.keep(5, 500*time.Millisecond, false, mixed(0.2, time.Second))
		},
		rows: lossless("quiet", "idle"),
	},
	{
		name: "WebSockets that end after 8 s",
		kind: stays, server: uvicorn(), warm: 4 * time.Second,
		traffic: func(w *world) {
			for i := range 5 {
				w.clients.Go(func() { w.webSocketUntil(clientIP(i), 8*time.Second) })
			}
		},
		rows: lossless("closed"),
	},
	{
		name: "a server that calls others", kind: stays, server: callsOut, warm: 12 * time.Second,
		traffic: func(*world) {},
		rows:    by(today, "quiet", "idle", "closed"),
	},
	{
		name: "a listener that the server closes itself",
		kind: stays, server: goServer("closes"), env: []string{"DRAIN_SIGNAL=SIGUSR1"},
		warm: 6 * time.Second,
		traffic: func(w *world) {
			w.several(3, -time.Second, func(c *conn) error { return c.ask(slow(15 * time.Second)) })
		},
		rows: lossless("idle", "closed"),
	},
	{
		name: "a worker without a listener",
		kind: late, server: goServer("worker"), env: []string{"READY_CHECK=started"},
		warm: 4 * time.Second, unwindowed: true,
		traffic: func(*world) {},
		rows:    []row{{"", want{by: time.Second, why: "no listener"}}, {"idle", want{by: time.Second, why: "no listener"}}},
	},
	unseen("a UDP socket", "udp"), unseen("a Unix listener", "unix"),
	{
		name: "a shutdown of 15 s beside a dead client",
		kind: stays, server: goServer("lingers", "15s"), warm: 6 * time.Second,
		traffic: func(w *world) { w.corpse("/?kb=20000") },
		rows:    by(soon, "idle"),
	},
	{
		name: "a shutdown of 15 s beside a client that reads no more",
		kind: stays, server: goServer("lingers", "15s"), warm: 6 * time.Second,
		traffic: func(w *world) { w.stalled() },
		rows:    by(soon, "idle"),
	},
	{
		name: "a shutdown of 15 s beside idle connections",
		kind: stays, server: goServer("lingers", "15s"), warm: 6 * time.Second,
		traffic: func(w *world) { w.spares(5) },
		rows:    by(soon, "idle"),
	},
}

func losslessBy(latest time.Duration, until ...string) []row {
	return each(want{lossless: true, by: latest}, until)
}

// unseen is a server whose clients drainit can't count: it has them all the
// same, and the window is theirs.
func unseen(what, kind string) scenario {
	return scenario{
		name: "a server with nothing but " + what,
		kind: stays, server: goServer(kind), env: []string{"READY_CHECK=started"},
		warm: 4 * time.Second, unwindowed: true,
		traffic: func(*world) {},
		rows:    each(want{from: 5 * time.Second, by: today}, []string{"", "idle"}),
	}
}
