package integration_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stopUnderLoad stops a server while a slow request is in flight and new ones
// arrive all the time, and checks that none fails during the window.
type stopUnderLoad struct {
	quick  string // URL of a quick answer
	slow   func() (*http.Request, error)
	took   time.Duration // by the slow answer
	ready  string        // drainit's URL
	window time.Duration
	stop   func() // sends the stop signal
	log    *lines
}

func (l stopUnderLoad) run(t *testing.T) {
	t.Helper()
	answers(t, l.quick, 200)
	answers(t, l.ready+"/readyz", 200)

	slow := make(chan string, 1)
	began := time.Now()
	go func() {
		r, err := l.slow()
		if err != nil {
			slow <- err.Error()
			return
		}
		answer, err := probeClient.Do(r)
		if err != nil {
			slow <- err.Error()
			return
		}
		defer answer.Body.Close()
		if _, err = io.ReadAll(answer.Body); err != nil || answer.StatusCode != 200 {
			slow <- fmt.Sprint(answer.Status, err)
			return
		}
		slow <- ""
	}()

	type request struct {
		at, end time.Time
		code    int
		text    string
	}
	var mu sync.Mutex
	var requests, probes []request
	done := make(chan struct{})
	var workers sync.WaitGroup
	traffic := func(url string, to *[]request, every time.Duration) {
		for {
			at := time.Now()
			code, text := get(url)
			end := time.Now()
			mu.Lock()
			*to = append(*to, request{at, end, code, text})
			mu.Unlock()
			select {
			case <-done:
				return
			case <-time.After(every):
			}
		}
	}
	workers.Go(func() { traffic(l.quick, &requests, 10*time.Millisecond) })
	workers.Go(func() { traffic(l.quick, &requests, 10*time.Millisecond) })
	workers.Go(func() { traffic(l.ready+"/readyz", &probes, 10*time.Millisecond) })
	eventually(t, "traffic", func() bool { mu.Lock(); defer mu.Unlock(); return len(requests) > 10 })

	before := time.Now()
	l.stop()
	asked := time.Now()
	forwarded := l.log.wait(t, "stop signal forwarded")
	close(done)
	workers.Wait()
	about(t, "forwarded", duration(t, forwarded, "after"), l.window)

	in := 0
	for _, r := range requests {
		// A request not answered by the end of the window may fail when the
		// server closes; drainit can't prevent that.
		if r.end.After(before.Add(l.window)) {
			continue
		}
		if r.at.After(before) {
			in++
		}
		if r.code != 200 {
			t.Errorf("a request %s after the stop signal: %d %s", r.at.Sub(asked), r.code, r.text)
		}
	}
	if in < 10 {
		t.Errorf("only %d requests came through the window", in)
	}
	seen := 0
	for _, r := range probes {
		// Time for the signal to arrive on a busy machine.
		if r.at.After(asked.Add(250*time.Millisecond)) && r.end.Before(before.Add(l.window)) {
			seen++
			if r.code != 503 {
				t.Errorf("/readyz %s after the stop signal: %d %s", r.at.Sub(asked), r.code, r.text)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d probes through the window", seen)
	}
	if wrong := <-slow; wrong != "" {
		t.Errorf("the slow request: %s", wrong)
	} else if d := time.Since(began); d < l.took {
		t.Errorf("the slow request took %s, less than %s", d, l.took)
	}
	t.Logf("%d requests and %d probes through the window, all as they should be", in, seen)
}

// uvicorn returns the command that serves a copy of examples/fastapi on port. A
// copy, since Python must not leave its caches in the repository.
func uvicorn(t *testing.T, host string, port int) []string {
	t.Helper()
	python := program(t, "/usr/bin/python3", "python3")
	if out, err := exec.Command(python, "-c", "import fastapi, uvicorn").CombinedOutput(); err != nil {
		missing(t, true, "no FastAPI: apt-get install python3-fastapi python3-uvicorn: %s", out)
	}
	return []string{python, "-B", "-m", "uvicorn", "--host", host, "--port", fmt.Sprint(port), "main:app"}
}

func example(t *testing.T, path string) string {
	t.Helper()
	full, err := filepath.Abs(filepath.Join("..", "examples", path))
	if err == nil {
		_, err = os.Stat(full)
	}
	if err != nil {
		t.Skip(err)
	}
	return full
}

func TestFastAPIUnderUvicorn(t *testing.T) {
	t.Parallel()
	app := example(t, "fastapi")
	port := freePort(t)
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	env, ready := healthPort(t)
	command := append([]string{"--"}, uvicorn(t, "127.0.0.1", port)...)
	p := start(t, setup{dir: app, env: []string{env, "GRACE_PERIOD=25s", "DRAIN_WINDOW=2s", "READY_CHECK=" + url + "/healthz"}}, command...)
	stopUnderLoad{
		quick: url + "/healthz",
		slow:  func() (*http.Request, error) { return http.NewRequest("POST", url+"/process-data", nil) },
		took:  5 * time.Second, ready: ready, window: 2 * time.Second, log: p.err,
		stop: func() { p.signal(unix.SIGTERM) },
	}.run(t)
	finished := time.Now()
	// uvicorn exits with 0; newer versions die of the signal that stopped them.
	if code := p.wait(); code != 0 && code != 143 {
		t.Errorf("exit code %d: %s", code, p.err.tail())
	}
	if d := p.ended.Sub(finished); d > 3*time.Second {
		t.Errorf("ended %s after the last request", d)
	}
	if got := attribute(t, p.logs(`drainit: stopped"`), "code"); got != fmt.Sprint(p.code) {
		t.Errorf("the summary says code %s, it is %d", got, p.code)
	}
}

func TestNginxFinishesOnSIGQUIT(t *testing.T) {
	t.Parallel()
	nginx := program(t, "/usr/sbin/nginx", "nginx-light")
	port, backend := freePort(t), freePort(t)
	b := start(t, setup{direct: true, shell: []string{testchild, "http", fmt.Sprintf("127.0.0.1:%d", backend)}})
	defer b.kill()
	answers(t, fmt.Sprintf("http://127.0.0.1:%d/", backend), 200)
	dir := t.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, `daemon off; master_process on; worker_processes 2;
pid %[1]s/pid; error_log stderr;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	server {
		listen 127.0.0.1:%[2]d;
		location / { return 200 "hello\n"; }
		location /slow { proxy_pass http://127.0.0.1:%[3]d; }
	}
}`, dir, port, backend), 0o644); err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	env, ready := healthPort(t)
	p := start(t, setup{env: []string{env, "GRACE_PERIOD=20s", "DRAIN_WINDOW=1s", "STOP_SIGNAL=SIGQUIT", "READY_CHECK=" + url + "/"}},
		"--", nginx, "-e", "stderr", "-c", config)
	stopUnderLoad{
		quick: url + "/",
		slow:  func() (*http.Request, error) { return http.NewRequest("GET", url+"/slow?for=3s", nil) },
		took:  3 * time.Second, ready: ready, window: time.Second, log: p.err,
		stop: func() { p.signal(unix.SIGTERM) },
	}.run(t)
	p.exits(0)
	if sent := attribute(t, p.logs(`drainit: stopped"`), "sent"); sent != "SIGQUIT" {
		t.Errorf("nginx was sent %s", sent)
	}
}

func TestTheExampleServer(t *testing.T) {
	t.Parallel()
	source := example(t, "server")
	server := filepath.Join(t.TempDir(), "server")
	c := exec.Command("go", "build", "-o", server, source)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for _, tt := range []struct {
		onTerm string
		took   time.Duration
		code   int
	}{
		{"die", 1500 * time.Millisecond, 143}, // in flight at t0, and done in the window
		{"graceful", 4 * time.Second, 0},
	} {
		for _, path := range []string{"/slow", "/stream"} {
			t.Run(tt.onTerm+path, func(t *testing.T) {
				t.Parallel()
				addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
				env, ready := healthPort(t)
				p := start(t, setup{env: []string{env, "GRACE_PERIOD=20s", "DRAIN_WINDOW=2s", "READY_CHECK=tcp://" + addr}}, "--", server, "-addr", addr, "-on-term", tt.onTerm)
				stopUnderLoad{
					quick: "http://" + addr + "/",
					slow: func() (*http.Request, error) {
						return http.NewRequest("GET", fmt.Sprintf("http://%s%s?ms=%d", addr, path, tt.took.Milliseconds()), nil)
					},
					took: tt.took, ready: ready, window: 2 * time.Second, log: p.err,
					stop: func() { p.signal(unix.SIGTERM) },
				}.run(t)
				p.exits(tt.code)
			})
		}
	}
}

func TestFewFileDescriptorsDoNotHoldUpAStop(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := start(t, setup{shell: []string{"/bin/sh", "-c", fmt.Sprintf("ulimit -n 24; exec %s -- %s signals -exit 15:3", drainit, testchild)},
		env: append(quick, fmt.Sprintf("HEALTH_ADDR=127.0.0.1:%d", port))})
	p.says("ready")
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	answers(t, "http://"+addr+"/readyz", 200)
	for range 60 { // more silent connections than it can hold
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			defer c.Close()
		}
	}
	p.signal(unix.SIGTERM)
	p.exits(3)
	if strings.Contains(p.err.String(), "panic") {
		t.Error(p.err)
	}
}
