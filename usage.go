package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/drainit/drainit/sockets"
	"github.com/drainit/drainit/supervisor"
	"golang.org/x/sys/unix"
)

// words are drainit's own, known only before --. Each gets what follows it.
var words map[string]func([]string) int

func init() { // their functions refer to words
	words = map[string]func([]string) int{
		"help": help, "--help": help, "version": version, "--version": version, "plan": plan,
		"check": check, "drain": drain, "undrain": undrain, "skip": skip, "prestop": prestop, "install": install,
	}
}

const usage = `drainit runs a server as a container's init and loses nobody in a restart.

  drainit [--] command [arg...]    run command: ENTRYPOINT ["/drainit","--"]

On a stop signal it turns not ready while the server goes on serving, waits
until load balancers and clients have moved on, forwards the signal, and kills
what is left before the runtime would. It exits as the command did: its code,
128 + n if signal n killed it, 126 if it can't be executed, 127 if it is not
found, 125 for drainit's own failures.

Other words, before --:
  plan               what this environment comes to; exits 125 if it can't work
  check [live|ready|started]
                     ask HEALTH_ADDR, exit 0 or 1: HEALTHCHECK, exec probes
  drain, undrain     turn a running container not ready, and ready again
  skip               end the wait of a stop under way: forward the signal now
  prestop            for lifecycle.preStop: begin the stop, return when drained
  install PATH       copy this program to PATH, for an init container
  help, version

Variables, all beginning with DRAINIT_ (30s, 1m30s, or 30 for seconds):
  HEALTH_ADDR      :8099     /readyz /livez /startupz /statusz /metrics; or off
  GRACE_PERIOD     30s       the whole budget: terminationGracePeriodSeconds
  DRAIN_WINDOW     5s        endpoint propagation: never forward earlier; at
                             most a third of the budget unless set
  DRAIN_UNTIL      window    what else to wait for: window, quiet, idle, closed
  STOP_RESERVE     10s       kept for the server after the signal; as above
  KILL_MARGIN      2s        SIGKILL comes this long before the budget ends; at
                             most a tenth of it unless set
  UNREADY_DELAY    0s        keep answering ready this long after the signal
  STOP_ON          SIGTERM,SIGINT
                             signals that begin a stop: the image's STOPSIGNAL
  STOP_SIGNAL      as received
                             what the server is sent: nginx SIGQUIT
  DRAIN_SIGNAL     none      sent at once when a stop begins: Sidekiq SIGTSTP
  SIGNAL_SCOPE     child     who is sent signals: child or group
  SIGNAL_MAP       none      rewriting: SIGHUP=SIGUSR2,SIGUSR1=ignore
  EXIT_CODES       none      remapping: 143=0
  ORPHAN_GRACE     5s        for processes the server leaves behind; 0: none
  READY_CHECK      listen    listen, started, notify, tcp://host:port or
                             http://host:port/path
  READY_INTERVAL   1s        between tcp:// and http:// checks
  READY_TIMEOUT    1s        for one of them
  WATCHDOG         0s        longest silence between two WATCHDOG=1; 0: none
  PORTS            auto      the server's TCP ports: 8080,8443
  LOG_FORMAT       text      text or json, to stderr
  LOG_LEVEL        info      debug, info, warn or error
  TERMINATION_LOG  /dev/termination-log
                             last words, if the file exists; or off

Examples:
  ENTRYPOINT ["/drainit","--"]                       in a Dockerfile
  DRAINIT_GRACE_PERIOD=60 DRAINIT_DRAIN_UNTIL=idle drainit plan
  HEALTHCHECK CMD ["/drainit","check"]
`

func help([]string) int {
	fmt.Print(usage)
	return 0
}

func version([]string) int {
	v, revision := "(devel)", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	fmt.Printf("drainit version %s%s %s/%s %s\n", v, revision, runtime.GOOS, runtime.GOARCH, runtime.Version())
	return 0
}

// plan prints what the environment means, for people and for the CI of images.
func plan(args []string) int {
	if !noArguments("plan", args) {
		return codeError
	}
	c, err := load()
	if err != nil {
		return fail(err.Error(), "")
	}
	for _, l := range c.plan() {
		fmt.Println(l)
	}
	return 0
}

// plan is the configuration in sentences.
func (c *Config) plan() []string {
	t := c.timeline()
	var stops []string
	for _, s := range c.StopOn.signals {
		stops = append(stops, supervisor.SignalName(s))
	}
	sent := supervisor.SignalName(unix.SIGTERM)
	if len(c.StopOn.signals) > 0 {
		sent = supervisor.SignalName(c.StopOn.signals[0])
	}
	if c.StopSignal.signal != 0 {
		sent = supervisor.SignalName(c.StopSignal.signal)
	}
	to := map[string]string{"child": "the child", "group": "the child's group"}[c.SignalScope.value]

	var steps []string
	if c.UnreadyDelay.Duration > 0 {
		steps = append(steps, fmt.Sprintf("not ready after %s", c.UnreadyDelay))
	} else {
		steps = append(steps, "not ready at once")
	}
	if s := c.DrainSignal.signal; s != 0 {
		steps = append(steps, fmt.Sprintf("%s to %s at once", supervisor.SignalName(s), to))
	}
	when := fmt.Sprintf("after %s", t.Window)
	if u := c.until(); u != sockets.Window && t.ForwardAfter() > t.Window {
		when = fmt.Sprintf("after %s at the earliest, then when %s, after %s at the latest", t.Window, conditions[u], t.ForwardAfter())
	}
	steps = append(steps, fmt.Sprintf("%s to %s %s", sent, to, when), fmt.Sprintf("SIGKILL after %s", t.KillAfter()))

	lines := []string{"on " + strings.Join(stops[:1], "") + ": " + strings.Join(steps, ", ")}
	if len(stops) > 1 {
		also := "likewise on " + strings.Join(stops[1:], ", ")
		if c.StopSignal.signal == 0 {
			also += ", and then that is what is sent"
		}
		lines = append(lines, also)
	}
	lines = append(lines, fmt.Sprintf("the budget of %s must be the runtime's: terminationGracePeriodSeconds, stop_grace_period, docker stop -t", t.Grace))
	if c.HealthAddr.value == "off" {
		lines = append(lines, "nobody is told of readiness: DRAINIT_HEALTH_ADDR is off")
	} else {
		lines = append(lines, fmt.Sprintf("ready %s, told at %s/readyz", readyWords(c.ReadyCheck.value), c.HealthAddr.value))
	}
	if t.OrphanGrace > 0 {
		lines = append(lines, fmt.Sprintf("what the child leaves behind gets %s more", t.OrphanGrace))
	}
	return lines
}

var conditions = map[sockets.Until]string{
	"quiet":  "no new connection comes",
	"idle":   "no new connection comes and no request is in flight",
	"closed": "no new connection comes and none is open",
}

func readyWords(check string) string {
	switch check {
	case "listen":
		return "when the child has a listening TCP socket"
	case "started":
		return "as soon as the child is started"
	case "notify":
		return "when the child says READY=1"
	}
	return "while " + check + " answers"
}

// environ is os.Environ less the named variables.
func environ(without ...string) (env []string) {
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		keep := true
		for _, w := range without {
			keep = keep && name != w
		}
		if keep {
			env = append(env, kv)
		}
	}
	return env
}
