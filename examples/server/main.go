// Server is a small HTTP server to run under drainit, with fast, slow and
// streaming answers. By default it does not handle signals, like most servers:
// SIGTERM kills it in the middle of its requests.
//
//	GET  /               a line
//	GET  /healthz        200
//	GET  /slow?ms=1500   an answer that takes that long
//	GET  /stream?ms=1500 a line every 100 ms for that long
//	POST /echo           the request's body
//
// Each flag can be set by the environment as well: SERVER_ADDR and so on.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	addr := flag.String("addr", env("SERVER_ADDR", ":8080"), "`host:port` to listen on; port 0 picks a free one")
	delay := flag.String("start-delay", env("SERVER_START_DELAY", "0s"), "`time` to pass before it listens, as real servers load and connect")
	onTerm := flag.String("on-term", env("SERVER_ON_TERM", "die"), "`what` to do on SIGTERM: die, or graceful (http.Server.Shutdown)")
	flag.Parse()
	log.SetFlags(0)
	log.SetPrefix("server: ")
	if err := serve(*addr, *delay, *onTerm); err != nil {
		log.Fatal(err)
	}
}

func serve(addr, delay, onTerm string) error {
	d, err := time.ParseDuration(delay)
	if err != nil {
		return fmt.Errorf("start delay: %w", err)
	}
	if onTerm != "die" && onTerm != "graceful" {
		return fmt.Errorf("on SIGTERM %q: use die or graceful", onTerm)
	}
	term := make(chan os.Signal, 1)
	if onTerm == "graceful" {
		signal.Notify(term, syscall.SIGTERM)
	} // otherwise Go's default: die at once
	time.Sleep(d)

	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	log.Printf("listening on %s", ln.Addr())
	s := &http.Server{Handler: handler(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(ln) }() // ends with Shutdown, or the program
	select {
	case err := <-failed:
		return err
	case <-term:
	}
	log.Print("SIGTERM: shutting down")
	return s.Shutdown(context.Background())
}

func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		host, _ := os.Hostname()
		fmt.Fprintf(w, "hello from %s\n", host)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(took(r))
		fmt.Fprintln(w, "done")
	})
	mux.HandleFunc("GET /stream", stream)
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, http.MaxBytesReader(w, r.Body, 1<<20))
	})
	return mux
}

func stream(w http.ResponseWriter, r *http.Request) {
	const every = 100 * time.Millisecond
	for left := took(r); left > 0; left -= every {
		fmt.Fprintf(w, "%s to go\n", left)
		if err := http.NewResponseController(w).Flush(); err != nil {
			return // the client has gone
		}
		time.Sleep(every)
	}
	fmt.Fprintln(w, "done")
}

// took returns how long the answer should take: 1 s by default, a minute at
// most.
func took(r *http.Request) time.Duration {
	ms, err := strconv.Atoi(r.FormValue("ms"))
	if err != nil {
		ms = 1000
	}
	return min(time.Duration(ms)*time.Millisecond, time.Minute)
}

func env(name, otherwise string) string {
	if v, ok := os.LookupEnv(name); ok {
		return v
	}
	return otherwise
}
