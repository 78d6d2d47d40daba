package health

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drainit/drainit/internal/bug"
)

// Limits of the port. Probes are small and quick; whoever is not is cut off
// long before it could cost the container anything.
const (
	maxConnections = 64
	maxHeader      = 4 << 10
	readTimeout    = 5 * time.Second
	statusTimeout  = 2 * time.Second
)

// paths are the ones that count and are counted.
var paths = []string{"/readyz", "/healthz", "/readiness", "/livez", "/startupz", "/statusz", "/metrics"}

// Options configure a Server.
type Options struct {
	// Addr is the host:port to bind; the host is optional.
	Addr string
	// Gate holds the answer to the probes.
	Gate *Gate
	// Status returns everything the loop knows. It may be nil, and may fail
	// if ctx ends first.
	Status func(ctx context.Context) (Status, error)
	// Probed, if set, is called for each request. It must not block.
	Probed func()
	// Log receives internal errors. It may be nil.
	Log *slog.Logger
}

// Server answers probes on one port. Create it with Listen.
type Server struct {
	Options

	port   *port
	number uint16
	mu     sync.Mutex
	probes []probeCount
}

// Listen binds o.Addr. Nothing is answered before Serve.
func Listen(o Options) (*Server, error) {
	// No TCP keep-alive: connections here live for one request.
	config := net.ListenConfig{KeepAlive: -1}
	ln, err := config.Listen(context.Background(), "tcp", o.Addr)
	if err != nil {
		return nil, err
	}
	number := ln.Addr().(*net.TCPAddr).Port
	p, err := newPort(ln.(*net.TCPListener))
	return &Server{Options: o, port: p, number: uint16(number)}, err
}

// Serve answers until Close. It returns nil after Close.
func (s *Server) Serve() error {
	return s.port.serve(func(c *conn) {
		defer s.logPanic()
		exchange(c, s.answer)
	})
}

// logPanic recovers and logs a panic, so that a bug costs one probe.
func (s *Server) logPanic() {
	if p := recover(); p != nil && s.Log != nil {
		bug.Report(s.Log, "health", p)
	}
}

// Close stops answering, at once.
func (s *Server) Close() error { return s.port.close() }

// Port is the port that was bound.
func (s *Server) Port() uint16 { return s.number }

// Accepted is how many connections came to this port so far.
func (s *Server) Accepted() uint64 { return s.port.accepted.Load() }

// answer answers one request.
func (s *Server) answer(q request) response {
	if s.Probed != nil {
		s.Probed()
	}
	r := s.reply(q)
	if slices.Contains(paths, q.path) {
		s.count(q.path, r.code)
	}
	return r
}

const plain = "text/plain; charset=utf-8"

func (s *Server) reply(q request) response {
	if q.method != "GET" && q.method != "HEAD" {
		return response{405, plain, []byte("only GET and HEAD are answered here\n")}
	}
	a := s.Gate.Get()
	switch q.path {
	case "/readyz", "/healthz", "/readiness":
		return verdict(a.Ready, a.Reason)
	case "/livez":
		if a.NotAlive == "" {
			return verdict(true, "alive")
		}
		return verdict(false, a.NotAlive)
	case "/startupz":
		return verdict(a.Started, a.Reason)
	case "/statusz", "/metrics":
		return s.report(q.path)
	}
	return response{404, plain, []byte("no such path; there are " + strings.Join(paths, " ") + "\n")}
}

func verdict(ok bool, reason string) response {
	if ok {
		return response{200, plain, []byte(reason + "\n")}
	}
	return response{503, plain, []byte(reason + "\n")}
}

// report answers with everything there is to tell, as JSON or as metrics.
func (s *Server) report(path string) response {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	status := Status{Phase: "unknown"}
	if s.Status != nil {
		if got, err := s.Status(ctx); err == nil {
			status = got
		}
	}
	var b bytes.Buffer
	if path == "/metrics" {
		status.metrics(&b, s.counts())
		return response{200, "text/plain; version=0.0.4; charset=utf-8", b.Bytes()}
	}
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.Encode(status)
	return response{200, "application/json", b.Bytes()}
}

func (s *Server) count(path string, code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.probes {
		if p := &s.probes[i]; p.path == path && p.code == code {
			p.n++
			return
		}
	}
	s.probes = append(s.probes, probeCount{path, code, 1})
}

func (s *Server) counts() []probeCount {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.probes)
}
