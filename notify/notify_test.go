package notify

import (
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name, datagram string
		want           Message
		err            string // a part of it
	}{
		{"ready", "READY=1", Message{Ready: true}, ""},
		{"newline at the end", "READY=1\n", Message{Ready: true}, ""},
		{"NUL at the end", "READY=1\n\x00", Message{Ready: true}, ""},
		{"every flag", "RELOADING=1\nSTOPPING=1\nWATCHDOG=1\nWATCHDOG=trigger\nBARRIER=1",
			Message{Reloading: true, Stopping: true, Watchdog: true, WatchdogTrigger: true, Barrier: true}, ""},
		{"HAProxy", "READY=1\nMAINPID=42\nSTATUS=Ready.\n",
			Message{Ready: true, MainPID: 42, Status: "Ready.", HasStatus: true}, ""},
		{"status withdrawn", "STATUS=", Message{HasStatus: true}, ""},
		{"equals sign in a status", "STATUS=a=b", Message{Status: "a=b", HasStatus: true}, ""},
		{"status of two lines keeps what comes with it", "STATUS=one\ntwo\nREADY=1",
			Message{Ready: true, Status: "one", HasStatus: true}, ""},
		{"first status counts", "STATUS=one\nSTATUS=two", Message{Status: "one", HasStatus: true}, ""},
		{"timeout", "EXTEND_TIMEOUT_USEC=1500000", Message{ExtendTimeout: 1500 * time.Millisecond}, ""},
		{"timeout for ever", "EXTEND_TIMEOUT_USEC=18446744073709551615", Message{ExtendTimeout: MaxDuration}, ""},
		{"timeout just too long for a duration", "EXTEND_TIMEOUT_USEC=9223372036854776",
			Message{ExtendTimeout: MaxDuration}, ""},
		{"watchdog's period", "WATCHDOG_USEC=20000000",
			Message{WatchdogEvery: 20 * time.Second, HasWatchdogEvery: true}, ""},
		{"watchdog off", "WATCHDOG_USEC=0", Message{HasWatchdogEvery: true}, ""},
		{"unknown fields", "X_FOO=1\nFDSTORE=1\nREADYX=1\nready=1\n=1\n=\n", Message{}, ""},
		{"nothing known", "hello", Message{}, ""},

		{"empty", "", Message{}, "empty datagram"},
		{"only a NUL", "\x00", Message{}, "empty datagram"},
		{"NUL inside", "READY=1\x00STATUS=x", Message{}, "NUL byte"},
		{"two NULs at the end", "READY=1\x00\x00", Message{}, "NUL byte"},
		{"longest", "READY=1\nX=" + strings.Repeat("x", MaxDatagram-10), Message{Ready: true}, ""},
		{"too long", "READY=1\nX=" + strings.Repeat("x", MaxDatagram-9), Message{}, "longer than 4096"},

		{"a bad value costs only its own field", "READY=1\nEXTEND_TIMEOUT_USEC=5s\nSTATUS=up",
			Message{Ready: true, Status: "up", HasStatus: true}, `EXTEND_TIMEOUT_USEC="5s": want microseconds`},
		{"ready zero", "READY=0", Message{}, `READY="0": want 1`},
		{"carriage return", "READY=1\r\n", Message{}, `READY="1\r": want 1`},
		{"watchdog kick", "WATCHDOG=kick", Message{}, `WATCHDOG="kick": want 1 or "trigger"`},
		{"signed", "WATCHDOG_USEC=+1", Message{}, `WATCHDOG_USEC="+1"`},
		{"negative", "EXTEND_TIMEOUT_USEC=-1", Message{}, `EXTEND_TIMEOUT_USEC="-1"`},
		{"hexadecimal", "EXTEND_TIMEOUT_USEC=0x10", Message{}, `EXTEND_TIMEOUT_USEC="0x10"`},
		{"nothing for a number", "EXTEND_TIMEOUT_USEC=", Message{}, `EXTEND_TIMEOUT_USEC=""`},
		{"more than 64 bits", "EXTEND_TIMEOUT_USEC=18446744073709551616", Message{}, "out of range"},
		{"PID zero", "MAINPID=0", Message{}, "want a process id"},
		{"PID out of range", "MAINPID=2147483648", Message{}, "want a process id"},
		{"every bad field is named", "READY=yes\nMAINPID=x", Message{}, "READY=\"yes\": want 1\nMAINPID=\"x\""},
		{"value shortened in the error", "READY=" + strings.Repeat("y", 1000), Message{},
			`READY="` + strings.Repeat("y", 40) + `": want 1`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse([]byte(test.datagram))
			if got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got error %v, want %q", err, test.err)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"plain", "Processing requests, 3 workers", "Processing requests, 3 workers"},
		{"other scripts", "läuft 準備完了 готов 🚀", "läuft 準備完了 готов 🚀"},
		{"not UTF-8", "a\xffb\xc3", "a\uFFFDb\uFFFD"},
		{"escapes", "\x1b[31mred\x1b[0m\a\x7f", "[31mred[0m"},
		{"C1 control", "a\u009bb", "ab"},
		{"direction marks and line separators", "a\u202eb\u2028c\u200bd\ufeff", "abcd"},
		{"white space", "\t a\tb\u00a0c\u3000d\r ", "a b c d"},
		{"longest", strings.Repeat("x", MaxStatus), strings.Repeat("x", MaxStatus)},
		{"too long", strings.Repeat("x", MaxStatus+1), strings.Repeat("x", MaxStatus-3) + "…"},
		{"cut between characters", strings.Repeat("ä", MaxStatus), strings.Repeat("ä", 126) + "…"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := cleanStatus([]byte(test.in)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "\x00", "READY=1\nSTATUS=a\tb\xff\nMAINPID=7\nX=y\n", "STOPPING=1\nRELOADING=1",
		"WATCHDOG=trigger\nWATCHDOG=1\nWATCHDOG_USEC=18446744073709551615", "BARRIER=1\n\x00",
		"EXTEND_TIMEOUT_USEC=9223372036854775808", "STATUS=" + strings.Repeat("\u202eä", 200),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, datagram []byte) {
		before := string(datagram)
		m, err := Parse(datagram)
		if string(datagram) != before {
			t.Fatal("the datagram was changed")
		}
		if err != nil && len(err.Error()) > 2000 {
			t.Fatalf("error of %d bytes", len(err.Error()))
		}
		if len(datagram) > MaxDatagram && (err == nil || m != Message{}) {
			t.Fatal("oversized, but accepted")
		}
		if m.PID != 0 || m.MainPID < 0 ||
			m.ExtendTimeout < 0 || m.ExtendTimeout > MaxDuration ||
			m.WatchdogEvery < 0 || m.WatchdogEvery > MaxDuration ||
			m.WatchdogEvery != 0 && !m.HasWatchdogEvery || m.Status != "" && !m.HasStatus {
			t.Fatalf("impossible: %+v", m)
		}
		if len(m.Status) > MaxStatus || !utf8.ValidString(m.Status) {
			t.Fatalf("status %q", m.Status)
		}
		for _, r := range m.Status {
			if !strconv.IsPrint(r) {
				t.Fatalf("status %q has %q in it", m.Status, r)
			}
		}
		if m.Ready && !strings.Contains(before, "READY=1") {
			t.Fatal("ready out of nothing")
		}
		// What is passed on upstream reads the same there.
		up := m.upstream()
		if up == "" {
			return
		}
		got, err := Parse([]byte(up))
		m.Reloading, m.Barrier, m.MainPID, m.WatchdogEvery, m.HasWatchdogEvery = false, false, 0, 0, false
		if err != nil || got != m {
			t.Fatalf("upstream %q: got %+v, want %+v, error %v", up, got, m, err)
		}
	})
}
