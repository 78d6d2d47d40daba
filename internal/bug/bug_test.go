package bug

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestReportNamesTrackerPlaceAndStack(t *testing.T) {
	var b bytes.Buffer
	func() {
		defer func() {
			Report(slog.New(slog.NewTextHandler(&b, nil)), "a test", recover())
		}()
		failing()
	}()
	for _, want := range []string{
		"level=ERROR", Tracker, `in="a test"`, `panic="a reason"`, "bug.failing",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in %s", want, b.String())
		}
	}
}

func failing() { panic("a reason") }
