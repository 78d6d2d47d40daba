package integration_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestALiveCheck has the liveness check fail, which readiness by listening does
// not notice.
func TestALiveCheck(t *testing.T) {
	t.Parallel()
	var code, passed atomic.Int64
	code.Store(500)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(int(code.Load()))
		if code.Load() == 200 && r.UserAgent() == "drainit-liveness" {
			passed.Add(1)
		}
	}))
	defer s.Close()
	w := work(t, setup{env: []string{
		"GRACE_PERIOD=60s", "DRAIN_WINDOW=40s", "DRAINIT_LIVE_CHECK=" + s.URL + "/healthz",
		"DRAINIT_LIVE_INTERVAL=50ms", "DRAINIT_LIVE_TIMEOUT=10s", "DRAINIT_LIVE_FAILURES=3",
	}})
	alive := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("/livez answers %d", want), func() bool {
			got, _ := get(w.url + "/livez")
			return got == want
		})
	}
	w.becomes(200, "")
	w.asks("/livez", 200, "") // failures before the first pass do not count
	for range 2 {
		passed.Store(0)
		code.Store(200)
		eventually(t, "the check passes", func() bool { return passed.Load() > 1 })
		alive(200)
		code.Store(500)
		alive(503)
		w.asks("/livez", 503, "failed 3 times in a row: GET "+s.URL+"/healthz: 500")
		w.asks("/readyz", 200, "")
	}
	w.signal(unix.SIGTERM) // a container that stops is not to be restarted
	w.logs("stop asked for")
	alive(200)
}
