package health

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestRequests: what is read of a request, or the code it is refused with.
func TestRequests(t *testing.T) {
	const host = "Host: x\r\n"
	for _, c := range []struct {
		name, text string
		want       request
		code       int
	}{
		{"kubelet's", "GET /readyz HTTP/1.1\r\nHost: 10.0.0.1:8099\r\nUser-Agent: kube-probe/1.34\r\nAccept: */*\r\nConnection: close\r\n\r\n", request{"GET", "/readyz", false}, 0},
		{"HAProxy's", "OPTIONS / HTTP/1.0\r\n\r\n", request{"OPTIONS", "/", false}, 0},
		{"bare line feeds", "GET /readyz HTTP/1.1\nHost: x\n\n", request{"GET", "/readyz", false}, 0},
		{"a query", "GET /readyz?verbose=1 HTTP/1.1\r\n" + host + "\r\n", request{"GET", "/readyz", false}, 0},
		{"a proxy's", "GET http://x:8099/readyz HTTP/1.1\r\n" + host + "\r\n", request{"GET", "/readyz", false}, 0},
		{"escaped", "GET /ready%7A HTTP/1.1\r\n" + host + "\r\n", request{"GET", "/readyz", false}, 0},
		{"any case", "GET / HTTP/1.1\r\nhOST:x\r\nCONTENT-LENGTH: 3\r\n\r\nabc", request{"GET", "/", true}, 0},
		{"no body", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n", request{"POST", "/", false}, 0},
		{"chunked", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", request{"POST", "/", true}, 0},
		{"an empty value", "GET / HTTP/1.1\r\n" + host + "X:\r\n\r\n", request{"GET", "/", false}, 0},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", request{}, 400},
		{"two Hosts", "GET / HTTP/1.1\r\n" + host + host + "\r\n", request{}, 400},
		{"one length twice", "POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", request{"POST", "/", true}, 0},
		{"two lengths", "GET / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc", request{}, 400},
		{"a negative length", "GET / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n", request{}, 400},
		{"an encoding nobody has", "GET / HTTP/1.1\r\n" + host + "Transfer-Encoding: rot13\r\n\r\n", request{}, 501},
		{"no version", "GET /\r\n\r\n", request{}, 400},
		{"no target", "GET  HTTP/1.1\r\n" + host + "\r\n", request{}, 400},
		{"another protocol", "GET / RTSP/1.0\r\n" + host + "\r\n", request{}, 400},
		{"another version", "GET / HTTP/2.0\r\n" + host + "\r\n", request{}, 505},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", request{}, 505},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", request{}, 400},
		{"no field", "GET / HTTP/1.1\r\n" + host + "what\r\n\r\n", request{}, 400},
		{"a name with a space", "GET / HTTP/1.1\r\nHost : x\r\n\r\n", request{}, 400},
		{"a continued line", "GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", request{}, 400},
		{"a method that is none", "G(T / HTTP/1.1\r\n" + host + "\r\n", request{}, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readRequest(bufio.NewReader(strings.NewReader(c.text)))
			bad := new(badRequest)
			if errors.As(err, &bad) != (c.code != 0) || bad.code != c.code {
				t.Fatalf("got %v (%d), want %d", err, bad.code, c.code)
			}
			if c.code == 0 && got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
	bad := new(badRequest)
	if _, err := readRequest(bufio.NewReader(strings.NewReader(""))); err == nil || errors.As(err, &bad) {
		t.Errorf("nothing at all: %v, want no answer to that", err)
	}
}

// FuzzRequest: what is taken for a request is one to net/http too, and asks for
// the same.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD /a%20b?c#d HTTP/1.0\nX: y\n\n", "GET http://h/x HTTP/1.1\r\nhost:\r\n\r\n", "GET * HTTP/1.1\r\n\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := readRequest(bufio.NewReader(bytes.NewReader(text)))
		if err != nil || got.body {
			return // net/http looks at what kind of body
		}
		want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
		if err != nil {
			t.Fatalf("%q: got %+v, net/http says %v", text, got, err)
		}
		if got.method != want.Method || got.path != want.URL.Path {
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
