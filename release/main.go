// Release builds what a version of drainit publishes into one folder.
//
//	go run . -version v0.1.0 -out ../dist
//
// It writes static binaries for eight architectures, their deb, rpm and apk, a
// multi-arch OCI image, two SBOMs, the man page, the release notes and
// SHA256SUMS. It reads the commit at HEAD and Go modules and nothing else:
// files that are not committed, the folder, the user, the time and other tags
// do not change a byte of what it writes. That is what lets release/verify
// compare a published release with its source.
//
// It is a module of its own, so that its dependencies are not the program's.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// semver is what Go takes for a version.
var semver = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.]+)?$`)

func main() {
	version := flag.String("version", "", "the version to build: v1.2.3")
	repo := flag.String("repo", "..", "the repository")
	out := flag.String("out", "../dist", "the folder to write to, emptied first")
	flag.Parse()
	if !semver.MatchString(*version) {
		fmt.Fprintf(os.Stderr, "release: %q is not a version\nrelease: hint: -version v1.2.3\n", *version)
		os.Exit(2)
	}
	if err := release(*repo, *version, *out); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release builds version of the commit at repo's HEAD into the folder out.
func release(repo, version, out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	if err := prepare(out); err != nil {
		return err
	}
	s, err := checkOut(repo, version)
	if err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	for _, step := range []func(*source, string) error{
		writeBinaries, writeManual, writeNotes, writePackages, writeImage, writeSBOMs, writeSums,
	} {
		if err := step(s, out); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes dir an empty folder. It removes only what a release has
// written: a folder without SHA256SUMS is something else, unless it is empty.
func prepare(dir string) error {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, "SHA256SUMS")); err != nil {
			return fmt.Errorf("%s holds something else than a release: remove it, or choose another -out", dir)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return os.MkdirAll(dir, 0o755)
}

// writeSums writes SHA256SUMS, in the format of sha256sum.
func writeSums(_ *source, out string) error {
	entries, err := os.ReadDir(out)
	if err != nil {
		return err
	}
	var sums strings.Builder
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(out, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(content), e.Name())
	}
	return write(out, "SHA256SUMS", []byte(sums.String()), 0o644)
}

// write writes a file of the release, with the same mode under every umask.
func write(out, name string, content []byte, mode os.FileMode) error {
	path := filepath.Join(out, name)
	if err := os.WriteFile(path, content, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}
