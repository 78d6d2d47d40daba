// Worker is a child that carries out commands, one per line: its arguments
// first, then those on stdin. It listens, sooner or later; answers a check
// well, badly or never; speaks the readiness protocol; allocates memory. It
// answers each command by a line on stdout, so that tests can wait for it.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	signals := make(chan os.Signal, 64)
	for s := syscall.Signal(1); s <= 64; s++ {
		switch s {
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE:
		default:
			signal.Notify(signals, s)
		}
	}
	go obey(signals) // ends with the program
	for _, command := range os.Args[1:] {
		do(command)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		do(lines.Text())
	}
	select {} // stdin has ended
}

// onTerm is the code to exit with on SIGTERM; negative: SIGTERM is ignored.
var onTerm atomic.Int64

func obey(signals <-chan os.Signal) {
	for s := range signals {
		say("got", int(s.(syscall.Signal)), stamp())
		if code := onTerm.Load(); s == syscall.SIGTERM && code >= 0 {
			os.Exit(int(code))
		}
	}
}

var stdout sync.Mutex

func say(words ...any) {
	stdout.Lock()
	defer stdout.Unlock()
	fmt.Println(words...)
}

// stamp returns the time, on the clock that the tests share.
func stamp() int64 { return time.Now().UnixNano() }

// How the server answers every request.
var (
	code   atomic.Int64
	checks atomic.Int64 // requests of a readiness check
	gate   sync.RWMutex // locked: requests hang
	server *http.Server
)

func answer(w http.ResponseWriter, r *http.Request) {
	if r.UserAgent() == "drainit-readiness" {
		checks.Add(1)
	}
	gate.RLock()
	defer gate.RUnlock()
	n := int(code.Load())
	if n >= 300 && n < 400 {
		w.Header().Set("Location", "http://127.0.0.1:1/nowhere")
	}
	w.WriteHeader(n)
}

func do(command string) {
	word, rest, _ := strings.Cut(command, " ")
	switch word {
	case "wait":
		d, err := time.ParseDuration(rest)
		must(err)
		time.Sleep(d)
	case "listen":
		l, err := net.Listen("tcp", rest)
		must(err)
		code.CompareAndSwap(0, 200)
		server = &http.Server{Handler: http.HandlerFunc(answer)}
		go server.Serve(l)
		say("listening", stamp())
	case "close":
		server.Close()
		say("closed")
	case "code":
		code.Store(int64(number(rest)))
		say("code", rest)
	case "hang":
		gate.Lock()
		say("hanging")
	case "answer":
		gate.Unlock()
		say("answering")
	case "checks":
		say("checks", rest, checks.Load())
	case "onterm":
		onTerm.Store(int64(number(rest)))
		say("onterm", rest)
	case "exit":
		os.Exit(number(rest))
	case "environment":
		b, err := json.Marshal(os.Environ())
		must(err)
		say("environment", os.Getpid(), string(b))
	case "notify": // a datagram, as a quoted string
		text, err := strconv.Unquote(rest)
		must(err)
		_, err = notify(0).Write([]byte(text))
		say("notified", stamp(), err)
	case "flood": // COUNT DATAGRAM
		count, quoted, _ := strings.Cut(rest, " ")
		text, err := strconv.Unquote(quoted)
		must(err)
		flood(number(count), []byte(text))
	case "eat": // megabytes
		eat(number(rest))
	default:
		must(fmt.Errorf("no command %q", command))
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(99)
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	must(err)
	return n
}

var connections sync.Map

// notify returns the n-th connection to NOTIFY_SOCKET.
func notify(n int) *net.UnixConn {
	if c, ok := connections.Load(n); ok {
		return c.(*net.UnixConn)
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"})
	must(err)
	connections.Store(n, c)
	return c
}

// flood sends from several sockets at once: each has a queue of its own to
// fill.
func flood(count int, datagram []byte) {
	const senders = 4
	var sent atomic.Int64
	say("flooding")
	var all sync.WaitGroup
	for i := range senders {
		all.Go(func() {
			c := notify(i)
			for range count / senders {
				if _, err := c.Write(datagram); err == nil {
					sent.Add(1)
				}
			}
		})
	}
	all.Wait()
	say("flooded", sent.Load(), stamp())
}

var eaten [][]byte

func eat(megabytes int) {
	for range megabytes {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		eaten = append(eaten, b)
	}
	say("ate", megabytes)
}
