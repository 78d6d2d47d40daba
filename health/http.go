package health

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// HTTP/1 as far as probes speak it, both ends: one request, one answer, one
// connection. Heads are read by net/textproto and targets by net/url, which
// net/http reads them with too; what is here is the first line of either and
// what is refused. net/http itself, with nothing but ReadRequest and
// ReadResponse in use, adds 1.4 MB to the binary, and to every container 1.3 MB
// of resident memory, of it 0.3 anonymous: TLS, HTTP/2, MIME types and proxies
// set themselves up whether they are wanted or not.

// request is the head of one, as far as it matters here.
type request struct {
	method string
	path   string // decoded, and without the query
	body   bool   // it has one, which nobody reads
}

// badRequest is why there is no request to answer.
type badRequest response

func (b *badRequest) Error() string { return strings.TrimSpace(string(b.body)) }

func refuse(code int, why string) error {
	return &badRequest{code: code, kind: plain, body: []byte(why + "\n")}
}

// readRequest reads the head of a request. Its error is a *badRequest, or what
// reading the connection said.
func readRequest(in *bufio.Reader) (r request, err error) {
	head := textproto.NewReader(in)
	line, err := head.ReadLine()
	if err != nil {
		return r, err
	}
	method, rest, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(rest, " ")
	u, err := url.ParseRequestURI(target)
	switch {
	case !token(method) || err != nil || !strings.HasPrefix(version, "HTTP/"):
		return r, refuse(400, "this is no HTTP request")
	case version != "HTTP/1.1" && version != "HTTP/1.0":
		return r, refuse(505, "HTTP/1.1 is spoken here")
	}
	hosts, length := 0, ""
	err = readFields(head, func(name, value string) error {
		switch {
		case strings.EqualFold(name, "Host"):
			hosts++
		case strings.EqualFold(name, "Content-Length"):
			if _, err := strconv.ParseUint(value, 10, 63); err != nil || length != "" && length != value {
				return refuse(400, "the request has no length that could be believed")
			}
			length, r.body = value, r.body || value != "0"
		case strings.EqualFold(name, "Transfer-Encoding"):
			if !strings.EqualFold(value, "chunked") {
				return refuse(501, "no encoding but chunked is known here")
			}
			r.body = true
		}
		return nil
	})
	switch {
	case err != nil:
		return r, err
	case version == "HTTP/1.1" && hosts != 1:
		return r, refuse(400, fmt.Sprintf("the request names %d Hosts", hosts))
	}
	r.method, r.path = method, u.Path
	return r, nil
}

// readFields reads the rest of a head and hands each field to see, until that
// has something against one. (ReadMIMEHeader would make a map of all of them,
// and another one of common names: together a quarter of what a probe
// allocates.)
func readFields(head *textproto.Reader, see func(name, value string) error) error {
	for {
		line, err := head.ReadLine()
		if err != nil || line == "" {
			return err
		}
		name, value, found := strings.Cut(line, ":")
		// Nor may a line be continued, since RFC 7230.
		if !found || !token(name) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return refuse(400, "this is no HTTP request: a header line is no name: value")
		}
		if err := see(name, strings.Trim(value, " \t")); err != nil {
			return err
		}
	}
}

// token says whether s is one, as RFC 9110 5.6.2 has it: a method, or a field's
// name.
func token(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// response is an answer, to be sent in one piece.
type response struct {
	code int
	kind string // of content
	body []byte
}

// reason is the phrase of a code, of those there are here.
func reason(code int) string {
	switch code {
	case 200:
		return "OK"
	case 400:
		return "Bad Request"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 431:
		return "Request Header Fields Too Large"
	case 501:
		return "Not Implemented"
	case 503:
		return "Service Unavailable"
	case 505:
		return "HTTP Version Not Supported"
	}
	return ""
}

// send writes r, without the body if the request was a HEAD.
func (r *response) send(c io.Writer, buf []byte, headOnly bool) error {
	b := fmt.Appendf(buf, "HTTP/1.1 %d %s\r\nDate: %s\r\nConnection: close\r\nCache-Control: no-store\r\nContent-Type: %s\r\nContent-Length: %d\r\n",
		r.code, reason(r.code), time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"), r.kind, len(r.body))
	if r.code == 405 {
		b = append(b, "Allow: GET, HEAD\r\n"...)
	}
	b = append(b, "\r\n"...)
	if !headOnly {
		b = append(b, r.body...)
	}
	_, err := c.Write(b)
	return err
}

// buffers are what one exchange needs. They are used again, or probes would keep
// the garbage collector busy.
type buffers struct {
	limited io.LimitedReader
	in      *bufio.Reader
	out     []byte
}

var spare = sync.Pool{New: func() any {
	return &buffers{in: bufio.NewReaderSize(nil, 512), out: make([]byte, 0, 512)}
}}

// exchange reads one request and has answer answer it. The client has the time
// that the caller has set for all of it, and maxHeader bytes.
func exchange(c io.ReadWriter, answer func(request) response) {
	b := spare.Get().(*buffers)
	defer spare.Put(b)
	b.limited = io.LimitedReader{R: c, N: maxHeader}
	b.in.Reset(&b.limited)
	q, err := readRequest(b.in)
	var r response
	var bad *badRequest
	switch {
	case err == nil:
		r = answer(q)
	case b.limited.N <= 0: // whatever it looked like, cut off there
		r = response{431, plain, []byte("the request's head is too large\n")}
	case errors.As(err, &bad):
		r = response(*bad)
	default:
		return // it connected and left, as a tcpSocket probe does, or is too slow
	}
	if r.send(c, b.out, q.method == "HEAD") == nil && (err != nil || q.body || b.in.Buffered() > 0) {
		linger(c)
	}
}

// linger lets the client read its answer: closing with bytes of its unread
// would reset the connection, and the answer might be lost.
func linger(c io.ReadWriter) {
	if c, ok := c.(*conn); ok {
		c.CloseWrite()
		c.file.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		io.CopyN(io.Discard, c, 256<<10)
	}
}

// maxAnswer bounds what is read of an answer's head.
const maxAnswer = 64 << 10

// get asks for target over c and reads the answer's head. What follows it can
// be read from body: length bytes, or if that is negative until the end.
func get(c net.Conn, host, target, agent string) (code int, body io.Reader, length int64, err error) {
	_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nAccept: */*\r\nConnection: close\r\n\r\n", target, host, agent)
	if err != nil {
		return 0, nil, 0, err
	}
	// The head would be read at any length.
	limited := &io.LimitedReader{R: c, N: maxAnswer}
	in := bufio.NewReader(limited)
	for head := textproto.NewReader(in); ; {
		line, err := head.ReadLine()
		if err != nil {
			return 0, nil, 0, err
		}
		version, rest, _ := strings.Cut(line, " ")
		number, _, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
		code, err := strconv.ParseUint(number, 10, 16)
		if err != nil || len(number) != 3 || !strings.HasPrefix(version, "HTTP/1.") {
			return 0, nil, 0, fmt.Errorf("%.100q is not HTTP", line)
		}
		length = -1
		for line != "" {
			// Whatever else a server may say there, odd or not.
			if line, err = head.ReadLine(); err != nil {
				return 0, nil, 0, err
			}
			name, value, _ := strings.Cut(line, ":")
			if n, err := strconv.ParseInt(strings.Trim(value, " \t"), 10, 64); err == nil && n >= 0 && strings.EqualFold(name, "Content-Length") {
				length = n
			}
		}
		if code >= 100 && code < 200 && code != 101 {
			continue // 103 Early Hints, say: the answer is yet to come
		}
		limited.N = maxBody
		return int(code), in, length, nil
	}
}

// maxBody bounds what Get reads of a body; drainit's own answers are far below.
const maxBody = 1 << 20

// Get asks the HTTP server at the other end of c for path, once, and returns
// what it answers. It fails if the answer is cut off, or is no HTTP. Its time
// is the connection's.
func Get(c net.Conn, path string) (code int, body []byte, err error) {
	code, in, length, err := get(c, "drainit", path, "drainit")
	if err != nil {
		return 0, nil, err
	}
	if length >= 0 {
		in = io.LimitReader(in, length)
	}
	body, err = io.ReadAll(in)
	if err == nil && int64(len(body)) < length {
		err = io.ErrUnexpectedEOF
	}
	return code, body, err
}
