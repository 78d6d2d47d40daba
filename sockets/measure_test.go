package sockets

import (
	"bufio"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestMeasureInFlight compares what the judge says of each connection with what
// its client knows, in front of real servers. The constants in judge.go come
// from it. It takes minutes, and is run by
//
//	DRAINIT_MEASURE=1 go test -v -run Measure ./sockets/
func TestMeasureInFlight(t *testing.T) {
	if os.Getenv("DRAINIT_MEASURE") == "" {
		t.Skip("a measurement, not a test: DRAINIT_MEASURE is not set")
	}
	for _, server := range measuredServers {
		for _, think := range []time.Duration{0, 2 * time.Millisecond, 60 * time.Millisecond, 700 * time.Millisecond} {
			for _, every := range []time.Duration{pollEvery, hurryEvery} {
				t.Run(fmt.Sprintf("%s/think %v/poll %v", server.name, think, every), func(t *testing.T) {
					measure(t, server, think, every)
				})
			}
		}
	}
}

type measuredServer struct {
	name  string
	start func(t *testing.T, port string)
}

var measuredServers = []measuredServer{
	{"go", func(t *testing.T, port string) {
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				time.Sleep(400 * time.Millisecond)
			}
			if r.URL.Path == "/big" {
				w.Write(make([]byte, 200<<10))
				return
			}
			io.WriteString(w, "hello")
		})}
		go s.Serve(l)
		t.Cleanup(func() { s.Close() })
	}},
	{"node", command("server.js", `require('http').createServer((q,r)=>{
		const body=q.url=='/big'?Buffer.alloc(200<<10):'hello';
		q.url=='/slow'?setTimeout(()=>r.end(body),400):r.end(body)}).listen(+process.argv[2])`,
		func(file, port string) []string { return []string{"/usr/bin/node", file, port} })},
	{"uvicorn", command("app.py", `import asyncio
async def app(scope, receive, send):
    if scope['type']!='http': return
    if scope['path']=='/slow': await asyncio.sleep(.4)
    body = bytes(200<<10) if scope['path']=='/big' else b'hello'
    await send({'type':'http.response.start','status':200,'headers':[(b'content-length',str(len(body)).encode())]})
    await send({'type':'http.response.body','body':body})
`, func(file, port string) []string {
		return []string{"/usr/bin/python3", "-m", "uvicorn", "--log-level", "error", "--port", port, "--app-dir", filepath.Dir(file), "app:app"}
	})},
	{"gunicorn", command("app.py", `import time
def app(env, start):
    if env['PATH_INFO']=='/slow': time.sleep(.4)
    body = bytes(200<<10) if env['PATH_INFO']=='/big' else b'hello'
    start('200 OK',[('Content-Length',str(len(body)))])
    return [body]
`, func(file, port string) []string {
		return []string{"/usr/bin/gunicorn", "--log-level", "error", "-k", "gthread", "--threads", "40", "-b", "127.0.0.1:" + port, "--chdir", filepath.Dir(file), "app:app"}
	})},
}

func command(name, text string, args func(file, port string) []string) func(*testing.T, string) {
	return func(t *testing.T, port string) {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		a := args(file, port)
		if _, err := exec.LookPath(a[0]); err != nil {
			t.Skip(err)
		}
		cmd := exec.Command(a[0], a[1:]...)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	}
}

// asker is one keep-alive client: an odd state is a request in flight.
type asker struct {
	state atomic.Int64
	since atomic.Int64
	slow  atomic.Bool
	port  uint16
}

func measure(t *testing.T, server measuredServer, think, every time.Duration) {
	free, _ := net.Listen("tcp", "127.0.0.1:0")
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	server.start(t, fmt.Sprint(port))
	for range 100 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			break
		}
		time.Sleep(100 * time.Millisecond)
	}

	const clients = 20
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	askers := map[uint16]*asker{}
	for i := range clients {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		a := &asker{port: uint16(c.LocalAddr().(*net.TCPAddr).Port)}
		askers[a.port] = a
		wg.Go(func() { a.run(c, rand.New(rand.NewSource(int64(i))), 20, think, stop) })
	}

	nl, err := openNetlink()
	if err != nil {
		t.Fatal(err)
	}
	defer nl.close()
	var j judge
	t0 := time.Now()
	type sample struct{ state, since int64 }
	before := map[uint16]sample{}
	cookies := map[uint16]uint64{}
	seen := map[uint16]socket{}
	reasons := map[string]int{}
	var busy, idle, falseIdle, falseIdleSlow, falseBusy, falseBusyLong, ambiguous int
	var worst time.Duration
	for time.Since(t0) < 6*time.Second {
		time.Sleep(every)
		for p, a := range askers {
			before[p] = sample{a.state.Load(), a.since.Load()}
		}
		j.begin()
		clear(cookies)
		err := nl.dump(bothFamilies, maskOpen, uint16(port), true, func(s *socket) {
			cookies[s.peerPort] = s.cookie
			seen[s.peerPort] = *s
			j.observe(s, time.Since(t0))
			if s.info && s.recvAgo == s.sentAgo && s.dataOut > 0 {
				ambiguous++
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		j.end(time.Since(t0))
		for p, a := range askers {
			b := before[p]
			if a.state.Load() != b.state || b.state < 2 {
				continue // it changed during the dump
			}
			m := j.known[cookies[p]]
			x := seen[p]
			reason := fmt.Sprintf("order%d rq%v wq%v unsent%v", m.order, x.rqueue > 0, x.wqueue > 0, x.unsent > 0)
			if x.recvAgo > x.sentAgo {
				reason += " sent-last"
			}
			if x.recvAgo < x.sentAgo {
				reason += " recv-last"
			}
			if x.ackAgo < x.sentAgo {
				reason += " ack-later"
			}
			age := time.Since(t0) - time.Duration(b.since-t0.UnixNano())
			if b.state%2 == 1 {
				busy++
				if !m.busy {
					falseIdle++
					worst = max(worst, age)
					if age > 20*time.Millisecond {
						falseIdleSlow++
						reasons["I "+reason]++
					}
				}
			} else {
				idle++
				if m.busy {
					falseBusy++
					if age > tick {
						reasons["B "+reason]++
					}
					if age > 50*time.Millisecond {
						falseBusyLong++
					}
				}
			}
		}
	}
	t.Logf("busy %5d  of them called idle %4d (older than 20ms %d, oldest %v)   idle %5d  called busy %4d (for longer than 50ms %d)   equal ticks %d  %v",
		busy, falseIdle, falseIdleSlow, worst.Round(time.Millisecond), idle, falseBusy, falseBusyLong, ambiguous, reasons)
}

func (a *asker) run(c net.Conn, r *rand.Rand, oneIn int, think time.Duration, stop <-chan struct{}) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 1<<20)
	for {
		select {
		case <-stop:
			return
		default:
		}
		path := "/"
		switch {
		case oneIn > 0 && r.Intn(oneIn) == 0:
			path = "/slow"
		case r.Intn(10) == 0:
			path = "/big"
		}
		a.slow.Store(path == "/slow")
		a.since.Store(time.Now().UnixNano())
		if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return
		}
		a.state.Add(1) // only now the kernel has it for certain
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return
		}
		// The answer may have been sent before it was read: the client's word
		// is late by that.
		io.Copy(io.Discard, resp.Body)
		a.since.Store(time.Now().UnixNano())
		a.state.Add(1)
		if think > 0 {
			time.Sleep(time.Duration(float64(think) * (0.5 + r.Float64())))
		}
	}
}

// TestMeasureInstant looks for the instant to forward in, under 50 keep-alive
// clients that never pause, or pause for a while, five of which send slow
// requests now and then; and counts what is cut in that instant.
func TestMeasureInstant(t *testing.T) {
	if os.Getenv("DRAINIT_MEASURE") == "" {
		t.Skip("a measurement, not a test: DRAINIT_MEASURE is not set")
	}
	for _, server := range measuredServers {
		for _, think := range []time.Duration{0, 20 * time.Millisecond, 300 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s/think %v", server.name, think), func(t *testing.T) {
				free, _ := net.Listen("tcp", "127.0.0.1:0")
				port := free.Addr().(*net.TCPAddr).Port
				free.Close()
				addr := fmt.Sprintf("127.0.0.1:%d", port)
				server.start(t, fmt.Sprint(port))
				for range 100 {
					if c, err := net.Dial("tcp", addr); err == nil {
						c.Close()
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
				stop := make(chan struct{})
				var wg sync.WaitGroup
				defer wg.Wait()
				defer close(stop)
				var askers []*asker
				for i := range 50 {
					c, err := net.Dial("tcp", addr)
					if err != nil {
						t.Fatal(err)
					}
					a := &asker{}
					askers = append(askers, a)
					oneIn, pause := 0, think
					if i < 5 {
						oneIn, pause = 5, think+200*time.Millisecond
					}
					wg.Go(func() { a.run(c, rand.New(rand.NewSource(int64(i))), oneIn, pause, stop) })
				}
				time.Sleep(1500 * time.Millisecond)
				for range 5 {
					done := make(chan struct{})
					t0 := time.Now()
					var v Verdict
					for v = range New(Options{Ports: []uint16{uint16(port)}}).Watch(done, Idle) {
						if v.Met && time.Since(t0) > 2*time.Second || time.Since(t0) > 20*time.Second {
							break
						}
					}
					slow, fast := 0, 0
					for _, a := range askers {
						if a.state.Load()%2 == 1 {
							if a.slow.Load() {
								slow++
							} else {
								fast++
							}
						}
					}
					close(done)
					t.Logf("met %v after %5v, in flight then: %d slow, %d fast; the kernel says %d", v.Met, time.Since(t0).Round(time.Millisecond), slow, fast, v.InFlight)
				}
			})
		}
	}
}
