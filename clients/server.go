package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The servers that are made of Go. None has a handler for SIGTERM, as most
// servers have none: what is in flight when the signal comes is lost.

func listenAddr() string { return ":" + os.Getenv("PORT") }

// serve is this program as a server of some kind.
func serve(kind string, args []string) {
	err := serveKind(kind, args)
	fmt.Fprintln(os.Stderr, "clients: server:", err)
	os.Exit(1)
}

func serveKind(kind string, args []string) error {
	s := &http.Server{Addr: listenAddr(), Handler: handler()}
	switch kind {
	case "http":
		return s.ListenAndServe()
	case "h2c": // args: the interval of its pings
		s.Protocols = new(http.Protocols)
		s.Protocols.SetUnencryptedHTTP2(true)
		s.HTTP2 = &http.HTTP2Config{SendPingTimeout: interval(args)}
		return s.ListenAndServe()
	case "https":
		s.HTTP2 = &http.HTTP2Config{SendPingTimeout: interval(args)}
		return s.ListenAndServeTLS("cert.pem", "key.pem")
	case "grpc":
		return serveGRPC(interval(args))
	case "sink":
		return sink()
	case "closes":
		return closes(s)
	case "calls": // args: the address
		return calls(s, args[0])
	case "shares":
		return shares(s)
	case "lingers":
		return lingers(s, interval(args))
	case "greets":
		return greets()
	case "udp":
		if _, err := net.ListenPacket("udp", listenAddr()); err != nil {
			return err
		}
		select {}
	case "unix":
		if _, err := net.Listen("unix", "@clients"); err != nil {
			return err
		}
		select {}
	case "worker":
		select {}
	}
	return fmt.Errorf("no server of kind %q", kind)
}

func interval(args []string) time.Duration {
	if len(args) == 0 {
		return 0
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		panic(err)
	}
	return d
}

func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(milliseconds(r, "ms"))
		w.Write(make([]byte, number(r, "kb")<<10))
		io.WriteString(w, "done\n")
	})
	mux.HandleFunc("/stream", streamed)
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload; as=style")
		w.WriteHeader(http.StatusEarlyHints)
		time.Sleep(milliseconds(r, "ms"))
		io.WriteString(w, "done\n")
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			time.Sleep(milliseconds(r, "ms"))
			io.WriteString(w, "done\n")
		}
	})
	return mux
}

// streamed answers in pieces, with pauses between every and most.
func streamed(w http.ResponseWriter, r *http.Request) {
	end := time.Now().Add(milliseconds(r, "ms"))
	every, most := milliseconds(r, "every"), milliseconds(r, "most")
	piece := make([]byte, max(number(r, "size"), 1))
	w.Header().Set("Content-Type", "text/event-stream")
	for time.Now().Before(end) {
		w.Write(piece)
		w.(http.Flusher).Flush()
		time.Sleep(min(spread(every, max(every, most)), time.Until(end)))
	}
	io.WriteString(w, "done\n")
}

func number(r *http.Request, name string) int {
	n, _ := strconv.Atoi(r.URL.Query().Get(name))
	return n
}

func milliseconds(r *http.Request, name string) time.Duration {
	return time.Duration(number(r, name)) * time.Millisecond
}

// sink reads what is sent, and never answers, as statsd and syslog by TCP.
func sink() error {
	l, err := net.Listen("tcp", listenAddr())
	for err == nil {
		var c net.Conn
		if c, err = l.Accept(); err == nil {
			go io.Copy(io.Discard, c)
		}
	}
	return err
}

// greets speaks first, as SMTP and MySQL do, and answers each line after so
// many milliseconds as it says.
func greets() error {
	l, err := net.Listen("tcp", listenAddr())
	for err == nil {
		var c net.Conn
		if c, err = l.Accept(); err == nil {
			go converse(c)
		}
	}
	return err
}

func converse(c net.Conn) {
	defer c.Close()
	io.WriteString(c, "220 server ready, and glad to see you\n")
	for lines := bufio.NewScanner(c); lines.Scan(); {
		ms, _ := strconv.Atoi(lines.Text())
		time.Sleep(time.Duration(ms) * time.Millisecond)
		io.WriteString(c, "250 done\n")
	}
}

// closes closes its listener on SIGUSR1, and serves on.
func closes(s *http.Server) error {
	l, err := net.Listen("tcp", listenAddr())
	if err != nil {
		return err
	}
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, unix.SIGUSR1)
	go func() { <-usr1; l.Close() }()
	s.Serve(l)
	time.Sleep(time.Hour)
	return nil
}

// calls serves, and asks another server without end meanwhile: a long poll and
// quick requests on connections of its own.
func calls(s *http.Server, url string) error {
	for range 3 {
		go func() {
			for {
				fetch(url + "/?ms=25000")
			}
		}()
	}
	go func() {
		for {
			fetch(url + "/")
			time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		}
	}()
	return s.ListenAndServe()
}

func fetch(url string) {
	r, err := http.Get(url)
	if err != nil {
		time.Sleep(time.Second)
		return
	}
	io.Copy(io.Discard, r.Body)
	r.Body.Close()
}

// shares has four listeners on one port, by SO_REUSEPORT.
func shares(s *http.Server) error {
	var all sync.WaitGroup
	for range 4 {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		port, _ := strconv.Atoi(os.Getenv("PORT"))
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		if err := unix.Bind(fd, &unix.SockaddrInet6{Port: port}); err != nil {
			return err
		}
		if err := unix.Listen(fd, 128); err != nil {
			return err
		}
		l, err := net.FileListener(os.NewFile(uintptr(fd), "listener"))
		if err != nil {
			return err
		}
		all.Go(func() { s.Serve(l) })
	}
	all.Wait()
	return nil
}

// lingers takes so long to shut down.
func lingers(s *http.Server, d time.Duration) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	go s.ListenAndServe()
	<-term
	time.Sleep(d)
	os.Exit(0)
	return nil
}
