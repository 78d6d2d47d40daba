package health

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// port accepts connections, one request each.
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
