package main

import "slices"

// server is something to restart. Its row in the README's table says which
// value of DRAIN_UNTIL is right for it.
type server struct {
	name    string
	about   string // what its stop signal does
	argv    []string
	env     []string
	drainit []string // what drainit's environment has besides DRAIN_UNTIL
	user    string
	mount   []string
	signal  string   // the stop signal that its users set
	kinds   []string // what it can be asked
	until   string   // the value that the README recommends
	port    int
	rpc     int
	path    string // of a quick answer; "" if it does not speak HTTP
	want    string // how answers end
	get     bool   // it serves files, which can't be POSTed to
	remains string // what is lost all the same, and why
}

var web = []string{"fresh", "kept", "slow", "stream"}

func with(kinds []string, more ...string) []string { return append(slices.Clone(kinds), more...) }

// http returns a server with what most have in common.
func httpServer(name, until string, argv ...string) server {
	return server{name: name, argv: argv, signal: "SIGTERM", kinds: web, until: until, port: 8080, path: "/quick", want: "done"}
}

func (s server) describe(about string) server       { s.about = about; return s }
func (s server) asked(kinds []string) server        { s.kinds = kinds; return s }
func (s server) set(env ...string) server           { s.env = append(slices.Clone(s.env), env...); return s }
func (s server) configure(drainit ...string) server { s.drainit = drainit; return s }
func (s server) told(signal string) server          { s.signal = signal; return s }
func (s server) serves(port, rpc int) server        { s.port, s.rpc = port, rpc; return s }
func (s server) mounts(mount ...string) server {
	s.mount = append(slices.Clone(s.mount), mount...)
	return s
}
func (s server) loses(remains string) server { s.remains = remains; return s }

// servers are in the order of the report.
var servers = []server{
	httpServer("Go", "closed", "/server", "-grpc", ":9090").
		describe("dies on SIGTERM").asked(with(web, "socket", "unary", "rpcs")).serves(8080, 9090),
	httpServer("FastAPI on uvicorn", "closed", "python3", "-m", "uvicorn", "asgi:app", "--host", "0.0.0.0", "--port", "8080", "--log-level", "critical").
		describe("finishes requests, closes WebSockets").asked(with(web, "socket")),
}

func serverNamed(name string) server {
	i := slices.IndexFunc(servers, func(s server) bool { return s.name == name })
	if i < 0 {
		panic("no server " + name)
	}
	return servers[i]
}
