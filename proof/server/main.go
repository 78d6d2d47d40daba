// Server is what a proof restarts where a Go program is wanted: HTTP and
// WebSockets on one port, gRPC on another.
//
//	GET  /quick          a line
//	POST /quick          a line
//	GET  /slow?ms=2000   an answer that takes that long
//	GET  /stream?ms=5000 a line every 200 ms for that long, and "done"
//	GET  /ws             a WebSocket that echoes
//	GET  /alive          200, until
//	POST /sicken         has been asked for: 500
//
// The gRPC service is grpc.testing.TestService, which answers once or streams.
// By default SIGTERM ends it in the middle of whatever it is doing.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/interop"
	"google.golang.org/grpc/interop/grpc_testing"
)

func main() {
	addr := flag.String("addr", ":8080", "`host:port` of HTTP")
	rpc := flag.String("grpc", "", "`host:port` of gRPC; none by default")
	onTerm := flag.String("on-term", "die", "`what` to do on SIGTERM: die or graceful (Shutdown, GracefulStop)")
	delay := flag.Duration("start-delay", 0, "`time` to pass before it listens, as real servers load and connect")
	back := flag.String("back", "", "`URL` that has to answer before a quick answer; none by default")
	work := flag.Bool("work", false, "be a worker without a port: one job a second, SIGTERM ends the last")
	flag.Parse()
	log.SetFlags(0)
	term := make(chan os.Signal, 1)
	if *onTerm == "graceful" {
		signal.Notify(term, syscall.SIGTERM)
	}
	time.Sleep(*delay)
	if *work {
		jobs(term)
		return
	}
	if err := serve(*addr, *rpc, *back, term); err != nil {
		log.Fatal(err)
	}
}

// jobs says on stdout when a job begins and ends.
func jobs(term <-chan os.Signal) {
	for i := 0; ; i++ {
		fmt.Println("begin", i)
		time.Sleep(700 * time.Millisecond)
		fmt.Println("end", i)
		select {
		case <-term:
			return
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func serve(addr, rpc, back string, term <-chan os.Signal) error {
	ended := make(chan error, 2)
	h := &http.Server{Addr: addr, Handler: handler(back), ReadHeaderTimeout: 10 * time.Second}
	go func() { ended <- h.ListenAndServe() }()
	g := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(g, interop.NewTestServer())
	if rpc != "" {
		ln, err := net.Listen("tcp", rpc)
		if err != nil {
			return err
		}
		go func() { ended <- g.Serve(ln) }()
	}
	select {
	case err := <-ended:
		return err
	case <-term:
	}
	stopped := make(chan struct{})
	go func() { g.GracefulStop(); close(stopped) }()
	err := h.Shutdown(context.Background())
	<-stopped
	return err
}

func handler(back string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/quick", func(w http.ResponseWriter, r *http.Request) {
		if err := ask(back); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintln(w, "done")
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(took(r))
		fmt.Fprintln(w, "done")
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		const every = 200 * time.Millisecond
		for left := took(r); left > 0; left -= every {
			fmt.Fprintln(w, "piece")
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			time.Sleep(every)
		}
		fmt.Fprintln(w, "done")
	})
	mux.HandleFunc("/ws", echo)
	var sick atomic.Bool
	mux.HandleFunc("POST /sicken", func(w http.ResponseWriter, r *http.Request) { sick.Store(true) })
	mux.HandleFunc("GET /alive", func(w http.ResponseWriter, r *http.Request) {
		if sick.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	return mux
}

// ask gets what is needed for an answer, on a connection of its own.
func ask(url string) error {
	if url == "" {
		return nil
	}
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return err
	}
	r.Close = true
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, a.Status)
	}
	return nil
}

func echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, message, err := c.Read(context.Background())
		if err != nil {
			return
		}
		if err := c.Write(context.Background(), kind, message); err != nil {
			return
		}
	}
}

func took(r *http.Request) time.Duration {
	ms, _ := strconv.Atoi(r.FormValue("ms"))
	return time.Duration(ms) * time.Millisecond
}
