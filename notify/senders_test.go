package notify

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// need finds a program, or skips the test.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed", program)
	}
}

func TestSystemdNotify(t *testing.T) {
	if _, err := exec.LookPath("systemd-notify"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("systemd-notify is not installed; on Debian it comes with systemd")
		}
		t.Skip("systemd-notify is not installed")
	}
	tests := []struct {
		name, script string
		want         Message
	}{
		{"ready", "systemd-notify --ready", Message{Ready: true}},
		{"ready with a status", "systemd-notify --ready --status='läuft, 3 workers'",
			Message{Ready: true, Status: "läuft, 3 workers", HasStatus: true}},
		{"main PID", "systemd-notify MAINPID=7 --ready", Message{Ready: true, MainPID: 7}},
		{"other fields", "systemd-notify STOPPING=1 EXTEND_TIMEOUT_USEC=3000000",
			Message{Stopping: true, ExtendTimeout: 3e9}},
		{"watchdog", "systemd-notify WATCHDOG=trigger", Message{WatchdogTrigger: true}},
		// The barrier keeps the sender until its message was handed on, so
		// that it can be told from a stranger: the shell's other child, too.
		{"a short-lived grandchild", "sh -c 'systemd-notify --ready; exit' & wait", Message{Ready: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			out := make(chan Message, 1)
			l := serve(t, out)
			cmd := exec.Command("sh", "-c", test.script)
			cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+l.Addr())
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			got := await(t, out)
			if got.PID == 0 {
				t.Error("no sender")
			}
			got.PID = 0
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			malformed, foreign := l.Refused()
			if malformed != 0 || foreign != 0 {
				_, err := l.LastRefusal()
				t.Errorf("refused %d, %d: %v", malformed, foreign, err)
			}
		})
	}
}

// run starts a server that notifies, and ends it by the signal given.
func run(t *testing.T, l *Listener, end syscall.Signal, name string, args ...string) *exec.Cmd {
	t.Helper()
	var output bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+l.Addr())
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(end)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("%s: %v\n%s", name, err, output.Bytes())
		}
	})
	return cmd
}

func TestGunicorn(t *testing.T) {
	need(t, "gunicorn")
	dir := t.TempDir()
	const app = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'ok']\n"
	if err := os.WriteFile(filepath.Join(dir, "hello.py"), []byte(app), 0o644); err != nil {
		t.Fatal(err)
	}
	out := make(chan Message, 100)
	l := serve(t, out)
	cmd := run(t, l, syscall.SIGTERM, "gunicorn", "--chdir", dir, "--bind", "unix:"+dir+"/web.sock", "hello:app")
	want := Message{PID: cmd.Process.Pid, Ready: true, Status: "Gunicorn arbiter booted", HasStatus: true}
	if got := await(t, out); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestHAProxy(t *testing.T) {
	need(t, "haproxy")
	dir := t.TempDir()
	config := fmt.Sprintf("defaults\n mode http\n timeout client 1s\n timeout connect 1s\n timeout server 1s\n"+
		"frontend web\n bind unix@%s/web.sock\n", dir)
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	out := make(chan Message, 100)
	l := serve(t, out)
	cmd := run(t, l, syscall.SIGTERM, "haproxy", "-Ws", "-f", file)
	next := func(what func(Message) bool) {
		t.Helper()
		for m := await(t, out); !what(m); m = await(t, out) {
		}
	}
	next(func(m Message) bool { return m.Ready && m.PID == cmd.Process.Pid })
	cmd.Process.Signal(syscall.SIGUSR2)
	next(func(m Message) bool { return m.Reloading })
	next(func(m Message) bool { return m.Ready })
}
