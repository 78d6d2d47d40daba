package main

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/apk"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// writePackages writes a deb, an rpm and an apk for each target.
func writePackages(s *source, out string) error {
	dir, err := os.MkdirTemp("", "drainit-packages-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	manual := filepath.Join(dir, "drainit.1.gz")
	if err := compress(filepath.Join(out, "drainit.1"), manual); err != nil {
		return err
	}
	for _, t := range targets {
		for _, format := range []string{"deb", "rpm", "apk"} {
			if err := writePackage(s, out, manual, t, format); err != nil {
				return err
			}
		}
	}
	return nil
}

// compress writes a gzip that tells neither a name nor a time.
func compress(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(content); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(to, b.Bytes(), 0o644)
}

func writePackage(s *source, out, manual string, t target, format string) error {
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	file := func(from, to string, mode os.FileMode) *files.Content {
		return &files.Content{Source: from, Destination: to, FileInfo: &files.ContentFileInfo{
			Owner: "root", Group: "root", Mode: mode, MTime: s.time,
		}}
	}
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: "drainit", Arch: arch(t, format), Platform: "linux", Version: s.version,
		Section: "admin", Priority: "optional", License: "MIT", MTime: s.time,
		Maintainer:  "The drainit authors <drainit@users.noreply.github.com>",
		Homepage:    "https://github.com/drainit/drainit",
		Description: "container init that drops no requests during a rolling restart",
		// nfpm takes patterns otherwise, and a folder's name may look like one.
		DisableGlobbing: true,
		Overridables: nfpm.Overridables{
			Contents: files.Contents{
				file(filepath.Join(out, t.file()), "/usr/bin/drainit", 0o755),
				file(manual, "/usr/share/man/man1/drainit.1.gz", 0o644),
				file(filepath.Join(s.dir, "LICENSE"), "/usr/share/doc/drainit/copyright", 0o644),
			},
			// The builder's host name otherwise.
			RPM: nfpm.RPM{BuildHost: "localhost"},
		},
	})
	var b bytes.Buffer
	name := packager.ConventionalFileName(info)
	if err := packager.Package(info, &b); err != nil {
		return err
	}
	return write(out, name, b.Bytes(), 0o644)
}

// arch returns what nfpm calls the architecture in format, where that differs
// from Go's name.
func arch(t target, format string) string {
	switch {
	case t.goarch == "arm":
		return "arm7"
	case t.goarch == "386" && format == "rpm":
		return "i686" // i386 would promise processors without SSE2
	}
	return t.goarch
}
