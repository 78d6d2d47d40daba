package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// sections are those of docs/servers.md, and the rows of the proof that they
// rest on; those without a row are from the server's documentation.
var sections = map[string][]string{
	"uvicorn":                   {"uvicorn", "FastAPI on uvicorn"},
	"gunicorn and hypercorn":    {"gunicorn --threads", "gunicorn, uvicorn workers", "uvicorn --workers 2", "hypercorn"},
	"Celery":                    {"Celery"},
	"Puma":                      {"Puma"},
	"node and npm":              {"node", "node, server.close()", "node, WebSockets", "npm start"},
	"Java, Spring Boot, Tomcat": {"Java HttpServer", "Tomcat, embedded"},
	"Go":                        {"Go, HTTP", "Go, Shutdown"},
	"gRPC":                      {"Go", "Go, the silence of calls known", "grpc-go, GracefulStop"},
	"nginx":                     {"nginx"},
	"Apache httpd":              {"Apache httpd"},
	"PHP-FPM":                   {"PHP-FPM behind nginx"},
	"HAProxy":                   {"HAProxy"},
	"Redis":                     {"Redis"},
	"PostgreSQL":                {"PostgreSQL"},
	"Sidekiq":                   nil, ".NET": nil, "RabbitMQ": nil, "Phoenix": nil,
}

var setting = regexp.MustCompile(`(DRAINIT_(?:DRAIN_UNTIL|CLOSED_IDLE|STREAM_PAUSE|STOP_SIGNAL|SIGNAL_SCOPE))=(\w+)`)

// TestEachRecommendationHasARow: what docs/servers.md says of waiting is what the
// proof runs a server with, and the other way round.
func TestEachRecommendationHasARow(t *testing.T) {
	page, err := os.ReadFile("../docs/servers.md")
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(page), "\n## ")
	for text := range strings.SplitSeq(rest, "\n## ") {
		title, text, _ := strings.Cut(text, "\n")
		rows, known := sections[title]
		switch {
		case !known:
			t.Errorf("%s: no row of the proof", title)
		case rows == nil && !strings.Contains(head, title):
			t.Errorf("%s: the page does not say that it has no row", title)
		}
		var run []string
		for _, name := range rows {
			s := serverNamed(name)
			run = append(run, append(s.drainit, "DRAINIT_DRAIN_UNTIL="+s.until, "DRAINIT_STOP_SIGNAL="+s.signal)...)
			// `window` is the default, and need not be said.
			if !strings.Contains(text, "="+s.until) && !strings.Contains(text, "`"+s.until+"`") && s.until != "window" {
				t.Errorf("%s: %s of %s is not said", title, s.until, name)
			}
			for _, d := range s.drainit {
				if !strings.Contains(text, d) {
					t.Errorf("%s: %s of %s is not said", title, d, name)
				}
			}
		}
		if rows == nil {
			run = []string{"DRAINIT_DRAIN_UNTIL=idle"} // for those in doubt
		}
		for _, said := range setting.FindAllString(text, -1) {
			if !slices.Contains(run, said) {
				t.Errorf("%s: %s is in no row: %v", title, said, run)
			}
		}
	}
}
