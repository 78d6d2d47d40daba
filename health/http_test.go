package health

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestRequests: what is read of a request, or the code it is rejected with.
func TestRequests(t *testing.T) {
	const host = "Host: x\r\n"
	for _, c := range []struct {
		name, text string
		want       request
		code       int
	}{
		{"bare line feeds", "GET /readyz HTTP/1.1\nHost: x\n\n", request{"GET", "/readyz", false}, 0},
		{"mixed line breaks", "GET /readyz HTTP/1.1\r\nHost: x\n\r\n", request{"GET", "/readyz", false}, 0},
		{"a query", "GET /readyz?verbose=1 HTTP/1.1\r\n" + host + "\r\n", request{"GET", "/readyz", false}, 0},
		{"a slash at the end", "GET /readyz/?x HTTP/1.1\r\n" + host + "\r\n", request{"GET", "/readyz", false}, 0},
		{"nothing but a slash", "GET / HTTP/1.1\r\n" + host + "\r\n", request{"GET", "/", false}, 0},
		{"an absolute URL", "GET http://x:8099/readyz HTTP/1.1\r\n" + host + "\r\n", request{"GET", "/readyz", false}, 0},
		{"escaped", "GET /ready%7A HTTP/1.1\r\n" + host + "\r\n", request{"GET", "/readyz", false}, 0},
		{"an asterisk", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", request{"OPTIONS", "*", false}, 0},
		{"any case", "GET / HTTP/1.1\r\nhOST:x\r\nCONTENT-LENGTH: 3\r\n\r\n", request{"GET", "/", true}, 0},
		{"no body", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n", request{"POST", "/", false}, 0},
		{"chunked", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n", request{"POST", "/", true}, 0},
		{"an empty value", "GET / HTTP/1.1\r\n" + host + "X:\r\n\r\n", request{"GET", "/", false}, 0},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", request{"GET", "/", false}, 0},
		{"two Hosts", "GET / HTTP/1.1\r\n" + host + host + "\r\n", request{"GET", "/", false}, 0},
		{"one length twice", "POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", request{"POST", "/", true}, 0},
		{"two lengths", "GET / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 0\r\n\r\n", request{}, 400},
		{"a negative length", "GET / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n", request{}, 400},
		{"an unknown encoding", "GET / HTTP/1.1\r\n" + host + "Transfer-Encoding: rot13\r\n\r\n", request{}, 501},
		{"no version", "GET /\r\n\r\n", request{}, 400},
		{"no target", "GET  HTTP/1.1\r\n" + host + "\r\n", request{}, 400},
		{"another protocol", "GET / RTSP/1.0\r\n" + host + "\r\n", request{}, 400},
		{"another version", "GET / HTTP/2.0\r\n" + host + "\r\n", request{}, 505},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\n", request{}, 505},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", request{}, 400},
		{"an empty line first", "\r\n\r\n", request{}, 400},
		{"no field", "GET / HTTP/1.1\r\n" + host + "what\r\n\r\n", request{}, 400},
		{"a name with a space", "GET / HTTP/1.1\r\nHost : x\r\n\r\n", request{}, 400},
		{"a continued line", "GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", request{}, 400},
		{"a control character", "GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n", request{}, 400},
		{"an invalid method", "G(T / HTTP/1.1\r\n" + host + "\r\n", request{}, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			if end := headEnd([]byte(c.text)); end != len(c.text) {
				t.Errorf("the head ends at %d of %d", end, len(c.text))
			}
			for cut := range len(c.text) {
				if end := headEnd([]byte(c.text[:cut])); end >= 0 {
					t.Fatalf("it ends at %d already", end)
				}
			}
			got, rejected := parseRequest([]byte(c.text))
			if rejected.code != c.code {
				t.Fatalf("got %+v, want %d", rejected, c.code)
			}
			if c.code == 0 && got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestBalancers: the checks of balancers, monitors and orchestrators, as they
// send them, get the answer they look for.
func TestBalancers(t *testing.T) {
	filler := strings.Repeat("x", 7<<10)
	for _, c := range []struct {
		name, head string
		code       int
	}{
		{"kubelet", "GET /readyz HTTP/1.1\r\nHost: 10.0.0.1:8099\r\nUser-Agent: kube-probe/1.34\r\nAccept: */*\r\nConnection: close\r\n\r\n", 200},
		{"HAProxy, option httpchk /readyz", "OPTIONS /readyz HTTP/1.0\r\n\r\n", 200},
		{"HAProxy, option httpchk GET /readyz", "GET /readyz HTTP/1.0\r\n\r\n", 200},
		{"HAProxy, http-check send meth GET ver HTTP/1.1", "GET /readyz HTTP/1.1\r\nconnection: close\r\n\r\n", 200},
		{"HAProxy, option httpchk without a path", "OPTIONS / HTTP/1.0\r\n\r\n", 404},
		{"nginx Plus", "GET /readyz HTTP/1.0\r\nHost: backend\r\nConnection: close\r\n\r\n", 200},
		{"nginx upstream_check_module", "HEAD /readyz HTTP/1.0\r\n\r\n", 200},
		{"Envoy", "GET /readyz HTTP/1.1\r\nhost: app\r\nuser-agent: Envoy/HC\r\n\r\n", 200},
		{"ALB", "GET /readyz HTTP/1.1\r\nHost: 10.0.0.1:8099\r\nConnection: close\r\nUser-Agent: ELB-HealthChecker/2.0\r\nAccept-Encoding: gzip, compressed\r\n\r\n", 200},
		{"GCLB", "GET /readyz HTTP/1.1\r\nHost: 10.0.0.1\r\nUser-Agent: GoogleHC/1.0\r\nConnection: Keep-alive\r\n\r\n", 200},
		{"Traefik", "GET /readyz HTTP/1.1\r\nHost: 10.0.0.1:8099\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n", 200},
		{"Prometheus", "GET /metrics HTTP/1.1\r\nHost: 10.0.0.1:8099\r\nUser-Agent: Prometheus/3.5.0\r\n" +
			"Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2\r\n" +
			"Accept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n", 200},
		{"no Host", "GET /readyz HTTP/1.1\r\n\r\n", 200},
		{"a slash at the end", "GET /readyz/ HTTP/1.1\r\nHost: x\r\n\r\n", 200},
		{"a browser with many cookies", "GET /readyz HTTP/1.1\r\nHost: x\r\nCookie: " + filler + "\r\n\r\n", 200},
		{"a body that is announced", "GET /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 200},
		{"anything but these methods", "POST /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 405},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, addr := listen(t)
			s.Gate.Set(phases["ready"])
			conn := dialed(t, addr)
			io.WriteString(conn, c.head)
			method, _, _ := strings.Cut(c.head, " ")
			answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != c.code {
				t.Errorf("code %d, %v, want %d; %q", answer.StatusCode, err, c.code, body)
			}
		})
	}
}

// FuzzRequest: what is taken for a request is one to net/http too, and asks for
// the same.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD /a%20b?c#d HTTP/1.0\nX: y\n\n", "GET http://h/x HTTP/1.1\r\nhost:\r\n\r\n", "GET * HTTP/1.1\r\n\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		end := headEnd(text)
		if end < 0 {
			return
		}
		got, rejected := parseRequest(text[:end])
		if rejected.code != 0 || got.body {
			return // net/http looks at what kind of body
		}
		want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
		if err != nil {
			t.Fatalf("%q: got %+v, net/http says %v", text, got, err)
		}
		path := want.URL.Path
		if len(path) > 1 {
			path = strings.TrimSuffix(path, "/")
		}
		if got.method != want.Method || got.path != path {
			t.Errorf("%q: got %+v, net/http says %s %s", text, got, want.Method, want.URL.Path)
		}
	})
}

func TestGet(t *testing.T) {
	for _, c := range []struct {
		name, text string
		code       int
		body       string
		fails      bool
	}{
		{"a length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes", 200, "yes", false},
		{"and more than it", "HTTP/1.1 200 OK\r\ncontent-length:3\r\n\r\nyes, and no", 200, "yes", false},
		{"to the end", "HTTP/1.0 503 No\r\n\r\nno", 503, "no", false},
		{"no phrase", "HTTP/1.1 404\r\n\r\n", 404, "", false},
		{"early hints", "HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\n\r\nyes", 200, "yes", false},
		{"odd lines", "HTTP/1.1  200 OK\r\nX: a\r\n folded\r\nBad Name: x\r\nName : x\r\nwhat\r\nContent-Length: 3\r\n\r\nyes", 200, "yes", false},
		{"cut off", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nye", 0, "", true},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-Le", 0, "", true},
		{"no HTTP", "220 smtp.example\r\n\r\n", 0, "", true},
		{"no code", "HTTP/1.1 OK\r\n\r\n", 0, "", true},
		{"a code that is none", "HTTP/1.1 2000 OK\r\n\r\n", 0, "", true},
		{"HTTP/2", "HTTP/2 200\r\n\r\n", 0, "", true},
		{"nothing", "", 0, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, server := net.Pipe()
			defer client.Close()
			client.SetDeadline(time.Now().Add(deadline))
			asked := make(chan *http.Request, 1)
			go func() {
				defer server.Close()
				r, err := http.ReadRequest(bufio.NewReader(server))
				if err != nil {
					t.Error(err)
				}
				asked <- r
				io.WriteString(server, c.text)
			}()
			code, body, err := Get(client, "/statusz")
			if (err != nil) != c.fails || err == nil && (code != c.code || string(body) != c.body) {
				t.Errorf("got %d, %q, %v; want %d, %q", code, body, err, c.code, c.body)
			}
			if r := <-asked; r == nil || r.Method != "GET" || r.URL.Path != "/statusz" || !r.Close {
				t.Errorf("it asked for %+v", r)
			}
		})
	}
}
