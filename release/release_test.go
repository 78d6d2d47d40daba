package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dist returns the folder of the release under test: DIST, or what
// `make release` has written.
func dist(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("DIST")
	if dir == "" {
		dir = "../dist"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "SHA256SUMS")); err != nil {
		missing(t, "no release in "+dir+": make release VERSION=v0.1.0")
	}
	return dir
}

// missing skips a test that lacks something; in CI it fails it.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// needs skips a test that lacks a program.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing(t, err.Error())
		}
	}
}

// needsRoot skips a test that only root can do.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not root")
	}
}

// run runs a command and returns what it wrote on both outputs.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	return runIn(t, "", nil, name, args...)
}

func runIn(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// one returns the file of the release that matches pattern.
func one(t *testing.T, dir, pattern string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(paths) != 1 {
		t.Fatalf("%s matches %v (%v), want one file", pattern, paths, err)
	}
	return paths[0]
}

// version returns the version that the release says it is.
func version(t *testing.T, dir string) string {
	t.Helper()
	info, err := buildinfo.ReadFile(filepath.Join(dir, "drainit-linux-amd64"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Main.Version
}

func TestEachFileIsInTheSums(t *testing.T) {
	dir := dist(t)
	want := []string{"NOTES.md", "drainit-image.tar", "drainit.1", "drainit.cdx.json", "drainit.spdx.json"}
	for _, t := range targets {
		want = append(want, t.file())
	}
	sums, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]int{}
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(content)); got != sum {
			t.Errorf("%s is %s, SHA256SUMS says %s", name, got, sum)
		}
		packages[filepath.Ext(name)]++
		want = slices.DeleteFunc(want, func(w string) bool { return w == name })
	}
	if len(want) > 0 {
		t.Errorf("SHA256SUMS lacks %v", want)
	}
	for _, format := range []string{".deb", ".rpm", ".apk"} {
		if packages[format] != len(targets) {
			t.Errorf("%d files %s, want one for each of %d architectures", packages[format], format, len(targets))
		}
	}
}

// TestBinaries wants each binary static, for its architecture, and stamped.
func TestBinaries(t *testing.T) {
	dir := dist(t)
	for _, target := range targets {
		t.Run(target.name(), func(t *testing.T) {
			info, err := buildinfo.ReadFile(filepath.Join(dir, target.file()))
			if err != nil {
				t.Fatal(err)
			}
			settings := map[string]string{}
			for _, s := range info.Settings {
				settings[s.Key] = s.Value
			}
			if settings["GOARCH"] != target.goarch || settings["CGO_ENABLED"] != "0" || settings["vcs.modified"] != "false" {
				t.Errorf("built with %v", settings)
			}
			if !semver.MatchString(info.Main.Version) || settings["vcs.revision"] == "" || settings["vcs.time"] == "" {
				t.Errorf("version %q, commit %q of %q", info.Main.Version, settings["vcs.revision"], settings["vcs.time"])
			}
			if level, value, ok := strings.Cut(target.level, "="); ok && settings[level] != value {
				t.Errorf("%s is %q, want %q", level, settings[level], value)
			}
		})
	}
}

func TestVersionTellsTheBuild(t *testing.T) {
	dir := dist(t)
	binary, err := native(dir)
	if err != nil {
		t.Skip(err)
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	got := run(t, binary, "version")
	want := []string{info.Main.Version, info.GoVersion}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			want = append(want, s.Value[:12])
		case "vcs.time":
			want = append(want, s.Value[:len("2006-01-02")])
		}
	}
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("`drainit version` prints %q, which lacks %s", got, w)
		}
	}
}

// qemu is what qemu-user calls an architecture.
var qemu = map[string]string{"amd64": "x86_64", "386": "i386", "arm64": "aarch64", "loong64": "loongarch64"}

// runsHere reports whether this machine runs the 386 binary by itself.
// qemu-i386 does not run Go programs: they crash before main.
func runsHere(goarch string) bool {
	return goarch == runtime.GOARCH || goarch == "386" && runtime.GOARCH == "amd64"
}

// TestStopOnEachArchitecture lets each binary start, drain and stop a child,
// under qemu-user where the processor is another. The child is a program of
// this machine.
func TestStopOnEachArchitecture(t *testing.T) {
	dir := dist(t)
	for _, target := range targets {
		t.Run(target.name(), func(t *testing.T) {
			command := []string{filepath.Join(dir, target.file()), "--", "sleep", "1000"}
			if !runsHere(target.goarch) {
				name := target.goarch
				if q, ok := qemu[name]; ok {
					name = q
				}
				needs(t, "qemu-"+name+"-static")
				command = append([]string{"qemu-" + name + "-static"}, command...)
			}
			stop(t, command)
		})
	}
}

// stop runs command, sends SIGTERM once it is ready, and wants the window to
// pass and the child to be ended by the forwarded signal.
func stop(t *testing.T, command []string) {
	t.Helper()
	addr := free(t)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "DRAINIT_HEALTH_ADDR="+addr, "DRAINIT_READY_CHECK=started", "DRAINIT_GRACE_PERIOD=60",
		"DRAINIT_DRAIN_WINDOW=1s", "DRAINIT_TERMINATION_LOG=off")
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer hung.Stop()
	for deadline := time.Now().Add(time.Minute); !ready(addr) && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	asked := time.Now()
	cmd.Process.Signal(syscall.SIGTERM)
	err := cmd.Wait()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 128+int(syscall.SIGTERM) {
		t.Fatalf("%v, want code 143\n%s", err, log.String())
	}
	if took := time.Since(asked); took < time.Second {
		t.Errorf("forwarded after %s, before the window of 1s\n%s", took, log.String())
	}
	if !strings.Contains(log.String(), "stop signal forwarded") {
		t.Errorf("the log does not tell of the forwarding:\n%s", log.String())
	}
}

// free returns an address on loopback that nothing listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// ready reports whether the drainit at addr says that it is ready.
func ready(addr string) bool {
	r, err := http.Get("http://" + addr + "/readyz")
	if err != nil {
		return false
	}
	r.Body.Close()
	return r.StatusCode == http.StatusOK
}

// TestDeb installs and removes the package in a clean Debian.
func TestDeb(t *testing.T) {
	dir := dist(t)
	needs(t, "mmdebstrap", "dpkg")
	needsRoot(t)
	arch := strings.TrimSpace(run(t, "dpkg", "--print-architecture"))
	deb := one(t, dir, "*_"+arch+".deb")
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte(`set -eux
dpkg -i /drainit.deb
test "$(dpkg -L drainit | grep -c -e ^/usr/bin/drainit$ -e ^/usr/share/doc/drainit/copyright$)" = 2
drainit version
DRAINIT_HEALTH_ADDR=off drainit -- sh -c 'exit 7' || test $? = 7
dpkg -r drainit
test ! -e /usr/bin/drainit
test -z "$(dpkg-query -W -f '${Status}' drainit 2>/dev/null)"
`), 0o644); err != nil {
		t.Fatal(err)
	}
	out := run(t, "mmdebstrap", "--quiet", "--variant=essential", "--customize-hook=copy-in "+script+" /",
		"--customize-hook=upload "+deb+" /drainit.deb", `--customize-hook=chroot "$1" sh /script`, "bookworm", "/dev/null")
	if !strings.Contains(out, "drainit "+version(t, dir)) && !strings.Contains(out, version(t, dir)) {
		t.Errorf("the installed program does not say that it is %s:\n%s", version(t, dir), out)
	}
}

// TestRPM has rpm install, verify and remove the package in a folder, and read
// the packages of all architectures.
func TestRPM(t *testing.T) {
	dir := dist(t)
	needs(t, "rpm")
	needsRoot(t)
	machine := strings.TrimSpace(run(t, "uname", "-m"))
	root := t.TempDir()
	rpm := func(args ...string) string { return run(t, "rpm", append([]string{"--root", root}, args...)...) }
	rpm("--install", one(t, dir, "*."+machine+".rpm"))
	rpm("--verify", "drainit")
	if out := run(t, filepath.Join(root, "usr/bin/drainit"), "version"); !strings.Contains(out, version(t, dir)) {
		t.Errorf("installed: %s", out)
	}
	rpm("--erase", "drainit")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/drainit")); err == nil {
		t.Error("the program is still there after --erase")
	}
	all, _ := filepath.Glob(filepath.Join(dir, "*.rpm"))
	for _, path := range all {
		run(t, "rpm", "--checksig", "--nosignature", path)
		// What would name the builder's machine.
		if host := run(t, "rpm", "-qp", "--nosignature", "--queryformat", "%{BUILDHOST}", path); host != "localhost" {
			t.Errorf("%s: built on %q", path, host)
		}
	}
}

// TestAPK reads each package as apk does: gzip members one after the other, the
// control's with the digest of the data's. Where apk is installed it installs
// and removes the package as well.
func TestAPK(t *testing.T) {
	dir := dist(t)
	for _, target := range targets {
		paths, _ := filepath.Glob(filepath.Join(dir, "*.apk"))
		if len(paths) != len(targets) {
			t.Fatalf("%d packages, want %d (%s)", len(paths), len(targets), target.name())
		}
		for _, path := range paths {
			readAPK(t, path)
		}
		break
	}
	if _, err := exec.LookPath("apk"); err != nil {
		return
	}
	root := t.TempDir()
	path := one(t, dir, "*_"+strings.TrimSpace(run(t, "uname", "-m"))+".apk")
	run(t, "apk", "--root", root, "--initdb", "--allow-untrusted", "--no-network", "add", path)
	run(t, filepath.Join(root, "usr/bin/drainit"), "version")
	run(t, "apk", "--root", root, "--no-network", "del", "drainit")
}

func readAPK(t *testing.T, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	control, rest := member(t, content)
	hash := regexp.MustCompile(`(?m)^datahash = ([0-9a-f]{64})$`).FindStringSubmatch(control[".PKGINFO"])
	if hash == nil || hash[1] != fmt.Sprintf("%x", sha256.Sum256(rest)) {
		t.Errorf("%s: the control's datahash is not the data's:\n%s", path, control[".PKGINFO"])
	}
	data, rest := member(t, rest)
	if data["usr/bin/drainit"] == "" || len(rest) != 0 {
		t.Errorf("%s: no program in it, or %d bytes too many", path, len(rest))
	}
}

// member reads the tar in the first gzip member, and returns its files and what
// follows the member.
func member(t *testing.T, content []byte) (files map[string]string, rest []byte) {
	t.Helper()
	r := bytes.NewReader(content) // an io.ByteReader: gzip reads no further than the member
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	z.Multistream(false)
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	for tr := tar.NewReader(bytes.NewReader(plain)); ; {
		h, err := tr.Next()
		if err != nil {
			break // the control's tar has no end, as apk wants it
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
	return files, content[len(content)-r.Len():]
}

// TestImage pushes the image to a registry of its own and uses it the ways that
// the README shows: COPY --from, and an init container with install.
func TestImage(t *testing.T) {
	dir := dist(t)
	needs(t, "docker")
	if out, err := exec.Command("docker", "info").CombinedOutput(); err != nil {
		missing(t, "docker does not answer: "+string(out))
	}
	ref := serve(t) + "/drainit:" + version(t, dir)
	out := run(t, "./push", filepath.Join(dir, "drainit-image.tar"), ref)
	if !regexp.MustCompile(`(?m)^digest=sha256:[0-9a-f]{64}$`).MatchString(out) {
		t.Fatalf("push printed %q", out)
	}
	platforms(t, ref)
	run(t, "docker", "pull", "--quiet", ref)
	t.Cleanup(func() { exec.Command("docker", "image", "rm", "--force", ref).Run() })

	context := t.TempDir()
	runIn(t, "..", []string{"CGO_ENABLED=0", "GOFLAGS=-buildvcs=false"}, "go", "build", "-o", filepath.Join(context, "server"), "./examples/server")
	t.Run("COPY --from", func(t *testing.T) { copyFrom(t, ref, context) })
	t.Run("init container", func(t *testing.T) { initContainer(t, ref, context) })
}

// serve starts a registry on loopback that ends with the test, and returns its
// address.
func serve(t *testing.T) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(free(t))
	crane := strings.TrimSpace(run(t, "go", "tool", "-n", "crane"))
	cmd := exec.Command(crane, "registry", "serve", "--address", "127.0.0.1:"+port, "--disk", t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	addr := "localhost:" + port
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatal("the registry does not answer")
		}
	}
}

// platforms wants an image for each target, with one file.
func platforms(t *testing.T, ref string) {
	t.Helper()
	for _, target := range targets {
		platform := "linux/" + target.goarch
		if target.oci != "" {
			platform += "/" + target.oci
		}
		tarball := filepath.Join(t.TempDir(), "image.tar")
		run(t, "go", "tool", "crane", "export", "--platform", platform, ref, tarball)
		f, err := os.Open(tarball)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for r := tar.NewReader(f); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			names = append(names, h.Name)
		}
		f.Close()
		if !slices.Equal(names, []string{"drainit"}) {
			t.Errorf("%s: in the image are %q, want drainit alone", platform, names)
		}
	}
}

// build builds a Dockerfile and returns the image.
func build(t *testing.T, context, dockerfile string) string {
	t.Helper()
	path := filepath.Join(context, "Dockerfile")
	if err := os.WriteFile(path, []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	image := fmt.Sprintf("drainit-release-test:%d", time.Now().UnixNano())
	run(t, "docker", "build", "--quiet", "--tag", image, context)
	t.Cleanup(func() { exec.Command("docker", "image", "rm", "--force", image).Run() })
	return image
}

func copyFrom(t *testing.T, ref, context string) {
	image := build(t, context, "FROM scratch\nCOPY --from="+ref+" /drainit /drainit\nCOPY server /server\n"+
		`ENTRYPOINT ["/drainit","--"]`+"\n"+`CMD ["/server"]`+"\n")
	serves(t, "--read-only", "--cap-drop=ALL", "--user=65534:65534", image)
}

func initContainer(t *testing.T, ref, context string) {
	volume := fmt.Sprintf("drainit-release-test-%d", time.Now().UnixNano())
	t.Cleanup(func() { exec.Command("docker", "volume", "rm", "--force", volume).Run() })
	run(t, "docker", "run", "--rm", "--volume", volume+":/share", ref, "install", "/share/drainit")
	image := build(t, context, "FROM scratch\nCOPY server /server\n")
	serves(t, "--volume", volume+":/share:ro", "--entrypoint", "/share/drainit", image, "--", "/server")
}

// serves runs a container, wants it ready, and wants `docker stop` to be
// answered by a drain and a clean end.
func serves(t *testing.T, args ...string) {
	t.Helper()
	id := strings.TrimSpace(run(t, "docker", append([]string{
		"run", "--detach", "--env=DRAINIT_GRACE_PERIOD=60", "--env=DRAINIT_DRAIN_WINDOW=2s",
		"--env=DRAINIT_EXIT_CODES=143=0", // the server dies on SIGTERM
	}, args...)...))
	t.Cleanup(func() { exec.Command("docker", "rm", "--force", "--volumes", id).Run() })
	binary := "/drainit"
	if slices.Contains(args, "/share/drainit") {
		binary = "/share/drainit"
	}
	for deadline := time.Now().Add(time.Minute); exec.Command("docker", "exec", id, binary, "check").Run() != nil; {
		if time.Now().After(deadline) {
			t.Fatal("never ready:\n" + run(t, "docker", "logs", id))
		}
		time.Sleep(100 * time.Millisecond)
	}
	run(t, "docker", "stop", "--time=60", id)
	log := run(t, "docker", "logs", id)
	if code := strings.TrimSpace(run(t, "docker", "inspect", "--format={{.State.ExitCode}}", id)); code != "0" {
		t.Errorf("code %s, want 0\n%s", code, log)
	}
	if !strings.Contains(log, "stop signal forwarded") {
		t.Errorf("the stop was not drainit's:\n%s", log)
	}
}

// TestSBOMs wants both to list what is in the binary of each architecture.
func TestSBOMs(t *testing.T) {
	dir := dist(t)
	var cdx struct {
		BOMFormat  string
		Metadata   struct{ Component struct{ PURL string } }
		Components []struct{ PURL string }
	}
	var doc struct {
		SPDXVersion string
		Packages    []struct {
			ExternalRefs []struct{ ReferenceLocator string }
		}
	}
	for file, into := range map[string]any{"drainit.cdx.json": &cdx, "drainit.spdx.json": &doc} {
		content, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(content, into); err != nil {
			t.Fatal(err)
		}
	}
	inCDX := []string{cdx.Metadata.Component.PURL}
	for _, c := range cdx.Components {
		inCDX = append(inCDX, c.PURL)
	}
	var inSPDX []string
	for _, p := range doc.Packages {
		inSPDX = append(inSPDX, p.ExternalRefs[0].ReferenceLocator)
	}
	for _, target := range targets {
		all, err := parts(filepath.Join(dir, target.file()))
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, p := range all {
			want = append(want, p.purl())
		}
		if !slices.Equal(inCDX, want) || !slices.Equal(inSPDX, want) {
			t.Errorf("%s is made of %q, CycloneDX says %q, SPDX %q", target.name(), want, inCDX, inSPDX)
		}
	}
}

// TestScannersSeeWhichFunctionsAreLinked wants govulncheck to tell a vulnerable
// function that is in the binary from one of the same package that is not. The
// database is made up: os.ReadFile is linked, os.CopyFS is not.
func TestScannersSeeWhichFunctionsAreLinked(t *testing.T) {
	dir := dist(t)
	db := t.TempDir()
	const modified = "2026-01-01T00:00:00Z"
	entry := func(id, function string) map[string]any {
		return map[string]any{
			"schema_version": "1.3.1", "id": id, "modified": modified, "published": modified,
			"database_specific": map[string]string{"url": "https://pkg.go.dev/vuln/" + id},
			"affected": []any{map[string]any{
				"package":            map[string]string{"name": "stdlib", "ecosystem": "Go"},
				"ranges":             []any{map[string]any{"type": "SEMVER", "events": []any{map[string]string{"introduced": "0"}}}},
				"ecosystem_specific": map[string]any{"imports": []any{map[string]any{"path": "os", "symbols": []string{function}}}},
			}},
		}
	}
	type ref struct {
		ID       string `json:"id"`
		Modified string `json:"modified"`
	}
	refs := []ref{{"GO-2026-0001", modified}, {"GO-2026-0002", modified}}
	for path, content := range map[string]any{
		"index/db.json":        map[string]string{"modified": modified},
		"index/modules.json":   []any{map[string]any{"path": "stdlib", "vulns": refs}},
		"index/vulns.json":     refs,
		"ID/GO-2026-0001.json": entry("GO-2026-0001", "ReadFile"),
		"ID/GO-2026-0002.json": entry("GO-2026-0002", "CopyFS"),
	} {
		b, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		path = filepath.Join(db, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "tool", "govulncheck", "-mode=binary", "-db=file://"+db, filepath.Join(dir, "drainit-linux-amd64"))
	out, err := cmd.CombinedOutput()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() == 1 {
		t.Fatalf("%v, want findings\n%s", err, out)
	}
	if !strings.Contains(string(out), "os.ReadFile") || strings.Contains(string(out), "os.CopyFS") {
		t.Errorf("os.ReadFile is linked and os.CopyFS is not, but govulncheck says\n%s", out)
	}
}

// TestManual wants man to read the page, with each variable in it.
func TestManual(t *testing.T) {
	dir := dist(t)
	needs(t, "man")
	cmd := exec.Command("man", "--warnings", "--encoding=utf8", "-l", filepath.Join(dir, "drainit.1"))
	cmd.Env = append(os.Environ(), "MANWIDTH=80", "LC_ALL=C.UTF-8", "MAN_KEEP_FORMATTING=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	page, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	binary, err := native(dir)
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(run(t, binary, "help")) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		// Headings lose their colon, and are in capitals.
		word := strings.ToLower(strings.TrimSuffix(words[0], ":"))
		if !strings.Contains(strings.ToLower(string(page)), word) {
			t.Errorf("the page lacks %q of %q", word, line)
		}
	}
}

// TestVerify has another user, in another folder, with another umask, time zone
// and build cache, check the release against the source: its signature by a
// throw-away key, its sums, and that a second build gives the same bytes. What
// is changed in the release is found, each time by the step that is for it.
func TestVerify(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the release again")
	}
	dir := dist(t)
	needs(t, "setpriv", "git")
	needsRoot(t)
	cosign := cosign(t)
	work, err := os.MkdirTemp("", "another folder-") // t.TempDir is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { run(t, "chmod", "-R", "u+w", work); os.RemoveAll(work) })
	run(t, "git", "clone", "-q", "--no-local", "..", filepath.Join(work, "source"))
	env := []string{
		"COSIGN=" + cosign, "COSIGN_PASSWORD=", "COSIGN_KEY=" + filepath.Join(work, "cosign.pub"), "COMMIT=" + revision(t, dir),
		"HOME=" + work, "TZ=Pacific/Auckland", "LC_ALL=C.UTF-8",
		"GOCACHE=" + filepath.Join(work, "cache"), "GOFLAGS=-modcacherw", "GOPATH=" + filepath.Join(work, "go"),
	}
	runIn(t, work, env, cosign, "generate-key-pair")
	// The script that changes the release runs in it, beside source and key.
	const sign = "../source/release/sign . --key ../cosign.key --tlog-upload=false --use-signing-config=false"
	for _, c := range []struct{ name, version, change, want string }{
		{"as it was published", version(t, dir), sign, "this source gives the same files"},
		{"a file is changed", version(t, dir), sign + "; echo another >drainit-linux-arm64", "drainit-linux-arm64: FAILED"},
		{"the sums are changed", version(t, dir), sign + "; echo >>SHA256SUMS", "invalid signature"},
		{"there is no signature", version(t, dir), "true", "SHA256SUMS.sigstore.json"},
		{"it is of another version", "v99.0.0", sign, "not of v99.0.0"},
		{"it is of another source", version(t, dir), "echo another >NOTES.md; sha256sum $(cut -c 67- SHA256SUMS) >new; mv new SHA256SUMS; " + sign, "NOTES.md"},
	} {
		t.Run(c.name, func(t *testing.T) {
			release := filepath.Join(work, "release")
			run(t, "rm", "-rf", release)
			run(t, "cp", "-r", dir, release)
			runIn(t, release, env, "sh", "-ec", c.change)
			run(t, "chown", "-R", "65534:65534", work)
			cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
				"sh", "-c", `umask 077; exec source/release/verify "$@"`, "sh", c.version, release)
			cmd.Dir, cmd.Env = work, append(os.Environ(), env...)
			out, err := cmd.CombinedOutput()
			if good := c.version == version(t, dir) && c.change == sign; good != (err == nil) || !strings.Contains(string(out), c.want) {
				t.Errorf("%v, and no %q in\n%s", err, c.want, out)
			}
		})
	}
}

// revision returns the commit that the release was built from.
func revision(t *testing.T, dir string) string {
	t.Helper()
	info, err := buildinfo.ReadFile(filepath.Join(dir, "drainit-linux-amd64"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	t.Fatal("no commit in the binary")
	return ""
}

// cosign returns the path of cosign: COSIGN, or one from its module.
func cosign(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("COSIGN"); path != "" {
		return path
	}
	if path, err := exec.LookPath("cosign"); err == nil {
		return path
	}
	bin := t.TempDir()
	runIn(t, "", []string{"GOBIN=" + bin, "GOFLAGS="}, "go", "install", "github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3")
	return filepath.Join(bin, "cosign")
}

func TestSectionOfTheChangelog(t *testing.T) {
	const changelog = "# Changelog\n\n## Unreleased\n\n- next\n\n## v1.1.0 - 2026-01-02\n\n- two\n- lines\n\n## v1.0.0\n\n- first\n"
	for version, want := range map[string]string{"v1.1.0": "- two\n- lines\n", "v1.0.0": "- first\n"} {
		if got, err := section(changelog, version); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", version, got, err, want)
		}
	}
	if got, err := section(changelog, "v2.0.0"); err == nil {
		t.Errorf("a version that is not in it: %q", got)
	}
}

func TestPrepareKeepsWhatIsNoRelease(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := prepare(dir); err == nil {
		t.Error("a folder that holds something else was emptied")
	}
	if err := os.WriteFile(filepath.Join(dir, "SHA256SUMS"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := prepare(dir); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left of the old release: %v", entries)
	}
}
