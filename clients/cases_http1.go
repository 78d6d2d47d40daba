package main

import (
	"fmt"
	"io"
	"time"
)

// HTTP/1.1 requests that take longer than the window.

var plain = goServer("http")
var secure = goServer("https")

var http1Cases = []scenario{
	sameTick("Go", plain), sameTick("node", node), sameTick("Java", java()),
	{
		name: "the same for 30 s, the server's keepalives of 15 s",
		kind: early, server: plain, warm: 4 * time.Second,
		traffic: func(w *world) { w.askTwice(6, 30*time.Second, 0) },
		rows:    lossless("idle"),
	},
	{
		name: "the same, the client's keepalives of 3 s",
		kind: early, server: node, warm: 4 * time.Second,
		traffic: func(w *world) { w.askTwice(6, 20*time.Second, 3*time.Second) },
		rows:    lossless("idle"),
	},
	firstInTLS("Go", secure), firstInTLS("node", node), firstInTLS("Java", java("tls")),
	{
		name: "a later request in TLS takes 20 s, node",
		kind: early, server: node, tls: true, warm: 4 * time.Second,
		traffic: func(w *world) { w.askTwice(6, 20*time.Second, 0) },
		rows:    lossless("idle"),
	},
	{
		name: "pipelining: the second request takes 20 s",
		kind: early, server: plain, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.several(3, -time.Second, func(c *conn) error {
				_, err := io.WriteString(c, get("/")+get(slow(20*time.Second)))
				if err == nil {
					err = c.answer()
				}
				if err == nil {
					err = c.answer()
				}
				return err
			})
		},
		rows: each(want{physics: "physics: a segment that is read and answered shows one request", from: 5 * time.Second}, []string{"idle"}),
	},
	{
		name: "a half-closed client, 14 s", kind: early, server: plain, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.several(3, -time.Second, func(c *conn) error {
				err := c.send(slow(14 * time.Second))
				if err == nil {
					err = raw(c).CloseWrite()
				}
				if err == nil {
					err = c.answer()
				}
				return err
			})
		},
		rows: lossless("idle"),
	},
	{
		name: "an upload of 1 MB, then 15 s", kind: early, server: plain, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.several(3, -time.Second, func(c *conn) error {
				const size = 1 << 20
				_, err := fmt.Fprintf(c, "POST /upload?ms=15000 HTTP/1.1\r\nHost: server\r\n"+
					"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n", size)
				time.Sleep(100 * time.Millisecond)
				if err == nil {
					_, err = c.Write(make([]byte, size))
				}
				if err == nil {
					err = c.answer()
				}
				return err
			})
		},
		rows: lossless("idle"),
	},
	{
		name: "a server that greets, and a command of 15 s",
		kind: early, server: goServer("greets"), warm: 4 * time.Second,
		traffic: func(w *world) {
			w.several(3, -time.Second, func(c *conn) error {
				_, err := c.r.ReadString('\n')
				if err == nil {
					_, err = fmt.Fprintln(c, 15000)
				}
				if err == nil {
					_, err = c.r.ReadString('\n')
				}
				return err
			})
		},
		rows: lossless("idle"),
	},
	earlyHints("Go", plain), earlyHints("node", node),
	{
		name: "answers of 12 s beside a kubelet's probes",
		kind: early, server: plain, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.several(3, -time.Second, func(c *conn) error { return c.ask(slow(12 * time.Second)) })
			w.prober(nodeIP, time.Second, 100*time.Millisecond, w.probeHTTP)
		},
		rows: lossless("idle"),
	},
	denied("6 s", 6*time.Second, ""), denied("12 s", 12*time.Second, ""),
	denied("20 s", 20*time.Second, "physics: without netlink a connection's age is all that is known"),
}

// several connections ask something at a moment; their answers must come.
func (w *world) several(n int, at time.Duration, ask func(c *conn) error) {
	for i := range n {
		w.clients.Go(func() {
			w.until(at + time.Duration(i)*50*time.Millisecond)
			began := time.Now()
			c, err := w.connect(clientIP(i))
			if err == nil {
				err = ask(c)
				c.Close()
			}
			w.record("a request", began, err)
		})
	}
}

// askTwice is clients that ask for something slow in the instant in which they
// have the answer to something quick.
func (w *world) askTwice(n int, d, keepalives time.Duration) {
	w.several(n, -time.Second, func(c *conn) error {
		if keepalives > 0 {
			if err := keepAlive(c, keepalives); err != nil {
				return err
			}
		}
		for range 3 {
			if err := c.ask("/"); err != nil {
				return err
			}
		}
		return c.ask(slow(d))
	})
}

func sameTick(name string, server func(*world) []string) scenario {
	return scenario{
		name: "a request of 20 s within a tick of an answer, " + name,
		kind: early, server: server, warm: 4 * time.Second,
		traffic: func(w *world) { w.askTwice(6, 20*time.Second, 0) },
		rows:    lossless("idle"),
	}
}

func firstInTLS(name string, server func(*world) []string) scenario {
	return scenario{
		name: "the first request in TLS takes 14 s, " + name,
		kind: early, server: server, tls: true, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.several(6, -time.Second, func(c *conn) error { return c.ask(slow(14 * time.Second)) })
		},
		rows: lossless("idle"),
	}
}

func earlyHints(name string, server func(*world) []string) scenario {
	return scenario{
		name: "103 Early Hints, then 20 s, " + name,
		kind: early, server: server, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.several(4, -time.Second, func(c *conn) error { return c.ask("/hints?ms=20000") })
		},
		rows: lossless("idle"),
	}
}

func denied(name string, d time.Duration, physics string) scenario {
	w := want{lossless: true}
	if physics != "" {
		w = want{from: 15 * time.Second, physics: physics}
	}
	return scenario{
		name: "netlink denied, requests of " + name,
		kind: early, server: plain, denied: true, warm: 4 * time.Second,
		traffic: func(w *world) {
			w.several(3, -time.Second, func(c *conn) error { return c.ask(slow(d)) })
		},
		rows: []row{{"idle", w}},
	}
}
