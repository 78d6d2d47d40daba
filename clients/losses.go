package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// What a loss is, and how long a client waits before it is one.

const (
	// patience is a client's.
	patience = 50 * time.Second
	// Connections to a server that is gone, and its network with it, end after
	// this: nothing else would tell the client.
	patienceAfter = 2 * time.Second
)

// end is told when the server has exited.
func (w *world) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.overAt = time.Now()
	close(w.over)
	w.serverNet.Close()
	for c := range w.conns {
		c.SetDeadline(w.overAt.Add(patienceAfter))
	}
}

// deadline gives a connection the patience of one request.
func (w *world) deadline(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.overAt.IsZero() {
		c.SetDeadline(time.Now().Add(patience))
		return
	}
	c.SetDeadline(time.Now().Add(patienceAfter))
}

// tracked is a connection that is ended with the server.
type tracked struct {
	net.Conn
	w *world
}

func (t *tracked) Close() error {
	t.w.mu.Lock()
	delete(t.w.conns, t.Conn)
	t.w.mu.Unlock()
	return t.Conn.Close()
}

// errRefused is the loss of a client that gets no connection.
type errRefused struct{ error }

// errStatus is an answer other than 200, as from a balancer that lost its
// server.
type errStatus int

func (e errStatus) Error() string { return fmt.Sprintf("status %d", int(e)) }

// errCut is the loss of the rest of an answer that had begun.
type errCut struct{ error }

// lossOf names a loss.
func lossOf(err error) string {
	var status errStatus
	switch {
	case errors.As(err, new(errRefused)):
		return "refused"
	case errors.As(err, &status):
		return err.Error()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.As(err, new(errCut)):
		return "cut"
	}
	return "reset"
}

// record takes the end of a request.
func (w *world) record(what string, began time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.total++
	if err == nil {
		return
	}
	kind := lossOf(err)
	w.lost[kind]++
	if len(w.losses) < 5 {
		w.losses = append(w.losses, fmt.Sprintf("%s asked %.1f s after the signal, %s %.1f s after it: %v",
			what, began.Sub(w.t0).Seconds(), kind, time.Since(w.t0).Seconds(), err))
	}
}
