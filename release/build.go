package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// A source is a checked-out commit, tagged with the version it becomes.
type source struct {
	dir, version, commit string
	time                 time.Time // of the commit
}

// A target is an architecture to build for.
type target struct {
	goarch string
	level  string // the oldest processors it is for, as Go names them
	oci    string // the variant in an image's index
}

// name is what the binary's file and nfpm call the architecture.
func (t target) name() string {
	if t.goarch == "arm" {
		return "armv7"
	}
	return t.goarch
}

// file is the name of the architecture's binary in a release.
func (t target) file() string { return "drainit-linux-" + t.name() }

// targets are the architectures that a release is for. Each names its level:
// otherwise the one in the builder's environment would be taken.
var targets = []target{
	{"amd64", "GOAMD64=v1", ""},
	{"arm64", "GOARM64=v8.0", "v8"},
	{"arm", "GOARM=7", "v7"},
	{"386", "GO386=sse2", ""},
	{"ppc64le", "GOPPC64=power8", ""},
	{"s390x", "", ""},
	{"riscv64", "GORISCV64=rva20u64", ""},
	{"loong64", "", ""},
}

// checkOut clones repo's HEAD and tags the clone with version, and with nothing
// else. Go then stamps version, commit and commit date into the binaries by
// itself, as `go install …@version` does, and scanners read them there. Made in
// place, a build would also depend on other tags and on uncommitted files.
func checkOut(repo, version string) (*source, error) {
	repo, err := filepath.Abs(repo)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "drainit-release-")
	if err != nil {
		return nil, err
	}
	s := &source{dir: dir, version: version}
	for _, args := range [][]string{
		// The repository may be another user's.
		{"-c", "safe.directory=*", "clone", "-q", "--no-tags", "--no-local", repo, dir},
		{"-C", dir, "-c", "tag.gpgSign=false", "tag", version},
	} {
		if _, err := output("", nil, "git", args...); err != nil {
			os.RemoveAll(dir)
			return nil, err
		}
	}
	head, err := output(dir, nil, "git", "log", "-1", "--format=%H %ct")
	if err != nil {
		return nil, err
	}
	commit, date, _ := strings.Cut(strings.TrimSpace(head), " ")
	seconds, err := strconv.ParseInt(date, 10, 64)
	s.commit, s.time = commit, time.Unix(seconds, 0).UTC()
	return s, err
}

// writeBinaries builds each target's binary.
func writeBinaries(s *source, out string) error {
	for _, t := range targets {
		env := []string{
			"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + t.goarch, t.level, "GOFLAGS=", "GOEXPERIMENT=", "GOFIPS140=off",
			"GOWORK=off", "GOENV=off", "GOTOOLCHAIN=" + runtime.Version(),
		}
		path := filepath.Join(out, t.file())
		// -w leaves out the debugger's tables. The symbols stay, for 8 % of the
		// size: without them scanners can't tell which functions are linked. The
		// Makefile says what disablethp is for.
		_, err := output(s.dir, env, "go", "build", "-trimpath", "-buildvcs=true", "-ldflags=-w -X runtime.godebugDefault=disablethp=1", "-o", path, ".")
		if err != nil {
			return err
		}
		if err := os.Chmod(path, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// native returns the path of the binary that runs on this machine.
func native(out string) (string, error) {
	for _, t := range targets {
		if t.goarch == runtime.GOARCH {
			return filepath.Join(out, t.file()), nil
		}
	}
	return "", fmt.Errorf("no binary of this release runs on %s", runtime.GOARCH)
}

// output runs a command and returns what it wrote on stdout.
func output(dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env, cmd.Stderr = dir, append(os.Environ(), env...), os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return string(text), nil
}
