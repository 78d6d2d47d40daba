package main

import "slices"

// server is something to restart. Its row in the README's table says which
// value of DRAIN_UNTIL is right for it.
type server struct {
	name     string
	about    string // what its stop signal does
	argv     []string
	env      []string
	drainit  []string // what drainit's environment has besides DRAIN_UNTIL
	user     string
	mount    []string
	signal   string   // the stop signal that its users set
	kinds    []string // what it can be asked
	until    string   // the value that the README recommends
	port     int
	rpc      int
	path     string // of a quick answer; "" if it does not speak HTTP
	want     string // how answers end
	get      bool   // it serves files, which can't be POSTed to
	fcgi     bool   // it speaks FastCGI
	jobs     bool   // it listens on nothing: its jobs are counted by what it prints
	behind   []spec // what has to run behind it, and is not restarted
	database database
	remains  string // what is lost all the same, and why
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

const (
	dies     = "dies"
	finishes = "finishes requests"
)

var (
	uvicorn     = []string{"python3", "-m", "uvicorn", "asgi:app", "--host", "0.0.0.0", "--port", "8080", "--timeout-keep-alive", "75", "--log-level", "critical"}
	celery      = []string{"celery", "-A", "tasks", "worker", "--without-gossip", "--without-mingle", "--loglevel", "error"}
	redisServer = []string{"redis-server", "--port", "8080", "--save", "", "--protected-mode", "no", "--loglevel", "warning"}
	gunicorn    = []string{"python3", "-m", "gunicorn", "-b", "0.0.0.0:8080", "--keep-alive", "75", "--log-level", "critical"}
	java        = []string{"java", "-Dsun.net.httpserver.idleInterval=75", "-XX:TieredStopAtLevel=1", "-Xmx96m", "-cp"}
	tomcat      = "/classes:/usr/share/java/tomcat10-embed-core.jar:/usr/share/java/tomcat10-embed-jasper.jar:/usr/share/java/*"
)

// Servers keep an idle connection for longer than the balancers do. Otherwise
// they would close some in the moment in which a balancer uses them, and lose
// requests without any restart. The manual of each balancer asks for that.

// servers are in the order of the report. The first three have sections of
// their own.
var servers = []server{
	httpServer("Go", "idle", "/server", "-grpc", ":9090").serves(8080, 9090).
		describe(dies).asked(with(web, "socket", "unary", "rpcs")),
	// Its pings tell a WebSocket that is silent from a connection of a pool.
	httpServer("FastAPI on uvicorn", "closed", with(uvicorn, "--ws-ping-interval", "5")...).configure("DRAINIT_CLOSED_IDLE=7s").
		describe("finishes requests and closes WebSockets").asked(with(web, "socket")),
	plainGo,

	// None of its calls is silent for as long as a second.
	httpServer("Go, the silence of calls known", "idle", "/server", "-grpc", ":9090").serves(8080, 9090).configure("DRAINIT_STREAM_PAUSE=3s").
		describe(dies).asked(with(web, "socket", "unary", "rpcs")),
	httpServer("uvicorn", "quiet", uvicorn...).describe(finishes),
	httpServer("uvicorn --workers 2", "quiet", with(uvicorn, "--workers", "2")...).describe("finishes requests, resets what waits to be accepted"),
	httpServer("gunicorn, uvicorn workers", "quiet", with(gunicorn, "-w", "2", "-k", "uvicorn.workers.UvicornWorker", "asgi:app")...).
		describe("finishes requests, resets what waits to be accepted"),
	httpServer("gunicorn --threads", "quiet", with(gunicorn, "-w", "1", "--threads", "32", "wsgi:app")...).
		describe("finishes requests, resets what waits to be accepted"),
	httpServer("hypercorn", "idle", "python3", "-m", "hypercorn", "asgi:app", "--bind", "0.0.0.0:8080", "--keep-alive", "75", "--log-level", "critical").
		describe("drops requests after 3 s, and resets what waits to be accepted"),
	httpServer("node", "idle", "node", "node.js").describe(dies),
	httpServer("node, WebSockets", "closed", "node", "node.js").configure("DRAINIT_CLOSED_IDLE=7s").describe(dies).asked([]string{"fresh", "socket"}),
	httpServer("node, server.close()", "quiet", "node", "node.js").set("HANDLER=1").describe(finishes),
	httpServer("npm start", "idle", "npm", "start", "--silent").set("npm_config_update_notifier=false", "npm_config_cache=/tmp").
		configure("DRAINIT_SIGNAL_SCOPE=group").describe("passes it on to node, which dies"),
	httpServer("Go, Shutdown", "quiet", "/server", "-on-term", "graceful").describe(finishes),
	httpServer("grpc-go, GracefulStop", "quiet", "/server", "-grpc", ":9090", "-on-term", "graceful").serves(8080, 9090).
		describe("finishes calls").asked([]string{"unary", "rpcs"}),
	httpServer("Java HttpServer", "idle", with(java, "/classes", "HttpApp")...).mounts("/etc/java-17-openjdk:/etc/java-17-openjdk:ro").describe(dies),
	httpServer("Tomcat, embedded", "idle", with(java, tomcat, "TomcatApp")...).mounts("/etc/java-17-openjdk:/etc/java-17-openjdk:ro").describe(dies),
	httpServer("Puma", "quiet", "puma", "-q", "-b", "tcp://0.0.0.0:8080", "-t", "32:32", "config.ru").describe(finishes),
	httpServer("nginx", "quiet", "nginx", "-c", "/app/nginx.conf", "-e", "stderr").told("SIGQUIT").files().describe(finishes),
	httpServer("Apache httpd", "quiet", "apache2", "-D", "FOREGROUND", "-f", "/app/apache.conf").told("SIGWINCH").files().describe(finishes),
	httpServer("PHP-FPM behind nginx", "quiet", "php-fpm8.2", "-F", "-n", "-y", "/app/fpm.conf").told("SIGQUIT").fastCGI().
		asked([]string{"fresh", "slow", "stream"}).describe(finishes),
	httpServer("HAProxy", "quiet", "haproxy", "-db", "-f", "/app/haproxy.cfg").told("SIGUSR1").needs(spec{argv: []string{"/server"}}).describe(finishes),
	httpServer("Redis", "closed", redisServer...).configure("DRAINIT_CLOSED_IDLE=10s").
		speaks(redis{}).describe("cuts sessions"),
	httpServer("PostgreSQL", "closed", "sh", "-c", startPostgres).told("SIGINT").as("1000").
		speaks(postgres{}).describe("cuts sessions"),
	httpServer("Celery", "window", with(celery, "-c", "3")...).works().describe("finishes jobs").
		needs(spec{argv: redisServer}, spec{argv: []string{"python3", "tasks.py", "produce"}}),
	httpServer("a worker", "window", "/server", "-work", "-on-term", "graceful").works().describe("finishes its job"),
	httpServer("a worker that dies", "window", "/server", "-work").works().describe(dies).
		loses("The job that it was at: only the worker itself can finish that; there is nothing outside of it to wait for."),
}

// plainGo is the first without gRPC. For the table of balancers, requests has no
// WebSockets either, and channels has nothing but gRPC.
var (
	requests = httpServer("Go, requests", "idle", "/server").describe(dies)
	plainGo  = httpServer("Go, HTTP", "idle", "/server").describe(dies).asked(with(web, "socket"))
	channels = httpServer("Go, gRPC clients", "idle", "/server", "-grpc", ":9090").serves(8080, 9090).describe(dies).asked([]string{"unary", "rpcs"})
)

const startPostgres = `export PATH=$PATH:/usr/lib/postgresql/15/bin PGDATA=/tmp/pg
[ -d $PGDATA ] || { initdb --no-sync -A trust >/dev/null && echo 'host all all all trust' >>$PGDATA/pg_hba.conf; }
exec postgres -D $PGDATA -p 8080 -h 0.0.0.0 -k /tmp -F`

// files marks a server of files: it wants GET, and its answers end as they may.
func (s server) files() server { s.get, s.want = true, ""; return s }

// fastCGI marks one that a web server has to be in front of.
func (s server) fastCGI() server { s.fcgi, s.port, s.path = true, 9000, ""; return s }

// needs adds what has to run behind it. BACK is the address of the first.
func (s server) needs(behind ...spec) server { s.behind = behind; return s }

// works marks a worker.
func (s server) works() server {
	s.jobs, s.path, s.kinds = true, "", []string{"job"}
	return s.configure("DRAINIT_READY_CHECK=started")
}

func (s server) speaks(d database) server {
	s.database, s.path, s.kinds = d, "", []string{"command", "session"}
	return s
}

func (s server) as(user string) server { s.user = user; return s }

func serverNamed(name string) server {
	i := slices.IndexFunc(servers, func(s server) bool { return s.name == name })
	if i < 0 {
		panic("no server " + name)
	}
	return servers[i]
}
