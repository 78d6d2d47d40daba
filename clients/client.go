package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"time"
)

// A client speaks HTTP/1.1 by hand: net/http would silently repeat what is
// lost.

// conn is a client's connection.
type conn struct {
	net.Conn
	w *world
	r *bufio.Reader
}

// dial connects from an address to the server.
func (w *world) dial(from string) (net.Conn, error) { return w.dialTo(w.addr, from) }

func (w *world) dialTo(addr, from string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	if closed(w.over) {
		d.Timeout = patienceAfter
	}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, errRefused{err}
	}
	w.mu.Lock()
	w.conns[c] = true
	w.mu.Unlock()
	w.deadline(c)
	return &tracked{c, w}, nil
}

// raw is the TCP connection itself.
func raw(c net.Conn) *net.TCPConn {
	switch c := c.(type) {
	case *conn:
		return raw(c.Conn)
	case *tls.Conn:
		return raw(c.NetConn())
	case *tracked:
		return c.Conn.(*net.TCPConn)
	}
	return c.(*net.TCPConn)
}

// connect is dial, with TLS where the case has it.
func (w *world) connect(from string) (*conn, error) { return w.connectTo(w.addr, from) }

func (w *world) connectTo(addr, from string) (*conn, error) {
	c, err := w.dialTo(addr, from)
	if err != nil {
		return nil, err
	}
	if w.scenario.tls {
		secure := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		if err := secure.Handshake(); err != nil {
			c.Close()
			return nil, err
		}
		c = secure
	}
	return &conn{c, w, bufio.NewReader(c)}, nil
}

// ask makes a request and reads its answer.
func (c *conn) ask(path string) error {
	if err := c.send(path); err != nil {
		return err
	}
	return c.answer()
}

func (c *conn) send(path string) error {
	c.w.deadline(c)
	_, err := io.WriteString(c, get(path))
	return err
}

// get is a request.
func get(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: server\r\nUser-Agent: clients\r\n\r\n"
}

// answer reads one, and those that are only provisional before it.
func (c *conn) answer() error {
	for {
		r, err := http.ReadResponse(c.r, nil)
		if err != nil {
			return err
		}
		if r.StatusCode < 200 && r.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return errCut{err}
		}
		if r.StatusCode != http.StatusOK {
			return errStatus(r.StatusCode)
		}
		return nil
	}
}

// rest waits, and reports whether the server has closed meanwhile: a connection
// that is closed between two requests loses nothing.
func (c *conn) rest(d time.Duration) (ended bool) {
	c.SetReadDeadline(time.Now().Add(d))
	_, err := c.r.Peek(1)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// path is a way to a request's target, which may be another one each time.
type path func() string

func fixed(p string) path { return func() string { return p } }

// slow is a request that is answered after so long.
func slow(d time.Duration) string { return fmt.Sprintf("/?ms=%d", d.Milliseconds()) }

// once makes a request on a connection of its own.
func (w *world) once(from, target string) {
	began := time.Now()
	c, err := w.connect(from)
	if err == nil {
		err = c.ask(target)
		c.Close()
	}
	w.record(target, began, err)
}

// arrive makes requests at random moments, so many a second, a connection each,
// until the balancer moves on.
func (w *world) arrive(rate float64, target path) { w.arriveFrom(clientIP, rate, target) }

func (w *world) arriveFrom(address func(int) string, rate float64, target path) {
	w.clients.Go(func() {
		for i := 0; ; i++ {
			time.Sleep(exponential(time.Duration(float64(time.Second) / rate)))
			if closed(w.moved) {
				return
			}
			w.clients.Go(func() { w.once(address(i), target()) })
		}
	})
}

// poll makes a request in each period, a connection each, until the balancer
// moves on.
func (w *world) poll(from string, period time.Duration, target path) {
	w.clients.Go(func() {
		for !closed(w.moved) {
			w.clients.Go(func() { w.once(from, target()) })
			time.Sleep(period)
		}
	})
}

// keep is clients that keep their connections, and pause between two requests.
// When the balancer moves on they close them, unless they stay.
func (w *world) keep(n int, pause time.Duration, stays bool, target path) {
	for i := range n {
		w.clients.Go(func() {
			for !w.left(stays) {
				began := time.Now()
				c, err := w.connect(clientIP(i))
				if err != nil {
					w.record("a connection", began, err)
					time.Sleep(200 * time.Millisecond)
					continue
				}
				w.session(c, pause, stays, target)
				c.Close()
			}
		})
	}
}

func (w *world) left(stays bool) bool {
	return closed(w.over) && closed(w.moved) || !stays && closed(w.moved)
}

func (w *world) session(c *conn, pause time.Duration, stays bool, target path) {
	for {
		if pause > 0 && c.rest(exponential(pause)) || w.left(stays) {
			return
		}
		what, began := target(), time.Now()
		err := c.ask(what)
		w.record(what+" on a kept connection", began, err)
		if err != nil {
			return
		}
	}
}

// hold keeps a connection open, and reads what comes, until the server is gone.
func (c *conn) hold() {
	c.SetDeadline(time.Time{})
	go func() { <-c.w.over; c.SetDeadline(time.Now()) }()
	io.Copy(io.Discard, c.r)
	c.Close()
}

// mixed picks the slow one with that probability.
func mixed(share float64, d time.Duration) path {
	return func() string {
		if rand.Float64() < share {
			return slow(d)
		}
		return "/"
	}
}

// keepAlive makes the client's kernel send keepalive probes.
func keepAlive(c net.Conn, every time.Duration) error {
	return raw(c).SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: every, Interval: every, Count: 9})
}

// smallBuffer is a receive buffer that holds a server up.
func smallBuffer(c net.Conn) error { return raw(c).SetReadBuffer(4096) }

// abort makes closing a connection reset it.
func abort(c net.Conn) error { return raw(c).SetLinger(0) }
