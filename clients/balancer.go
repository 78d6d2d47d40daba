package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Real balancers in front, with pools of kept connections. They run on the
// clients' side of the wire, and send to a replacement once they have moved on.

const (
	frontAddr   = "127.0.0.1:7000"
	replacement = "127.0.0.1:7001"
)

// replace starts the other server.
func replace() error {
	l, err := net.Listen("tcp", replacement)
	if err != nil {
		return err
	}
	go http.Serve(l, handler())
	return nil
}

// through sends the clients' connections to the front instead.
func (w *world) through() { w.addr = frontAddr }

// nginx is in front, keeps a pool of connections, and is reloaded when the
// balancer moves on.
func (w *world) nginx() {
	dir, err := os.MkdirTemp(w.Dir, "nginx")
	if err == nil {
		err = replace()
	}
	config := filepath.Join(dir, "nginx.conf")
	if err == nil {
		err = os.WriteFile(config, []byte(nginxConfig(dir, w.addr)), 0o644)
	}
	cmd := exec.Command("nginx", "-c", config)
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.record("nginx", time.Now(), err)
		return
	}
	go func() {
		<-w.moved
		os.WriteFile(config, []byte(nginxConfig(dir, replacement)), 0o644)
		cmd.Process.Signal(unix.SIGHUP)
	}()
	w.through()
	w.front()
}

func nginxConfig(dir, upstream string) string {
	bind := "proxy_bind " + balancerIP(0) + ";"
	if upstream == replacement {
		bind = ""
	}
	return fmt.Sprintf(`
daemon off;
user root;
worker_processes 2;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	upstream app { server %[2]s max_fails=0; keepalive 32; }
	server {
		listen %[3]s;
		location / {
			proxy_pass http://app;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_next_upstream off;
			%[4]s
		}
	}
}
`, dir, upstream, frontAddr, bind)
}

// haproxy is in front, keeps a pool, and checks readiness by itself. With h2
// set it speaks HTTP/2 to the server.
func (w *world) haproxy(inter time.Duration, fall int, h2 bool) {
	more := ""
	if h2 {
		more = "proto h2 check-proto h1"
	}
	err := replace()
	config := filepath.Join(w.Dir, fmt.Sprintf("haproxy%d.cfg", time.Now().UnixNano()))
	if err == nil {
		err = os.WriteFile(config, fmt.Appendf(nil, `
defaults
	mode http
	timeout connect 5s
	timeout client 60s
	timeout server 60s
	retries 0
	http-reuse always
listen front
	bind %s
	option httpchk GET /readyz
	server app %s source %s check port %d inter %dms fall %d rise 1 pool-purge-delay 60s %s
	server other %s backup
`, frontAddr, w.addr, balancerIP(1), healthPort, inter.Milliseconds(), fall, more, replacement), 0o644)
	}
	if err == nil {
		err = exec.Command("haproxy", "-q", "-db", "-f", config).Start()
	}
	if err != nil {
		w.record("haproxy", time.Now(), err)
		return
	}
	w.through()
	w.front()
}

// front waits until the balancer accepts.
func (w *world) front() {
	for range 100 {
		c, err := net.Dial("tcp", frontAddr)
		if err == nil {
			c.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}
