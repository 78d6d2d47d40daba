// Testchild is every child the integration tests need: it prints the signals it
// gets, exits or dies as asked, leaves processes behind, reports what it
// inherited. It is one static binary, so that it runs in an image from scratch.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	commands := map[string]func([]string){
		"exit": exit, "die": die, "signals": signals, "report": report, "leave": leave, "background": background,
		"orphans": orphans, "leaves": leaves, "http": serve, "stage": stage, "kill": kill, "fill": fill, "print": printAll,
		"loop": loop, "ps": ps,
	}
	f := commands[os.Args[1]]
	if f == nil {
		fatal("no command %q", os.Args[1])
	}
	f(os.Args[2:])
}

func fatal(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "testchild: "+format+"\n", args...)
	os.Exit(99)
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		fatal("%v", err)
	}
	return n
}

func exit(args []string) { os.Exit(number(args[0])) }

// printAll writes its arguments to stdout, followed by its stdin.
func printAll(args []string) {
	fmt.Println(strings.Join(args, " "))
	io.Copy(os.Stdout, os.Stdin)
}

// setDefault resets sig to its default action, bypassing the Go runtime, which
// turns many signals into a panic or an exit code.
func setDefault(sig int) {
	var act [4]uintptr // struct kernel_sigaction, all zero: SIG_DFL
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(pointer(&act)), 0, 8, 0, 0)
}

// die kills this process by the signal of that number.
func die(args []string) {
	sig := number(args[0])
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	setDefault(sig)
	unix.Kill(os.Getpid(), syscall.Signal(sig))
	time.Sleep(10 * time.Second)
	fatal("survived signal %d", sig)
}

// exits holds the -exit flags: SIGNAL:CODE.
type exits map[int]int

func (e exits) String() string { return "" }
func (e exits) Set(s string) error {
	sig, code, ok := strings.Cut(s, ":")
	if !ok {
		return fmt.Errorf("want SIGNAL:CODE")
	}
	e[number(sig)] = number(code)
	return nil
}

// signals prints "ready", then the number of each signal it gets.
func signals(args []string) {
	set := flag.NewFlagSet("signals", flag.ExitOnError)
	codes := make(exits)
	set.Var(codes, "exit", "exit with CODE on SIGNAL")
	name := set.String("name", "got", "what to begin each line with")
	quiet := set.Bool("quiet", false, "print nothing but ready")
	second := set.Bool("second", false, "start another one in the same process group")
	after := set.Duration("after", 0, "exit this long after the signal rather than at once")
	set.Parse(args)

	got := make(chan os.Signal, 1024)
	for s := syscall.Signal(1); s <= 64; s++ {
		if s != unix.SIGCHLD && s != unix.SIGURG && s != unix.SIGPIPE {
			signal.Notify(got, s)
		}
	}
	if *second {
		c := exec.Command("/proc/self/exe", "signals", "-name", "second", "-exit", "15:0")
		c.Stderr = os.Stderr
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			fatal("%v", err)
		}
		var b [6]byte
		io.ReadFull(out, b[:]) // "ready\n"
		go io.Copy(os.Stdout, out)
	}
	fmt.Println("ready")
	for s := range got {
		n := int(s.(syscall.Signal))
		if !*quiet {
			fmt.Println(*name, n)
		}
		if code, ok := codes[n]; ok {
			if *after == 0 {
				os.Exit(code)
			}
			time.AfterFunc(*after, func() { os.Exit(code) })
		}
	}
}

// Report is what a child has inherited.
type Report struct {
	PID, PPID, PGRP, SID int
	Foreground           int // the terminal's process group; 0: no terminal
	Args, Env            []string
	Dir                  string
	Umask                int
	FDs                  map[int]string
	Flags                map[int]int // F_GETFL
	Status               string      // /proc/self/status
}

// report prints a Report, and reads stdin and fd 3, if there is one, to the
// end.
func report([]string) {
	r := Report{PID: os.Getpid(), PPID: os.Getppid(), PGRP: unix.Getpgrp(), Args: os.Args, Env: os.Environ(),
		FDs: make(map[int]string), Flags: make(map[int]int)}
	r.SID, _ = unix.Getsid(0)
	r.Foreground, _ = unix.IoctlGetInt(0, unix.TIOCGPGRP)
	r.Dir, _ = os.Getwd()
	r.Umask = unix.Umask(0)
	for fd := range 256 {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			continue
		}
		name, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if strings.HasPrefix(name, "anon_inode:[event") {
			continue // made by this process's Go runtime
		}
		r.FDs[fd], r.Flags[fd] = name, flags
	}
	status, _ := os.ReadFile("/proc/self/status")
	r.Status = string(status)
	json.NewEncoder(os.Stdout).Encode(r)
}

// leave starts a background process and exits: by itself, or on SIGTERM.
func leave(args []string) {
	set := flag.NewFlagSet("leave", flag.ExitOnError)
	setsid := set.Bool("setsid", false, "in a session of its own")
	ignore := set.Bool("ignore", false, "it ignores signals")
	grandchild := set.Bool("grandchild", false, "as a grandchild whose parent is gone")
	onTerm := set.Bool("on-term", false, "exit on SIGTERM only")
	code := set.Int("exit", 0, "exit code")
	set.Parse(args)

	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	r, w, err := os.Pipe()
	if err != nil {
		fatal("%v", err)
	}
	words := []string{"background"}
	if *ignore {
		words = append(words, "-ignore")
	}
	if *grandchild {
		words = append(words, "-fork")
	}
	c := exec.Command("/proc/self/exe", words...)
	c.Stdout, c.Stderr, c.ExtraFiles = os.Stdout, os.Stderr, []*os.File{w}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: *setsid}
	if err := c.Start(); err != nil {
		fatal("%v", err)
	}
	w.Close()
	io.ReadAll(r) // the background process runs
	if *grandchild {
		c.Wait()
	}
	fmt.Println("ready")
	if *onTerm {
		<-term
	}
	os.Exit(*code)
}

// background runs until a signal comes, and prints a line once it has handled
// it.
func background(args []string) {
	set := flag.NewFlagSet("background", flag.ExitOnError)
	ignore := set.Bool("ignore", false, "ignore signals")
	fork := set.Bool("fork", false, "do it in a child, and exit")
	set.Parse(args)
	told := os.NewFile(3, "told")
	if *fork {
		c := exec.Command("/proc/self/exe", slices.DeleteFunc(append([]string{"background"}, args...), func(s string) bool { return s == "-fork" })...)
		c.Stdout, c.Stderr, c.ExtraFiles = os.Stdout, os.Stderr, []*os.File{told}
		if err := c.Start(); err != nil {
			fatal("%v", err)
		}
		os.Exit(0)
	}
	got := make(chan os.Signal, 8)
	signal.Notify(got, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT)
	told.Close()
	for s := range got {
		fmt.Println("background got", int(s.(syscall.Signal)))
		if !*ignore {
			time.Sleep(300 * time.Millisecond) // a slow trap
			fmt.Println("trap finished")
			os.Exit(3)
		}
	}
}

// orphans makes COUNT orphans that end all at once: on SIGUSR1, or at once with
// -now. With -exit it exits at the same moment.
func orphans(args []string) {
	set := flag.NewFlagSet("orphans", flag.ExitOnError)
	count := set.Int("count", 1, "how many")
	now := set.Bool("now", false, "don't wait for SIGUSR1")
	code := set.Int("exit", -1, "exit code; negative: stay")
	set.Parse(args)
	go_ := make(chan os.Signal, 1)
	signal.Notify(go_, unix.SIGUSR1)
	r, w, err := os.Pipe()
	if err != nil {
		fatal("%v", err)
	}
	c := exec.Command("/proc/self/exe", "leaves", strconv.Itoa(*count))
	c.Stderr, c.ExtraFiles = os.Stderr, []*os.File{r}
	if err := c.Run(); err != nil {
		fatal("leaves: %v", err)
	}
	r.Close()
	fmt.Println("ready")
	if !*now {
		<-go_
	}
	w.Close()
	if *code >= 0 {
		os.Exit(*code)
	}
	select {}
}

// leaves forks processes that wait for the end of fd 3, and exits.
func leaves(args []string) {
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT} {
		setDefault(int(sig)) // the forked processes have no Go runtime to handle it
	}
	if made, want := forkLeaves(number(args[0])), number(args[0]); made != want {
		fatal("forked %d of %d", made, want)
	}
}

// reserveThreads makes the runtime start n threads.
func reserveThreads(n int) {
	var all, made sync.WaitGroup
	made.Add(n)
	for range n {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			made.Done()
			made.Wait()
		})
	}
	all.Wait()
}

// fill forks until the cgroup allows no more processes, prints "full", and then
// the number of each signal.
func fill(args []string) {
	set := flag.NewFlagSet("fill", flag.ExitOnError)
	codes := make(exits)
	set.Var(codes, "exit", "exit with CODE on SIGNAL")
	spin := set.Int("spin", 0, "so many of them keep a CPU busy")
	set.Parse(args)
	reserveThreads(8) // or this program's own runtime would crash
	got := make(chan os.Signal, 16)
	signal.Notify(got, unix.SIGTERM, unix.SIGUSR1)
	r, _, err := os.Pipe()
	if err != nil {
		fatal("%v", err)
	}
	if err := unix.Dup3(int(r.Fd()), 3, 0); err != nil && r.Fd() != 3 {
		fatal("%v", err)
	}
	n := forkSpinners(*spin)
	n += forkLeaves(100000)
	fmt.Println("full", n)
	for s := range got {
		sig := int(s.(syscall.Signal))
		fmt.Println("got", sig)
		n += forkLeaves(100000) // what has become free again
		if code, ok := codes[sig]; ok {
			os.Exit(code)
		}
	}
}

// serve is an HTTP server: /, /slow?for=DURATION, /stream?for=DURATION. It dies
// on SIGTERM as servers without a handler do.
func serve(args []string) {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.FormValue("for"))
		time.Sleep(d)
		fmt.Fprintln(w, "slow")
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.FormValue("for"))
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			fmt.Fprintln(w, "chunk")
			w.(http.Flusher).Flush()
		}
		fmt.Fprintln(w, "end")
	})
	fatal("%v", http.ListenAndServe(args[0], mux))
}

// kill sends a signal: PID SIGNAL.
func kill(args []string) {
	for len(args) >= 2 {
		fmt.Println("kill", args[0], args[1], unix.Kill(number(args[0]), syscall.Signal(number(args[1]))))
		args = args[2:]
	}
	if len(args) > 0 {
		os.Exit(number(args[0]))
	}
}

// loop writes a line to stdout at intervals, and exits on SIGTERM with the
// given code.
func loop(args []string) {
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	for i := 0; ; i++ {
		select {
		case <-term:
			os.Exit(number(args[0]))
		case <-time.After(20 * time.Millisecond):
			fmt.Println("tick", i)
		}
	}
}

// ps lists the processes it sees: PID PPID STATE COMMAND.
func ps([]string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, d := range dirs {
		stat, err := os.ReadFile(d)
		if err != nil {
			continue
		}
		s := string(stat)
		end := strings.LastIndex(s, ")")
		f := strings.Fields(s[end+1:])
		fmt.Println(s[:strings.Index(s, " ")], f[1], f[0], s[strings.Index(s, "("):end+1])
	}
}

// stage prepares the first process of a new PID namespace, as a container
// runtime would, and executes what follows --.
func stage(args []string) {
	set := flag.NewFlagSet("stage", flag.ExitOnError)
	proc := set.String("proc", "fresh", "what /proc is to be: fresh, none, or host for what is there")
	mask := set.Int("umask", -1, "umask")
	ignore := set.String("ignore", "", "signals to ignore")
	block := set.String("block", "", "signals to block")
	closeFDs := set.String("close", "", "descriptors to close")
	set.Parse(args)
	check := func(what string, err error) {
		if err != nil {
			fatal("%s: %v", what, err)
		}
	}
	if *proc != "host" {
		check("make mounts private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	}
	switch *proc {
	case "fresh":
		check("mount /proc", unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	case "none":
		check("hide /proc", unix.Mount("none", "/proc", "tmpfs", unix.MS_RDONLY, ""))
	}
	if *mask >= 0 {
		unix.Umask(*mask)
	}
	for _, s := range numbers(*ignore) {
		signal.Ignore(syscall.Signal(s))
	}
	lockThread()
	if sigs := numbers(*block); len(sigs) > 0 {
		var m unix.Sigset_t
		for _, s := range sigs {
			m.Val[0] |= 1 << (s - 1)
		}
		check("block", unix.PthreadSigmask(unix.SIG_SETMASK, &m, nil))
	}
	for _, fd := range numbers(*closeFDs) {
		unix.Close(fd)
	}
	path, err := exec.LookPath(set.Arg(0))
	check("find the command", err)
	check("execute "+path, syscall.Exec(path, set.Args(), os.Environ()))
}

func numbers(list string) (all []int) {
	for w := range strings.SplitSeq(list, ",") {
		if w != "" {
			all = append(all, number(w))
		}
	}
	return all
}
