package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/drainit/drainit/internal/catch"
)

// commands are drainit's own, known only before --. Each is called with the
// arguments that follow it.
var commands map[string]func([]string) int

func init() { // their functions refer to commands
	commands = map[string]func([]string) int{
		"-h":        help,
		"--help":    help,
		"help":      help,
		"-V":        version,
		"--version": version,
		"version":   version,
		"plan":      printPlan,
		"check":     check,
		"status":    showStatus,
		"drain":     drain,
		"undrain":   undrain,
		"skip":      skip,
		"prestop":   prestop,
		"install":   install,
	}
}

// dispatch runs one of drainit's own commands, or supervises another.
func dispatch(args []string) int {
	if len(args) == 0 {
		return usageError("no command to run",
			"ENTRYPOINT [\"/drainit\",\"--\"] and CMD [\"your-server\"]; `drainit help` tells more")
	}
	first, rest := args[0], args[1:]
	if first == "--" {
		if len(rest) == 0 {
			return usageError("no command after --",
				"the image needs a CMD, or the container a command")
		}
		return supervise(rest)
	}
	if command, ok := commands[first]; ok {
		catch.Release()
		return command(rest)
	}
	if strings.HasPrefix(first, "-") {
		msg := fmt.Sprintf("unknown option %q: variables configure drainit, options don't", first)
		return usageError(msg, optionHint(first))
	}
	return supervise(args)
}

const usage = `drainit runs a server as a container's init and drops no requests in a restart.

  drainit [--] command [arg...]    run command: ENTRYPOINT ["/drainit","--"]

On a stop signal it turns not ready while the server goes on serving, waits
until load balancers and clients have moved on, forwards the signal, and kills
what is left before the runtime would. It exits as the command did: its code,
128 + n if signal n killed it, 126 if it can't be executed, 127 if it is not
found, 125 for drainit's own failures.

Commands:
  plan               what this environment comes to; exits 125 if it can't work
  check [live|ready|started]
                     ask HEALTH_ADDR, exit 0 or 1: HEALTHCHECK, exec probes
  status             what a running drainit knows, for a person: one screen
  drain, undrain     turn a running container not ready, and ready again
  skip               end the wait of a stop in progress: forward the signal now
  prestop            for lifecycle.preStop: begin the stop, return when drained
  install PATH       copy this program to PATH, for an init container
  help, version      also -h, -V, --help, --version

Variables, all beginning with DRAINIT_ (30s, 1m30s, or 30 for seconds):
  HEALTH_ADDR      :8099     /readyz /livez /startupz /statusz /metrics; or off
  GRACE_PERIOD     30s       the whole budget: terminationGracePeriodSeconds;
                             10s outside Kubernetes: docker stop -t
  DRAIN_WINDOW     5s        endpoint propagation: don't forward earlier; at
                             most a third of the budget unless set
  DRAIN_UNTIL      window    what else to wait for: window, quiet, idle, closed
  STREAM_PAUSE     0s        how long a stream, or a call of HTTP/2, is
                             silent at most, for idle; 0: unknown
  CLOSED_IDLE      60s       closed ignores a connection silent for as long
  STOP_RESERVE     10s       kept for the server once it has its signal; at
                             most a third of the budget unless set
  KILL_MARGIN      2s        SIGKILL comes this long before the budget ends; at
                             most a tenth of it unless set
  UNREADY_DELAY    0s        keep answering ready so long after a stop begins
  STOP_ON          SIGTERM,SIGINT
                             signals that begin a stop: the image's STOPSIGNAL
  STOP_SIGNAL      as received
                             what the server is sent: nginx SIGQUIT
  DRAIN_SIGNAL     none      sent at once when a stop begins: Sidekiq SIGTSTP
  SIGNAL_SCOPE     child     what is sent signals: child or group
  SIGNAL_MAP       none      rewriting: SIGHUP=SIGUSR2,SIGUSR1=ignore
  EXIT_CODES       none      remapping: 143=0
  ORPHAN_GRACE     5s        for processes the server leaves behind; 0: none
  READY_CHECK      listen    listen, started, notify, tcp://host:port or
                             http://host:port/path
  READY_INTERVAL   1s        between tcp:// and http:// checks
  READY_TIMEOUT    1s        for one of them
  LIVE_CHECK       none      tcp:// or http:// as above: /livez answers 503
                             while it fails, until a stop begins
  LIVE_INTERVAL    10s       between two of these checks
  LIVE_TIMEOUT     1s        for one of them
  LIVE_FAILURES    3         in a row, before the server is not alive
  WATCHDOG         0s        longest silence between two WATCHDOG=1; 0: none
  PORTS            auto      the server's TCP ports: 8080,8443
  LOG_FORMAT       text      text or json, to stderr
  LOG_LEVEL        info      debug, info, warn or error
  TERMINATION_LOG  /dev/termination-log
                             last words, if the file exists; or off
  BYPASS           0         1: a plain init that forwards at once

Examples:
  ENTRYPOINT ["/drainit","--"]                       in a Dockerfile
  DRAINIT_GRACE_PERIOD=60 DRAINIT_DRAIN_UNTIL=idle drainit plan
  HEALTHCHECK CMD ["/drainit","check"]

https://github.com/drainit/drainit explains each of these.
`

// help prints the usage.
func help([]string) int {
	fmt.Print(usage)
	return 0
}

// version prints the version, the commit and its date, and what it was built
// with and for; dockerd asks its --init-path for it. Go stamps commit and date
// into a build from a repository, a release's among them; one by `go install
// …@version` has the version alone.
func version([]string) int {
	v, built := buildVersion()
	fmt.Printf("drainit version %s%s %s/%s %s\n",
		v, built, runtime.GOOS, runtime.GOARCH, runtime.Version())
	return 0
}

// buildVersion returns the module's version, and the commit and its date after
// a blank each.
func buildVersion() (v, built string) {
	v = "(devel)"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v, ""
	}
	if info.Main.Version != "" {
		v = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			built += " " + s.Value[:min(12, len(s.Value))]
		case "vcs.time":
			built += " " + s.Value[:min(len("2006-01-02"), len(s.Value))]
		}
	}
	return v, built
}
