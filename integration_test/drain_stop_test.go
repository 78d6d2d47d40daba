package integration_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestNobodyIsLost(t *testing.T) {
	// Not parallel to the package's other tests: these assert times, and should
	// share the machine with as little as possible.
	t.Run("all", func(t *testing.T) {
		for _, scenario := range []func(*testing.T){
			drainDies, drainSecure, drainPropagates, drainHurries, drainWebSockets, drainPreForks, drainStreams, drainSlowReaders, drainKeepAlives,
			drainNeighbours, drainDenied,
		} {
			scenario(t)
		}
	})
	t.Logf("What clients lost when a server was stopped:\n%s", &drainReport)
}

// drainSeed returns TEST_SEED.
func drainSeed() uint64 {
	n, _ := strconv.ParseUint(os.Getenv("TEST_SEED"), 10, 64)
	return n
}

// drainCompare runs one stop under each init, and the given number of them
// under each value of DRAIN_UNTIL, whose results it passes to check. All run in
// parallel.
func drainCompare(t *testing.T, s drainStop, stops int, until []string, check func(t *testing.T, r *drainResult)) {
	for _, init := range drainInits {
		drainRun(t, s, init, 1, func(t *testing.T, r *drainResult) {
			if init == "tini" && !s.mild && r.losses() == 0 {
				t.Error("nothing lost under tini: then this scenario shows nothing")
			}
		})
	}
	for _, u := range until {
		drainRun(t, s, u, stops, check)
	}
}

func drainRun(t *testing.T, s drainStop, init string, stops int, check func(t *testing.T, r *drainResult)) {
	for i := range stops {
		s := s
		s.init, s.seed = init, drainSeed()<<16+uint64(i)
		name := strings.Join([]string{s.scenario, s.server.name, init, strconv.Itoa(i + 1)}, "/")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := s.run(t)
			if check != nil {
				check(t, r)
			}
		})
	}
}

// A server that dies on SIGTERM, requests of which one in ten is slow, and a
// balancer that follows readiness with a delay of 2 s.
func drainDies(t *testing.T) {
	for _, server := range []drainServer{drainNode, drainThreads} {
		drainCompare(t, drainStop{
			scenario: "1 dies on SIGTERM, 10 % slow", server: server, env: []string{"DRAIN_WINDOW=2s"},
			grace: 15 * time.Second, warm: 3 * time.Second, late: 2 * time.Second,
			traffic: func(l *drainLoad) {
				l.arrive(15, drainPaths(0.1, 1500))
				for range 6 {
					l.keep(300*time.Millisecond, false, drainPaths(0.1, 1500))
				}
			},
		}, 10, []string{"idle"}, func(t *testing.T, r *drainResult) {
			r.lossless(t)
			r.because(t, "idle")
		})
	}
}

// The same with TLS, where a server sends something (its session tickets) after
// the request has arrived.
func drainSecure(t *testing.T) {
	both := drainCertificate(t)
	drainCompare(t, drainStop{
		scenario: "1 the same in TLS, 10 % of 3 s", server: drainNode, env: []string{"DRAIN_WINDOW=2s"}, public: []string{"PEM=" + both}, secure: true,
		grace: 20 * time.Second, warm: 3 * time.Second, late: 2 * time.Second,
		traffic: func(l *drainLoad) {
			l.arrive(10, drainPaths(0.1, 3000))
			for range 6 {
				l.keep(300*time.Millisecond, false, drainPaths(0.1, 3000))
			}
		},
	}, 3, []string{"idle"}, func(t *testing.T, r *drainResult) {
		r.lossless(t)
		r.because(t, "idle")
	})
}

// drainCertificate writes a self-signed certificate and its key to one file.
func drainCertificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "both.pem")
	both := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	if err := os.WriteFile(path, both, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Balancers that take 8 s to stop sending, and a window of 2 s.
func drainPropagates(t *testing.T) {
	for _, rate := range []float64{1, 4, 40} {
		s := drainStop{
			scenario: fmt.Sprintf("2 window 2 s, balancer 8 s, %g/s", rate), server: drainNode,
			env:   []string{"DRAIN_WINDOW=2s", "STOP_RESERVE=5s"},
			grace: 35 * time.Second, warm: 5 * time.Second, late: 8 * time.Second,
			traffic: func(l *drainLoad) { l.arrive(rate, drainPaths(0, 0)) },
		}
		if rate < 4 {
			s.warm = 12 * time.Second // for the arrival rate to be known
		}
		drainCompare(t, s, 2, []string{"quiet"}, func(t *testing.T, r *drainResult) {
			r.lossless(t)
			r.because(t, "quiet")
		})
	}
}

// A balancer that takes 1 s, and a window of 1 s.
func drainHurries(t *testing.T) {
	drainCompare(t, drainStop{
		scenario: "2 window 1 s, balancer 1 s, 20/s", server: drainNode,
		env:   []string{"DRAIN_WINDOW=1s"},
		grace: 15 * time.Second, warm: 5 * time.Second, late: time.Second,
		traffic: func(l *drainLoad) { l.arrive(20, drainPaths(0, 0)) },
	}, 3, []string{"quiet"}, func(t *testing.T, r *drainResult) {
		r.lossless(t)
		r.because(t, "quiet")
		if r.signal >= 4*time.Second {
			t.Errorf("through after %s, want less than 4 s:\n%s", r.signal, r.log)
		}
	})
}

// Twenty WebSockets that end by themselves within 8 s, behind a server that
// closes them on SIGTERM.
func drainWebSockets(t *testing.T) {
	s := drainStop{
		scenario: "3 WebSockets end within 8 s", server: drainUvicorn, env: []string{"DRAIN_WINDOW=1s", "STOP_RESERVE=5s"},
		grace: 25 * time.Second, warm: time.Second, late: time.Second,
	}
	// None ends within a second of forward_by, below.
	lives := func(i int) time.Duration {
		if i < 12 {
			return time.Second + time.Duration(i)*250*time.Millisecond
		}
		return 6*time.Second + time.Duration(i-12)*285*time.Millisecond
	}
	with := func(t *testing.T, s drainStop) drainStop {
		s.traffic = func(l *drainLoad) {
			for i := range 20 {
				l.socket(t, lives(i), i%2 == 0)
			}
			l.arrive(5, drainPaths(0, 0))
		}
		return s
	}
	drainCompare(t, with(t, s), 3, []string{"closed"}, func(t *testing.T, r *drainResult) {
		r.lossless(t)
		r.because(t, "closed")
	})
	s.scenario, s.grace = "3 WebSockets, forward_by 5 s", 12*time.Second
	s.env = []string{"DRAIN_WINDOW=1s", "STOP_RESERVE=6s", "KILL_MARGIN=1s"}
	drainRun(t, with(t, s), "closed", 2, func(t *testing.T, r *drainResult) {
		r.because(t, "forward_by")
		if r.lost[drainCut] != 8 || r.losses() != 8 {
			t.Errorf("lost %v, want the 8 that were still open cut:\n%s", r.lost, strings.Join(r.details, "\n"))
		}
		if line := r.line(t, "stop signal forwarded"); attribute(t, line, "connections") != "8" {
			t.Errorf("want connections=8: %s", line)
		}
	})
}

// More clients than a pre-forking server's workers can accept when the signal
// comes. Its listener is closed on SIGTERM, and resets those in its queue.
func drainPreForks(t *testing.T) {
	drainCompare(t, drainStop{
		scenario: "4 clients wait to be accepted", server: drainGunicorn, env: []string{"DRAIN_WINDOW=1s", "STOP_RESERVE=5s"},
		grace: 25 * time.Second, warm: 3 * time.Second, late: time.Second,
		traffic: func(l *drainLoad) { l.arrive(6, drainPaths(1, 500)) },
	}, 2, []string{"quiet", "idle"}, func(t *testing.T, r *drainResult) { r.lossless(t) })
	// Here the parent keeps the listener open after the workers have stopped
	// accepting.
	drainCompare(t, drainStop{
		scenario: "4 clients wait to be accepted", mild: true, server: drainUvicornWorkers, env: []string{"DRAIN_WINDOW=1s", "STOP_RESERVE=5s"},
		grace: 25 * time.Second, warm: 3 * time.Second, late: 2 * time.Second,
		traffic: func(l *drainLoad) {
			l.arrive(8, func(r *rand.Rand) string { return []string{"/?ms=500", "/block?ms=200"}[r.IntN(2)] })
		},
	}, 2, []string{"quiet", "idle"}, func(t *testing.T, r *drainResult) { r.lossless(t) })
}

// Answers that trickle for seconds from a server that dies on SIGTERM.
func drainStreams(t *testing.T) {
	for _, server := range []drainServer{drainNode, drainThreads} {
		drainCompare(t, drainStop{
			scenario: "5 streams of 1–5 s", server: server, env: []string{"DRAIN_WINDOW=1s", "STOP_RESERVE=5s"},
			grace: 25 * time.Second, warm: 3 * time.Second, late: time.Second,
			traffic: func(l *drainLoad) {
				l.arrive(4, func(r *rand.Rand) string {
					return fmt.Sprintf("/stream?ms=%d&every=%d", 1000+r.IntN(4000), 100+r.IntN(600))
				})
			},
		}, 2, []string{"idle"}, func(t *testing.T, r *drainResult) {
			r.lossless(t)
			r.because(t, "idle")
		})
	}
}

// Clients that are slow to read an answer which the server wrote long ago. When
// it closes or dies, its network namespace ends, with the data still in flight.
func drainSlowReaders(t *testing.T) {
	drainCompare(t, drainStop{
		scenario: "5 slow readers of 1.5 MB", server: drainThreads, env: []string{"DRAIN_WINDOW=1s", "STOP_RESERVE=5s"},
		grace: 20 * time.Second, warm: time.Second, late: time.Second, apart: true,
		traffic: func(l *drainLoad) {
			for range 4 {
				l.clients.Go(func() { l.crawl("/?kb=1500", 6*time.Second) })
			}
		},
	}, 1, []string{"idle", "closed"}, func(t *testing.T, r *drainResult) { r.lossless(t) })
}

// Fifty connections that stay and are never idle, some of them with slow
// requests.
func drainKeepAlives(t *testing.T) {
	for _, server := range []drainServer{drainNode, drainThreads} {
		drainCompare(t, drainStop{
			scenario: "6 keep-alives that never rest", server: server, env: []string{"DRAIN_WINDOW=1s", "STOP_RESERVE=5s"},
			grace: 30 * time.Second, warm: 3 * time.Second, late: time.Second,
			traffic: func(l *drainLoad) {
				for range 45 {
					l.keep(100*time.Millisecond, true, drainPaths(0, 0))
				}
				for range 5 {
					l.keep(time.Second, true, drainPaths(0.25, 1000))
				}
			},
		}, 2, []string{"idle"}, func(t *testing.T, r *drainResult) {
			r.because(t, "idle")
			// Any instant is some request's, but a client loses the one it has
			// in flight and no more.
			if n := r.losses(); n > 50 {
				t.Errorf("lost %d requests of 50 clients:\n%s\n%s", n, strings.Join(r.details, "\n"), r.log)
			}
			for _, asked := range r.slow {
				t.Logf("lost a slow request that was %s old at the signal", r.signal-asked)
			}
			if r.signal > 22*time.Second { // patience ends after 15 s, forward_by is after 23 s
				t.Errorf("forwarded after %s:\n%s", r.signal, r.log)
			}
		})
	}
}
