package health

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drainit/drainit/internal/bug"
)

// statusTimeout bounds how long a report waits for the supervisor's loop.
const statusTimeout = 2 * time.Second

// methods are the methods that are answered. OPTIONS is answered like GET: it
// is what HAProxy's `option httpchk` sends unless told otherwise.
var methods = []string{"GET", "HEAD", "OPTIONS"}

// paths are the paths that are answered, and counted.
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
	config.SetMultipathTCP(false) // probes are plain TCP, and pay for the default
	ln, err := config.Listen(context.Background(), "tcp", o.Addr)
	if err != nil {
		return nil, err
	}
	number := ln.Addr().(*net.TCPAddr).Port
	p, err := newPort(ln.(*net.TCPListener))
	return &Server{Options: o, port: p, number: uint16(number)}, err
}

// Serve answers until Close. It returns nil after Close.
func (s *Server) Serve() error { return s.port.serve(s) }

// Close stops answering at once.
func (s *Server) Close() error { return s.port.close() }

// Port returns the port that was bound.
func (s *Server) Port() uint16 { return s.number }

// Accepted returns how many connections this port has accepted so far.
func (s *Server) Accepted() uint64 { return s.port.accepted.Load() }

// answer implements handler.
func (s *Server) answer(q request) response {
	if s.Probed != nil {
		s.Probed()
	}
	r := s.probe(q)
	if r.code != 0 {
		s.count(q.path, r.code)
	}
	return r
}

// probe returns the response to q; one of code 0 if it asks for a report.
func (s *Server) probe(q request) response {
	if !slices.Contains(methods, q.method) {
		return text(405, "method not allowed; use GET, HEAD or OPTIONS")
	}
	a := s.Gate.Get()
	switch q.path {
	case "/readyz", "/healthz", "/readiness":
		return probeResponse(a.Ready, a.Reason)
	case "/livez":
		if a.NotAlive == "" {
			return probeResponse(true, "alive")
		}
		return probeResponse(false, a.NotAlive)
	case "/startupz":
		return probeResponse(a.Started, a.Reason)
	case "/statusz", "/metrics":
		return response{}
	}
	return text(404, "no such path; the paths are "+strings.Join(paths, " "))
}

func probeResponse(ok bool, reason string) response {
	if ok {
		return text(200, reason)
	}
	return text(503, reason)
}

// report implements handler: it asks the supervisor's loop once, and returns a
// function that formats the answer.
func (s *Server) report() func(request) response {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	status := Status{Phase: "unknown"}
	if s.Status != nil {
		if got, err := s.Status(ctx); err == nil {
			status = got
		}
	}
	formats := map[string]func() response{
		"/statusz": sync.OnceValue(status.json),
		"/metrics": sync.OnceValue(func() response { return status.metrics(s.counts()) }),
	}
	return func(q request) response {
		r := formats[q.path]()
		s.count(q.path, r.code)
		return r
	}
}

// panicked implements handler: a bug costs one connection.
func (s *Server) panicked(p any) {
	if s.Log != nil {
		bug.Report(s.Log, "health", p)
	}
}

// count counts an answer. Paths that do not exist are not counted: anything can
// make them up, and each would be a time series.
func (s *Server) count(path string, code int) {
	if !slices.Contains(paths, path) {
		return
	}
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
