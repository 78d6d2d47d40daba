package health

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// port accepts connections, one request each. It reads and writes them with
// net/http's own parser and types, but without its Server: that one brings
// TLS, keep-alive and pools, none of which a probe has a use for, and with
// them 1.3 MB of binary and 0.3 MB of memory (measured) to every container.
//
// At most maxConnections are open. Who comes then takes the place of the oldest
// of them, so that silent connections can't keep probes from being answered.
type port struct {
	net.Listener
	slots    chan struct{}
	accepted atomic.Uint64

	mu     sync.Mutex
	open   map[net.Conn]time.Time // since when
	closed bool
}

// serve hands each connection to answer until close, and then returns nil.
func (p *port) serve(answer func(net.Conn)) error {
	for pause := time.Duration(0); ; {
		c, err := p.Accept()
		if err == nil {
			select {
			case p.slots <- struct{}{}:
			default:
				p.evict()
				p.slots <- struct{}{}
			}
			if !p.add(c) {
				c.Close()
				<-p.slots
				err = net.ErrClosed
			}
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Descriptors or memory are used up, or the client has left: it
			// passes. A second is the most that a probe may be late for it.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
			continue
		}
		pause = 0
		go func() { // ends with the deadline of the connection, or with close
			defer func() {
				recover() // a bug costs one probe
				p.remove(c)
				<-p.slots
			}()
			c.SetDeadline(time.Now().Add(readTimeout))
			answer(c)
		}()
	}
}

func (p *port) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.accepted.Add(1)
	p.open[c] = time.Now()
	return true
}

// evict closes the connection that has been open the longest; its goroutine
// then gives up the place.
func (p *port) evict() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var oldest net.Conn
	for c, since := range p.open {
		if oldest == nil || since.Before(p.open[oldest]) {
			oldest = c
		}
	}
	if oldest != nil {
		oldest.Close()
		delete(p.open, oldest)
	}
}

func (p *port) remove(c net.Conn) {
	p.mu.Lock()
	delete(p.open, c)
	p.mu.Unlock()
	c.Close()
}

// close ends serve and every connection.
func (p *port) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for c := range p.open {
		c.Close()
	}
	return p.Listener.Close()
}

// exchange reads one request and has h answer it. The client has readTimeout for
// all of it, which the caller has set, and maxHeader bytes.
func exchange(c net.Conn, h http.Handler) {
	limited := &io.LimitedReader{R: c, N: maxHeader}
	in := bufio.NewReaderSize(limited, 512)
	r, err := http.ReadRequest(in)
	w := &response{header: make(http.Header), code: http.StatusOK}
	switch {
	case err == nil && r.Host == "" && r.ProtoAtLeast(1, 1):
		w.refuse(http.StatusBadRequest, "the request names no Host\n")
	case err == nil && r.ProtoMajor != 1:
		w.refuse(http.StatusHTTPVersionNotSupported, "HTTP/1.1 is spoken here\n")
	case err == nil:
		h.ServeHTTP(w, r)
	case errors.Is(err, io.EOF) && limited.N == maxHeader:
		return // it connected and left: a tcpSocket probe
	case limited.N <= 0:
		w.refuse(http.StatusRequestHeaderFieldsTooLarge, "the request's head is too large\n")
	default:
		w.refuse(http.StatusBadRequest, "this is no HTTP request\n")
	}
	if w.send(c) == nil && (err != nil || r.ContentLength != 0 || in.Buffered() > 0) {
		linger(c)
	}
}

// linger lets the client read its answer: closing with bytes of its unread
// would reset the connection, and the answer might be lost.
func linger(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.CloseWrite()
		t.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		io.CopyN(io.Discard, t, 256<<10)
	}
}

// response collects an answer, to be sent in one piece.
type response struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (w *response) Header() http.Header         { return w.header }
func (w *response) WriteHeader(code int)        { w.code = code }
func (w *response) Write(b []byte) (int, error) { return w.body.Write(b) }

func (w *response) refuse(code int, why string) {
	w.code = code
	w.header.Set("Content-Type", plain)
	w.header.Set("Cache-Control", "no-store")
	w.header.Set("Content-Length", fmt.Sprint(len(why)))
	w.body.WriteString(why)
}

func (w *response) send(c io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", w.code, http.StatusText(w.code))
	w.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	w.header.Set("Connection", "close")
	w.header.Write(&b)
	b.WriteString("\r\n")
	b.Write(w.body.Bytes())
	_, err := c.Write(b.Bytes())
	return err
}
