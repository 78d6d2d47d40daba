package notify

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deadline is for what should happen at once.
const deadline = 20 * time.Second

// roleVar makes the test binary another process of the tests.
const roleVar = "NOTIFY_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVar); role {
	case "":
		os.Exit(m.Run())
	case "listen":
		listenRole()
	case "send":
		sendRole()
	default:
		panic("unknown role " + role)
	}
}

// listenRole listens as the process it is and prints the address. For each line
// on stdin it sends itself a datagram with that status; messages are printed as
// they come, each with the counters. What came before one's own is thus
// counted.
func listenRole() {
	l, err := Listen(os.Getpid())
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	out := make(chan Message)
	go l.Serve(out)
	go func() {
		for m := range out {
			malformed, foreign := l.Refused()
			fmt.Println(m.Status, m.PID == os.Getpid(), malformed, foreign)
		}
	}()
	up, err := Dial(l.Addr())
	if err != nil {
		panic(err)
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if err := up.Send(Message{Status: in.Text(), HasStatus: true}); err != nil {
			panic(err)
		}
	}
}

// sendRole sends the datagram $DATAGRAM $COUNT times to $NOTIFY_SOCKET, under
// the process name $COMM if there is one, and stays until stdin is closed.
func sendRole() {
	if comm := os.Getenv("COMM"); comm != "" {
		if err := os.WriteFile("/proc/self/comm", []byte(comm), 0); err != nil {
			panic(err)
		}
	}
	count, err := strconv.Atoi(os.Getenv("COUNT"))
	if err != nil {
		panic(err)
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	if err != nil {
		panic(err)
	}
	datagram := []byte(os.Getenv("DATAGRAM"))
	to := &syscall.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}
	for range count {
		for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
			err = syscall.Sendto(fd, datagram, 0, to)
		}
		if err != nil {
			panic(err)
		}
	}
	io.Copy(io.Discard, os.Stdin)
}

// role prepares the test binary as another process, which lives while its stdin
// is open: until the test ends.
func role(t *testing.T, name string, env ...string) (*exec.Cmd, io.WriteCloser) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	// The race detector would add a second to every exit.
	cmd.Env = append(append(os.Environ(), env...), roleVar+"="+name, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return cmd, stdin
}

func start(t *testing.T, cmd *exec.Cmd, stdin io.Closer) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
}

// serve opens a listener for this process and its children.
func serve(t *testing.T, out chan Message) *Listener {
	t.Helper()
	l, err := Listen(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, out)
	return l
}

// serveOn runs Serve, and checks at the end that Close ends it.
func serveOn(t *testing.T, l *Listener, out chan Message) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Serve(out)
	}()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		await(t, ended)
	})
}

// await receives from c before the deadline.
func await[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(deadline):
		t.Fatal("nothing happened before the deadline")
		panic("unreachable")
	}
}

// sender is a socket for datagrams with anything in them.
type sender struct {
	t  *testing.T
	fd int
	to string
}

func newSender(t *testing.T, addr string) *sender {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	return &sender{t, fd, addr}
}

func (s *sender) send(datagram string, fds ...int) {
	s.t.Helper()
	var control []byte
	if len(fds) > 0 {
		control = syscall.UnixRights(fds...)
	}
	err := error(syscall.EINTR)
	for errors.Is(err, syscall.EINTR) {
		err = syscall.Sendmsg(s.fd, []byte(datagram), control, &syscall.SockaddrUnix{Name: s.to}, 0)
	}
	if err != nil {
		s.t.Error(err) // from any goroutine
	}
}

// lines are what a process prints, as they come; closed at its end.
func lines(r io.Reader) <-chan string {
	c := make(chan string)
	go func() {
		defer close(c)
		for in := bufio.NewScanner(r); in.Scan(); {
			c <- strings.TrimSpace(in.Text())
		}
	}()
	return c
}
