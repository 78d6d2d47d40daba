package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// engine speaks to Docker's API over its socket. The client program would do
// too, but each call of it costs 50 ms of CPU that the servers need.
type engine struct {
	http    *http.Client
	label   string // of everything that this run makes
	image   string
	apps    string // the folder that is /app
	classes string // and /classes
	network string
	cgroup  string // that all containers are in; "" for Docker's own
	subnet  int    // the third byte of the network's /16's second: 10.<subnet>.0.0
	next    int    // the last address given away
}

func newEngine() *engine {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", dockerSocket())
	}
	id := fmt.Sprintf("%d-%d", os.Getpid(), time.Now().Unix())
	return &engine{
		http:    &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 32}},
		label:   "drainit-proof=" + id,
		image:   "drainit-proof/servers:" + id,
		network: "drainit-proof-" + id,
		next:    1,
	}
}

func dockerSocket() string {
	if path, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		return path
	}
	return "/var/run/docker.sock"
}

// call makes one request of the API. in, unless nil, is sent as JSON, and out,
// unless nil, is what the answer is decoded into.
func (e *engine) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	r, err := e.do(ctx, method, path, "application/json", body)
	if err != nil {
		return err
	}
	defer r.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, r)
		return err
	}
	return json.NewDecoder(r).Decode(out)
}

func (e *engine) do(ctx context.Context, method, path, contentType string, body io.Reader) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://docker/v1.41"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	r, err := e.http.Do(req)
	if err != nil {
		return nil, err
	}
	if r.StatusCode >= 400 {
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		return nil, fmt.Errorf("docker: %s %s: %s: %s", method, path, r.Status, bytes.TrimSpace(text))
	}
	return r.Body, nil
}

// setUp makes the image, of nothing but files (name → path), and the network.
func (e *engine) setUp(ctx context.Context, files map[string]string) error {
	content, err := imageContent(files)
	if err != nil {
		return err
	}
	repo, tag, _ := strings.Cut(e.image, ":")
	r, err := e.do(ctx, "POST", "/images/create?fromSrc=-&repo="+url.QueryEscape(repo)+"&tag="+tag, "application/x-tar", content)
	if err != nil {
		return err
	}
	io.Copy(io.Discard, r)
	r.Close()
	e.weigh(ctx)
	// Addresses are given by hand, so that a server keeps its own through
	// restarts, as a balancer's configuration wants it.
	for subnet := 213; subnet < 250; subnet++ {
		e.subnet = subnet
		err = e.call(ctx, "POST", "/networks/create", map[string]any{
			"Name": e.network, "CheckDuplicate": true, "Labels": labels(e.label),
			"IPAM": map[string]any{"Config": []map[string]string{{"Subnet": fmt.Sprintf("10.%d.0.0/16", subnet)}}},
		}, nil)
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return err
}

// weigh puts the containers, this program and the balancers that it starts into
// one cgroup with the weight of eight processes. All of Docker's containers
// together have that of one otherwise: beside a few compilers they would get
// next to nothing, and what they lose would be the machine's doing.
func (e *engine) weigh(ctx context.Context) {
	var info struct{ CgroupDriver string }
	if e.call(ctx, "GET", "/info", nil, &info) != nil || info.CgroupDriver != "cgroupfs" {
		return
	}
	for root, f := range map[string][2]string{"/sys/fs/cgroup/cpu": {"cpu.shares", "8192"}, "/sys/fs/cgroup": {"cpu.weight", "800"}} {
		dir := filepath.Join(root, e.network)
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil || os.Mkdir(dir, 0o755) != nil {
			continue
		}
		if os.WriteFile(filepath.Join(dir, f[0]), []byte(f[1]), 0o644) == nil {
			os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644)
			e.cgroup = "/" + e.network
			return
		}
		os.Remove(dir)
	}
}

func labels(label string) map[string]string {
	k, v, _ := strings.Cut(label, "=")
	return map[string]string{k: v}
}

func imageContent(files map[string]string) (io.Reader, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var errs []error
	add := func(h *tar.Header, content []byte) {
		h.Size = int64(len(content))
		errs = append(errs, w.WriteHeader(h))
		_, err := w.Write(content)
		errs = append(errs, err)
	}
	for _, dir := range []string{"usr", "tmp", "app", "proc", "sys", "dev", "etc", "etc/alternatives", "run", "var", "var/log", "var/lib"} {
		add(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o1777}, nil)
	}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} { // as Debian has them
		add(&tar.Header{Typeflag: tar.TypeSymlink, Name: link, Linkname: "usr/" + link, Mode: 0o777}, nil)
	}
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644},
		[]byte("root:x:0:0::/tmp:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\nserver:x:1000:1000::/tmp:/bin/sh\n"))
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644},
		[]byte("root:x:0:\nnogroup:x:65534:\nserver:x:1000:\n"))
	for name, path := range files {
		content, err := os.ReadFile(path)
		errs = append(errs, err)
		add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755}, content)
	}
	errs = append(errs, w.Close())
	return &b, errors.Join(errs...)
}

// tearDown removes all that this run made.
func (e *engine) tearDown() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var list []struct{ Id string }
	e.call(ctx, "GET", "/containers/json?all=1&filters="+url.QueryEscape(`{"label":["`+e.label+`"]}`), nil, &list)
	for _, c := range list {
		e.call(ctx, "DELETE", "/containers/"+c.Id+"?force=1", nil, nil)
	}
	e.call(ctx, "DELETE", "/networks/"+e.network, nil, nil)
	e.call(ctx, "DELETE", "/images/"+e.image+"?force=1", nil, nil)
	left, _ := filepath.Glob("/sys/fs/cgroup/*/" + e.network)
	for _, dir := range append(left, "/sys/fs/cgroup/"+e.network) {
		os.WriteFile(filepath.Join(dir, "..", "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644)
		os.Remove(dir)
	}
}

// address gives the next free address of the network.
func (e *engine) address() string {
	e.next++
	return fmt.Sprintf("10.%d.%d.%d", e.subnet, e.next/200, e.next%200+10)
}

// container is one replica: it keeps its name and address through restarts.
type container struct {
	e      *engine
	id, ip string
}

// spec says what runs in a container.
type spec struct {
	argv  []string
	env   []string
	user  string
	mount []string // source:target
}

// machine gives a container the machine's own programs.
var machine = []string{"/usr:/usr:ro", "/etc/alternatives:/etc/alternatives:ro"}

func (e *engine) create(ctx context.Context, ip string, s spec) (*container, error) {
	binds := append(machine[:len(machine):len(machine)], e.apps+":/app:ro", e.classes+":/classes:ro")
	for _, m := range s.mount {
		binds = append(binds[:len(binds):len(binds)], m)
	}
	var made struct{ Id string }
	err := e.call(ctx, "POST", "/containers/create", map[string]any{
		"Image": e.image, "Entrypoint": s.argv[:1], "Cmd": s.argv[1:], "User": s.user, "WorkingDir": "/app",
		"Env": append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp"}, s.env...), "Labels": labels(e.label),
		"HostConfig": map[string]any{"Binds": binds, "NetworkMode": e.network, "CgroupParent": e.cgroup, "LogConfig": map[string]any{"Type": "json-file"},
			"Tmpfs": map[string]string{"/run": "mode=1777"}},
		"NetworkingConfig": map[string]any{"EndpointsConfig": map[string]any{e.network: map[string]any{
			"IPAMConfig": map[string]string{"IPv4Address": ip}}}},
	}, &made)
	return &container{e: e, id: made.Id, ip: ip}, err
}

func (c *container) start(ctx context.Context) error {
	return c.e.call(ctx, "POST", "/containers/"+c.id+"/start", nil, nil)
}

// process is a container's PID 1, by a pidfd. Docker itself takes a while to
// send a signal, and to tell of an end: seconds on a busy machine, which would
// be in every figure.
type process struct {
	c  *container
	fd int
}

// open returns the PID 1 of a container that runs.
func (c *container) open(ctx context.Context) (process, error) {
	pid, err := c.pid(ctx)
	if err != nil {
		return process{}, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	return process{c, fd}, os.NewSyscallError("pidfd_open", err)
}

func (p process) close() { unix.Close(p.fd) }

func (p process) signal(ctx context.Context, name string) error {
	switch err := unix.PidfdSendSignal(p.fd, unix.SignalNum(name), nil, 0); {
	case errors.Is(err, unix.ESRCH): // it has ended by itself
		return nil
	case errors.Is(err, unix.EPERM): // not root, but one of Docker's group
		return p.c.e.call(ctx, "POST", "/containers/"+p.c.id+"/kill?signal="+name, nil, nil)
	default:
		return os.NewSyscallError("pidfd_send_signal", err)
	}
}

// ended waits for the end, and reports whether it came before the deadline. The
// kernel has ended all other processes of the container by then.
func (p process) ended(ctx context.Context, deadline time.Time) bool {
	const atOnce = 500 * time.Millisecond
	for ctx.Err() == nil {
		left := time.Until(deadline)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(max(min(left, atOnce), 0).Milliseconds()))
		if n > 0 || left <= 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
	return false
}

// wait waits for the end and returns the exit code.
func (c *container) wait(ctx context.Context) (int, error) {
	var end struct{ StatusCode int }
	err := c.e.call(ctx, "POST", "/containers/"+c.id+"/wait", nil, &end)
	return end.StatusCode, err
}

func (c *container) remove(ctx context.Context) {
	c.e.call(ctx, "DELETE", "/containers/"+c.id+"?force=1", nil, nil)
}

// pid is that of its PID 1, outside.
func (c *container) pid(ctx context.Context) (int, error) {
	var state struct{ State struct{ Pid int } }
	err := c.e.call(ctx, "GET", "/containers/"+c.id+"/json", nil, &state)
	return state.State.Pid, err
}

// exec runs a command in it and waits until its output ends.
func (c *container) exec(ctx context.Context, argv ...string) error {
	var made struct{ Id string }
	if err := c.e.call(ctx, "POST", "/containers/"+c.id+"/exec", map[string]any{"Cmd": argv, "AttachStdout": true}, &made); err != nil {
		return err
	}
	return c.e.call(ctx, "POST", "/exec/"+made.Id+"/start", map[string]any{"Detach": false}, nil)
}

// logs returns what it has printed so far, or since an instant.
func (c *container) logs(ctx context.Context, since time.Time) string {
	path := "/containers/" + c.id + "/logs?stdout=1&stderr=1"
	if !since.IsZero() {
		path += "&since=" + strconv.FormatFloat(float64(since.UnixMilli())/1000, 'f', 3, 64)
	}
	r, err := c.e.do(ctx, "GET", path, "", nil)
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	var text strings.Builder
	head := make([]byte, 8) // stream, three zeros, length
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			return text.String()
		}
		n := int64(head[4])<<24 | int64(head[5])<<16 | int64(head[6])<<8 | int64(head[7])
		if _, err := io.CopyN(&text, r, n); err != nil {
			return text.String()
		}
	}
}

// usage is what the init in front of a server costs.
type usage struct {
	RSS     int           // kB
	CPU     time.Duration // since its start
	Zombies int           // that it has not collected
}

// usage reads what the container's PID 1 uses, and counts the zombies that it
// is the parent of.
func (c *container) usage(ctx context.Context) usage {
	var u usage
	pid, err := c.pid(ctx)
	if err != nil || pid == 0 {
		return u
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		if _, rest, ok := strings.Cut(string(b), "VmRSS:"); ok {
			fmt.Sscan(rest, &u.RSS)
		}
	}
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		var ns int64
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name())); err == nil {
			fmt.Sscan(string(b), &ns)
		}
		u.CPU += time.Duration(ns)
	}
	u.Zombies = zombies(pid)
	return u
}

// zombies counts the dead children of parent that nobody has waited for.
func zombies(parent int) (n int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for _, pid := range strings.Fields(string(children)) {
			if dead(pid) {
				n++
			}
		}
	}
	return n
}

func dead(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	i := bytes.LastIndexByte(b, ')')
	return err == nil && i > 0 && bytes.HasPrefix(b[i:], []byte(") Z"))
}
