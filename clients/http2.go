package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/net/http2"
)

// multiplexed is a client's HTTP/2 connection.
type multiplexed struct {
	*http2.ClientConn
	w    *world
	conn interface{ Close() error }
}

// http2 makes one; with TLS where the case has it. It pings after so long
// without a frame, if that is not zero.
func (w *world) http2(from string, ping time.Duration) (*multiplexed, error) {
	c, err := w.dial(from)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Time{})
	conn := c
	if w.scenario.tls {
		secure := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err := secure.Handshake(); err != nil {
			c.Close()
			return nil, err
		}
		conn = secure
	}
	t := &http2.Transport{AllowHTTP: true, ReadIdleTimeout: ping}
	cc, err := t.NewClientConn(conn)
	if err != nil {
		c.Close()
		return nil, err
	}
	return &multiplexed{cc, w, conn}, nil
}

// do makes a request, once, and reads the answer to its end.
func (m *multiplexed) do(method, target string, body io.Reader) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	scheme := "http"
	if m.w.scenario.tls {
		scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, method, scheme+"://server"+target, body)
	if err != nil {
		return err
	}
	r, err := m.RoundTrip(request)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return errCut{err}
	}
	if r.StatusCode != http.StatusOK {
		return errStatus(r.StatusCode)
	}
	return nil
}

func (m *multiplexed) get(target string) {
	began := time.Now()
	m.w.record(target+" by HTTP/2", began, m.do("GET", target, nil))
}

// http2s makes so many connections, and gives each to f in a goroutine.
func (w *world) http2s(n int, ping time.Duration, f func(i int, m *multiplexed)) {
	for i := range n {
		w.clients.Go(func() {
			m, err := w.http2(clientIP(i), ping)
			if err != nil {
				w.record("an HTTP/2 connection", time.Now(), err)
				return
			}
			defer m.conn.Close()
			f(i, m)
		})
	}
}

// trickle is a body that is written in pieces.
type trickle struct {
	pieces, size int
	pause        time.Duration
	left         int
}

// upload is a body of so many pieces, with a pause before each.
func upload(pieces, size int, pause time.Duration) *trickle {
	return &trickle{pieces: pieces, size: size, pause: pause}
}

func (t *trickle) Read(b []byte) (int, error) {
	if t.left == 0 {
		if t.pieces == 0 {
			return 0, io.EOF
		}
		time.Sleep(t.pause)
		t.pieces--
		t.left = t.size
	}
	n := min(len(b), t.left)
	t.left -= n
	return n, nil
}

// stream is the path of an answer in pieces.
func stream(length, every, most time.Duration, size int) string {
	return fmt.Sprintf("/stream?ms=%d&every=%d&most=%d&size=%d",
		length.Milliseconds(), every.Milliseconds(), most.Milliseconds(), size)
}
