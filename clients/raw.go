package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// Clients of protocols other than HTTP, and of HTTP that is no mere request.

const (
	early = "too early"
	late  = "too late"
	stays = "stays"
)

// self is this program.
func self() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

// callsOut is a server that calls another one, which is on the clients' side.
func callsOut(*world) []string {
	l, err := net.Listen("tcp", nodeIP+":7002")
	if err != nil {
		// The address comes with the network, after this.
		l, err = net.Listen("tcp", ":7002")
	}
	if err == nil {
		go http.Serve(l, handler())
	}
	return []string{self(), "-server", "calls", "http://" + nodeIP + ":7002"}
}

// oneWay sends a line in each period until then, and leaves the connection
// open.
func (w *world) oneWay(n int, period, until time.Duration) {
	for i := range n {
		w.clients.Go(func() {
			c, err := w.connect(clientIP(i))
			for err == nil && time.Until(w.t0.Add(until)) > 0 {
				_, err = io.WriteString(c, "requests.total:1|c\n")
				time.Sleep(period)
			}
			w.record("a line", time.Now(), err)
			if err == nil {
				c.hold()
			}
		})
	}
}

// corpse asks for something, and its machine dies while the answer is written,
// two seconds before t0.
func (w *world) corpse(target string) {
	w.clients.Go(func() {
		c, err := w.dial(clientIP(0))
		if err == nil {
			err = smallBuffer(c)
		}
		if err == nil {
			w.until(-3 * time.Second)
			_, err = io.WriteString(c, get(target))
		}
		if err == nil {
			w.until(-2 * time.Second)
			err = die(raw(c))
		}
		if err != nil {
			w.record("a client that dies", time.Now(), err)
			return
		}
		<-w.over
		c.Close()
	})
}

// stalled asks for something long, and reads no more of it: its kernel goes on
// answering that its window is closed.
func (w *world) stalled() {
	w.clients.Go(func() {
		c, err := w.dial(clientIP(0))
		if err == nil {
			err = smallBuffer(c)
		}
		if err == nil {
			w.until(-3 * time.Second)
			_, err = io.WriteString(c, get("/?kb=20000"))
		}
		if err != nil {
			w.record("a client that stalls", time.Now(), err)
			return
		}
		<-w.over
		c.Close()
	})
}

// crawl reads an answer of 1.5 MB at a pace that ends so long after t0.
func (w *world) crawl(n int, end time.Duration) {
	for i := range n {
		w.clients.Go(func() {
			began := time.Now()
			c, err := w.dial(clientIP(i))
			if err == nil {
				err = smallBuffer(c)
			}
			const size = 1500 << 10
			if err == nil {
				_, err = fmt.Fprint(c, "GET /?kb=1500 HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")
			}
			pause := time.Until(w.t0.Add(end)) / (size / 8192)
			got, b := 0, make([]byte, 8192)
			for err == nil {
				var n int
				n, err = io.ReadFull(c, b)
				got += n
				time.Sleep(pause)
			}
			if got > size {
				err = nil
			}
			w.record("a slow reader", began, err)
		})
	}
}

// uploads are bodies of 40 KB in pieces, until 18 s after t0.
func (w *world) uploads(n int) {
	w.several(n, -2*time.Second, func(c *conn) error {
		const pieces, size = 40, 1000
		_, err := fmt.Fprintf(c, "POST /upload HTTP/1.1\r\nHost: server\r\nContent-Length: %d\r\n\r\n", pieces*size)
		for range pieces {
			if err != nil {
				return err
			}
			time.Sleep(500 * time.Millisecond)
			_, err = c.Write(make([]byte, size))
		}
		if err == nil {
			err = c.answer()
		}
		return err
	})
}

// pingRedis pings on a kept connection until the balancer moves on.
func (w *world) pingRedis(from string) {
	c, err := w.connect(from)
	for !closed(w.moved) {
		began := time.Now()
		if err == nil {
			err = c.redis("PING")
		}
		w.record("PING", began, err)
		if err != nil {
			time.Sleep(time.Second)
			c, err = w.connect(from)
			continue
		}
		time.Sleep(exponential(300 * time.Millisecond))
	}
	if err == nil {
		c.Close()
	}
}

// redis sends a command and reads a line of the answer.
func (c *conn) redis(command string) error {
	c.w.deadline(c)
	if _, err := io.WriteString(c, command+"\r\n"); err != nil {
		return err
	}
	_, err := c.r.ReadString('\n')
	return err
}

// blpop is consumers of an empty list, which wait for so many seconds, or for
// ever if that is zero.
func (w *world) blpop(n, seconds int) {
	w.blocking(n, fmt.Sprintf("BLPOP jobs %d\r\n", seconds))
}

// blpopArray is the same for ever, as a client library says it.
func (w *world) blpopArray(n int) {
	w.blocking(n, "*3\r\n$5\r\nBLPOP\r\n$4\r\njobs\r\n$1\r\n0\r\n")
}

// blocking is clients that send a command each time the last has ended.
func (w *world) blocking(n int, command string) {
	for i := range n {
		w.clients.Go(func() {
			c, err := w.connect(clientIP(i))
			for err == nil && !closed(w.over) {
				c.SetDeadline(time.Time{})
				go func() { <-w.over; c.SetDeadline(time.Now()) }()
				err = c.blocked(command)
			}
		})
	}
}

func (c *conn) blocked(command string) error {
	if _, err := io.WriteString(c, command); err != nil {
		return err
	}
	_, err := c.r.ReadString('\n')
	return err
}

// subscribe waits for messages that never come.
func (w *world) subscribe(from string) {
	c, err := w.connect(from)
	if err == nil {
		_, err = io.WriteString(c, "SUBSCRIBE news\r\n")
	}
	if err != nil {
		w.record("a subscription", time.Now(), err)
		return
	}
	c.hold()
}

// upgrade opens a WebSocket.
func (w *world) upgrade(from string) (*conn, error) {
	c, err := w.connect(from)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: server\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZHJhaW5pdCBkcmFpbmluZw==\r\n\r\n")
	if err != nil {
		return nil, err
	}
	r, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusSwitchingProtocols {
		return nil, errStatus(r.StatusCode)
	}
	c.SetDeadline(time.Time{})
	go func() { <-w.over; c.SetDeadline(time.Now().Add(time.Second)) }()
	return c, nil
}

// webSocket is one that says nothing but the answers to the server's pings,
// until the server is gone.
func (w *world) webSocket(from string) {
	c, err := w.upgrade(from)
	if err != nil {
		w.record("a WebSocket", time.Now(), err)
		return
	}
	for c.frame() == nil {
	}
	c.Close()
}

// pingingSocket is one on which the client pings, until the server is gone.
func (w *world) pingingSocket(from string, every time.Duration) {
	c, err := w.upgrade(from)
	if err != nil {
		w.record("a WebSocket", time.Now(), err)
		return
	}
	for err == nil {
		time.Sleep(every)
		if err = c.sendFrame(0x9, []byte("ping")); err == nil {
			err = c.frame()
		}
	}
	c.Close()
}

// webSocketUntil is one that says something twice a second, and is closed by
// the client so long after t0.
func (w *world) webSocketUntil(from string, end time.Duration) {
	began := time.Now()
	c, err := w.upgrade(from)
	for err == nil && time.Until(w.t0.Add(end)) > 0 {
		if err = c.sendFrame(0x1, []byte("hello")); err == nil {
			err = c.frame()
		}
		time.Sleep(500 * time.Millisecond)
	}
	if err == nil {
		c.sendFrame(0x8, []byte{0x03, 0xe8})
		c.Close()
	}
	w.record("a WebSocket", began, err)
}

// frame reads a short frame, and answers a ping.
func (c *conn) frame() error {
	var h [2]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return err
	}
	b := make([]byte, h[1]&0x7f)
	if _, err := io.ReadFull(c.r, b); err != nil {
		return err
	}
	switch h[0] & 0xf {
	case 0x8:
		return io.EOF
	case 0x9:
		return c.sendFrame(0xa, b)
	}
	return nil
}

// sendFrame sends a short frame, masked with zeros.
func (c *conn) sendFrame(opcode byte, b []byte) error {
	_, err := c.Write(append([]byte{0x80 | opcode, 0x80 | byte(len(b)), 0, 0, 0, 0}, b...))
	return err
}
