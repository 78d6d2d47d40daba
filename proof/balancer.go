package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// balancer stands between the clients and the replicas. stopping and ready are
// what an orchestrator tells it, as controllers of an ingress do. A replica must
// not start again before what stopping returns is closed: the balancer has heard
// of the stop then.
type balancer interface {
	start(ctx context.Context) error
	pick() string                                        // where the next connection goes
	stopping(ctx context.Context, i int) <-chan struct{} // replica i is about to be stopped
	ready(i int)                                         // replica i is back
	settled(i int) bool                                  // replica i gets requests
	stop()
}

// plan says which balancer a cell has.
type plan struct {
	name  string
	delay time.Duration // from the begin of a stop until it has an effect
}

func (p plan) String() string {
	switch p.name {
	case "follow":
		return fmt.Sprintf("follows after %s", p.delay)
	case "haproxy":
		return fmt.Sprintf("HAProxy, told after %s", p.delay)
	case "haproxy-checks":
		return "HAProxy, checks only"
	case "nginx":
		return fmt.Sprintf("nginx, reloaded after %s", p.delay)
	}
	return p.name
}

// backends are what a balancer has to know of the replicas.
type backends struct {
	ips       []string
	port, rpc int    // rpc is 0 without gRPC
	check     int    // the port that is asked for health
	path      string // what is asked for; "" if it does not speak HTTP
	fcgi      bool   // it speaks FastCGI
	dir       string // for configuration
	listen    int    // two ports of loopback: this and the next
}

func (p plan) build(b backends) balancer {
	switch p.name {
	case "haproxy":
		return &haproxy{backends: b, told: true, delay: p.delay}
	case "haproxy-checks":
		return &haproxy{backends: b}
	case "nginx":
		return &nginx{backends: b, delay: p.delay, out: make([]bool, len(b.ips))}
	}
	return &follow{backends: b, delay: p.delay, out: make([]bool, len(b.ips))}
}

// follow gives every connection to the next replica in turn, itself, and leaves
// connections alone that exist, as kube-proxy does. A replica that is about to
// be stopped gets connections for delay more.
type follow struct {
	backends
	delay time.Duration

	mu      sync.Mutex
	out     []bool
	turn    int
	changed func(addrs []string) // told of the gRPC addresses that are in
}

func (f *follow) start(context.Context) error { return nil }
func (f *follow) stop()                       {}

func (f *follow) pick() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range f.ips {
		f.turn = (f.turn + 1) % len(f.ips)
		if !f.out[f.turn] {
			return fmt.Sprintf("%s:%d", f.ips[f.turn], f.port)
		}
	}
	return ""
}

func (f *follow) set(i int, out bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out[i] = out
	if f.changed != nil {
		f.changed(f.rpcAddrs())
	}
}

func (f *follow) rpcAddrs() (addrs []string) {
	for i, ip := range f.ips {
		if !f.out[i] {
			addrs = append(addrs, fmt.Sprintf("%s:%d", ip, f.rpc))
		}
	}
	return addrs
}

func (f *follow) stopping(ctx context.Context, i int) <-chan struct{} {
	return after(ctx, f.delay, func() { f.set(i, true) })
}
func (f *follow) ready(i int)      { f.set(i, false) }
func (f *follow) settled(int) bool { return true }

// after does something later, unless ctx ends before, and then closes what it
// returns.
func after(ctx context.Context, d time.Duration, do func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-time.After(d):
			do()
		case <-ctx.Done():
		}
	}()
	return done
}

// proxy is a balancer that is a program.
type proxy struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

func (p *proxy) run(ctx context.Context, addr string, argv ...string) error {
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	for range 100 {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.stop()
	return fmt.Errorf("%s does not listen: %s", argv[0], p.out.Bytes())
}

func (p *proxy) stop() {
	if p.cmd != nil && p.cmd.Process != nil {
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		p.cmd.Wait()
	}
}

// haproxy checks health every second, twice before it believes in a failure.
// If told is set, a replica about to be stopped is drained over the admin
// socket after delay, as an ingress controller does.
type haproxy struct {
	backends
	proxy
	told  bool
	delay time.Duration
}

func (h *haproxy) addr() string   { return fmt.Sprintf("127.0.0.1:%d", h.listen) }
func (h *haproxy) pick() string   { return h.addr() }
func (h *haproxy) socket() string { return filepath.Join(h.dir, "haproxy.sock") }

func (h *haproxy) start(ctx context.Context) error {
	var c strings.Builder
	fmt.Fprintf(&c, `global
  stats socket %s level admin
  maxconn 2000
defaults
  mode http
  retries 0
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
  timeout check 1s
`, h.socket())
	fmt.Fprintf(&c, "listen http\n  bind %s\n  balance roundrobin\n  option httpchk GET %s\n", h.addr(), h.path)
	for i, ip := range h.ips {
		fmt.Fprintf(&c, "  server r%d %s:%d check inter 1s fall 2 rise 1 port %d\n", i, ip, h.port, h.check)
	}
	if h.rpc != 0 {
		fmt.Fprintf(&c, "listen grpc\n  bind 127.0.0.1:%d proto h2\n  balance roundrobin\n", h.listen+1)
		for i, ip := range h.ips {
			fmt.Fprintf(&c, "  server r%d %s:%d proto h2 track http/r%d\n", i, ip, h.rpc, i)
		}
	}
	path := filepath.Join(h.dir, "haproxy.cfg")
	if err := os.WriteFile(path, []byte(c.String()), 0o644); err != nil {
		return err
	}
	return h.run(ctx, h.addr(), "haproxy", "-db", "-f", path)
}

func (h *haproxy) sections() []string {
	if h.rpc != 0 {
		return []string{"http", "grpc"}
	}
	return []string{"http"}
}

func (h *haproxy) ask(command string) string {
	c, err := net.Dial("unix", h.socket())
	if err != nil {
		return ""
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	fmt.Fprintln(c, command)
	var answer bytes.Buffer
	answer.ReadFrom(c)
	return answer.String()
}

func (h *haproxy) state(i int, state string) {
	for _, s := range h.sections() {
		h.ask(fmt.Sprintf("set server %s/r%d state %s", s, i, state))
	}
}

func (h *haproxy) stopping(ctx context.Context, i int) <-chan struct{} {
	return after(ctx, h.delay, func() {
		if h.told {
			h.state(i, "drain")
		}
	})
}

func (h *haproxy) ready(i int) {
	if h.told {
		h.state(i, "ready")
	}
}

func (h *haproxy) settled(i int) bool {
	up := 0
	for line := range strings.Lines(h.ask("show stat")) {
		f := strings.Split(line, ",")
		if len(f) > 17 && f[1] == fmt.Sprintf("r%d", i) && strings.HasPrefix(f[17], "UP") {
			up++
		}
	}
	return up == len(h.sections())
}

// nginx keeps a pool of connections to the replicas, but to those of FastCGI, and
// is reloaded with a configuration of those that are in, as ingress controllers
// do.
type nginx struct {
	backends
	proxy
	delay time.Duration

	mu  sync.Mutex
	out []bool
}

func (n *nginx) addr() string     { return fmt.Sprintf("127.0.0.1:%d", n.listen) }
func (n *nginx) pick() string     { return n.addr() }
func (n *nginx) settled(int) bool { return true }

func (n *nginx) start(ctx context.Context) error {
	if err := n.write(); err != nil {
		return err
	}
	return n.run(ctx, n.addr(), "nginx", "-p", n.dir, "-c", n.config(), "-e", "stderr")
}

func (n *nginx) config() string { return filepath.Join(n.dir, "nginx.conf") }

func (n *nginx) write() error {
	var servers strings.Builder
	for i, ip := range n.ips {
		if !n.out[i] {
			fmt.Fprintf(&servers, "    server %s:%d max_fails=0;\n", ip, n.port)
		}
	}
	pool, pass := "keepalive 32;", "proxy_pass http://replicas; proxy_buffering off;"
	if n.fcgi {
		// PHP-FPM closes each connection after its answer, as most are set up.
		// nginx would sometimes take one from a pool in that moment.
		pool, pass = "", fcgi
	}
	return os.WriteFile(n.config(), fmt.Appendf(nil, `daemon off;
worker_processes 1;
pid %s/nginx.pid;
error_log stderr error;
events { worker_connections 2000; }
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  upstream replicas {
%[2]s    %[5]s
  }
  server {
    listen 127.0.0.1:%[3]d;
    location / {
      %[4]s
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_next_upstream off;
    }
  }
}
`, n.dir, servers.String(), n.listen, pass, pool), 0o644)
}

const fcgi = `fastcgi_pass replicas; fastcgi_buffering off; fastcgi_next_upstream off; fastcgi_keep_conn off;
      fastcgi_param SCRIPT_FILENAME /app/app.php; fastcgi_param SCRIPT_NAME $uri;
      fastcgi_param QUERY_STRING $query_string; fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type; fastcgi_param CONTENT_LENGTH $content_length;`

func (n *nginx) set(i int, out bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.out[i] = out
	if n.write() == nil {
		n.cmd.Process.Signal(syscall.SIGHUP)
	}
}

func (n *nginx) stopping(ctx context.Context, i int) <-chan struct{} {
	return after(ctx, n.delay, func() { n.set(i, true) })
}

func (n *nginx) ready(i int) {
	n.set(i, false)
	time.Sleep(300 * time.Millisecond) // the reload itself
}
