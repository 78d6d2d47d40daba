package health

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// This file is both ends of HTTP/1 as probes use it: one request, one response,
// one connection. net/http with nothing but ReadRequest and ReadResponse in use
// would add 1.4 MB to the binary, and 1.3 MB of resident memory to every
// container, 0.3 MB of it anonymous: TLS, HTTP/2, MIME types and proxies are
// initialised whether they are used or not. FuzzRequest compares the two.

// request is a parsed head, as far as it matters here.
type request struct {
	method string
	path   string // decoded, without the query and a slash at the end
	body   bool   // a body follows, which is not read
}

// headEnd returns the length of the head that data begins with, or -1 if its
// end is not there yet.
func headEnd(data []byte) int {
	for at := 0; ; {
		i := bytes.IndexByte(data[at:], '\n')
		if i < 0 {
			return -1
		}
		at += i + 1
		if rest := data[at:]; bytes.HasPrefix(rest, []byte("\n")) {
			return at + 1
		} else if bytes.HasPrefix(rest, []byte("\r\n")) {
			return at + 2
		}
	}
}

// parseRequest parses a complete head. If that is no request that could be
// answered, the response says why; otherwise its code is 0. A probe as they
// usually come allocates nothing, so that no number of them makes garbage.
//
// Host is not looked at: some load balancers send none over HTTP/1.1, and there
// is only one site here.
func parseRequest(head []byte) (q request, rejected response) {
	line, fields := cutLine(head)
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, version, _ := bytes.Cut(rest, []byte(" "))
	path, err := parseTarget(target)
	switch {
	case !isToken(method) || err != nil || !bytes.HasPrefix(version, []byte("HTTP/")):
		return q, text(400, "malformed HTTP request")
	case string(version) != "HTTP/1.1" && string(version) != "HTTP/1.0":
		return q, text(505, "only HTTP/1.0 and HTTP/1.1 are supported")
	}
	q.method, _ = oneOf(methods, method)
	q.path = path
	rejected = q.parseFields(fields)
	return q, rejected
}

// parseTarget returns the path that a target asks for.
func parseTarget(target []byte) (path string, err error) {
	path, known := oneOf(paths, target)
	if known {
		return path, nil
	}
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return "", err
	}
	if len(u.Path) > 1 {
		return strings.TrimSuffix(u.Path, "/"), nil
	}
	return u.Path, nil
}

// oneOf returns b as a string: the one of all that is equal, or a new one.
func oneOf(all []string, b []byte) (s string, known bool) {
	for _, s := range all {
		if s == string(b) {
			return s, true
		}
	}
	return string(b), false
}

// parseFields parses the header lines of a head. Its result is as that of
// parseRequest.
func (q *request) parseFields(fields []byte) (rejected response) {
	length := ""
	for {
		line, rest := cutLine(fields)
		if len(line) == 0 {
			return response{}
		}
		fields = rest
		name, value, found := bytes.Cut(line, []byte(":"))
		// A line that continues the one before is invalid since RFC 7230.
		if !found || !isToken(name) || bytes.ContainsFunc(value, isControl) {
			return text(400, "malformed HTTP request: invalid header line")
		}
		value = bytes.Trim(value, " \t")
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			n, err := strconv.ParseUint(string(value), 10, 63)
			if err != nil || length != "" && length != string(value) {
				return text(400, "invalid Content-Length")
			}
			length, q.body = string(value), q.body || n > 0
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			if !bytes.EqualFold(value, []byte("chunked")) {
				return text(501, "unsupported Transfer-Encoding")
			}
			q.body = true
		}
	}
}

// cutLine cuts off the first line of b, without its line break.
func cutLine(b []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(b, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), rest
}

// isToken reports whether b is a token (RFC 9110, 5.6.2): a method or the name
// of a field.
func isToken(b []byte) bool {
	return len(b) > 0 && !slices.ContainsFunc(b, func(c byte) bool { return !isTokenByte(c) })
}

func isTokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// response is an answer, sent in one piece.
type response struct {
	code        int
	contentType string
	body        string // without the line break at its end
}

// text returns a response of one line.
func text(code int, line string) response {
	return response{code, "text/plain; charset=utf-8", line}
}

// reasons holds the phrases of the codes used here.
var reasons = map[int]string{
	200: "OK",
	400: "Bad Request",
	404: "Not Found",
	405: "Method Not Allowed",
	431: "Request Header Fields Too Large",
	501: "Not Implemented",
	503: "Service Unavailable",
	505: "HTTP Version Not Supported",
}

// appendTo appends r to b as it is sent, without the body in answer to a HEAD.
func (r response) appendTo(b []byte, headOnly bool) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(r.code), 10)
	b = append(b, ' ')
	b = append(b, reasons[r.code]...)
	b = append(b, "\r\nDate: "...)
	b = time.Now().UTC().AppendFormat(b, "Mon, 02 Jan 2006 15:04:05 GMT")
	b = append(b, "\r\nConnection: close\r\nCache-Control: no-store\r\n"...)
	if r.code == 405 {
		b = append(b, "Allow: GET, HEAD, OPTIONS\r\n"...)
	}
	b = append(b, "Content-Type: "...)
	b = append(b, r.contentType...)
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(r.body)+len("\n")), 10)
	b = append(b, "\r\n\r\n"...)
	if headOnly {
		return b
	}
	b = append(b, r.body...)
	return append(b, '\n')
}

const (
	maxAnswerHead = 64 << 10 // of an answer's head that is read
	maxAnswerBody = 1 << 20  // of its body; drainit's own are far smaller
)

// get requests target over c and reads the head of the answer. The body can be
// read from body: length bytes, or until the end if length is negative.
func get(c net.Conn, host, target, agent string) (code int, body io.Reader, length int64, err error) {
	_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\n"+
		"Accept: */*\r\nConnection: close\r\n\r\n", target, host, agent)
	if err != nil {
		return 0, nil, 0, err
	}
	limited := &io.LimitedReader{R: c, N: maxAnswerHead}
	in := bufio.NewReader(limited)
	for {
		code, length, err = readAnswerHead(in)
		// A 1xx answer, 103 Early Hints say, precedes the final one.
		if err != nil || code < 100 || code >= 200 || code == 101 {
			limited.N = maxAnswerBody
			return code, in, length, err
		}
	}
}

// readAnswerHead reads a status line and the fields that follow it. length is
// that of the body, negative if there is none in the head.
func readAnswerHead(in *bufio.Reader) (code int, length int64, err error) {
	line, err := readLine(in)
	if err != nil {
		return 0, 0, err
	}
	version, rest, _ := strings.Cut(line, " ")
	number, _, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	code, err = strconv.Atoi(number)
	if err != nil || len(number) != 3 || code < 0 || !strings.HasPrefix(version, "HTTP/1.") {
		return 0, 0, fmt.Errorf("%.100q is not HTTP", line)
	}
	for length = -1; ; {
		// Other lines are ignored, valid or not: `Bad Name: x` or a folded line
		// must not keep a server unready forever.
		line, err := readLine(in)
		if err != nil || line == "" {
			return code, length, err
		}
		name, value, _ := strings.Cut(line, ":")
		if n, err := strconv.ParseInt(strings.Trim(value, " \t"), 10, 64); err == nil && n >= 0 &&
			strings.EqualFold(name, "Content-Length") {
			length = n
		}
	}
}

// readLine reads a line and returns it without its line break.
func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), err
}

// Get requests path from the HTTP server at the other end of c and returns its
// answer. It fails on a truncated or non-HTTP answer. Deadlines are the
// caller's to set on c.
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
