package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// writeNotes writes the changelog's section of this version as NOTES.md.
func writeNotes(s *source, out string) error {
	changelog, err := os.ReadFile(filepath.Join(s.dir, "CHANGELOG.md"))
	if err != nil {
		return err
	}
	notes, err := section(string(changelog), s.version)
	if err != nil {
		return err
	}
	return write(out, "NOTES.md", []byte(notes), 0o644)
}

// section returns what the changelog has under the heading of version.
func section(changelog, version string) (string, error) {
	_, text, ok := strings.Cut(changelog, "\n## "+version)
	if !ok {
		return "", fmt.Errorf("CHANGELOG.md has no section %q: rename Unreleased", "## "+version)
	}
	_, text, _ = strings.Cut(text, "\n") // the date after it
	text, _, _ = strings.Cut(text, "\n## ")
	return strings.TrimSpace(text) + "\n", nil
}

// writeManual writes drainit.1 from what `drainit help` prints, so that there
// is one text to keep true.
func writeManual(s *source, out string) error {
	binary, err := native(out)
	if err != nil {
		return err
	}
	help, err := output("", nil, binary, "help")
	if err != nil {
		return err
	}
	return write(out, "drainit.1", []byte(manual(s, help)), 0o644)
}

// heading matches a line that begins a block: "Commands, before --:".
var heading = regexp.MustCompile(`^([A-Z][a-z]+(?: [a-z]+)?)([,(: ].*)?:$`)

// manual lays the help out as a man page. Indented lines are tables that were
// laid out by hand: they stay as they are.
func manual(s *source, help string) string {
	var b strings.Builder
	title, rest, _ := strings.Cut(help, "\n")
	what := strings.TrimSuffix(strings.TrimPrefix(title, "drainit "), ".")
	fmt.Fprintf(&b, ".TH DRAINIT 1 %s \"drainit %s\"\n.SH NAME\ndrainit \\- %s\n.SH DESCRIPTION\n",
		s.time.Format("2006-01-02"), s.version, escape(what))
	for block := range strings.SplitSeq(strings.TrimSpace(rest), "\n\n") {
		first, table, _ := strings.Cut(block, "\n")
		if m := heading.FindStringSubmatch(first); m != nil {
			fmt.Fprintf(&b, ".SH %s\n", strings.ToUpper(m[1]))
			if m[2] != "" {
				fmt.Fprintln(&b, escape(m[1]+m[2]+":"))
			}
			block = table
		}
		if strings.HasPrefix(block, " ") {
			fmt.Fprintf(&b, ".PP\n.EX\n%s\n.EE\n", escape(block))
		} else {
			fmt.Fprintf(&b, ".PP\n%s\n", escape(block))
		}
	}
	return b.String()
}

// escape keeps roff from reading text as its own requests.
func escape(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(text)
	return regexp.MustCompile(`(?m)^\.`).ReplaceAllString(text, `\&.`)
}

// listFiles returns the paths of the regular files in root, sorted.
func listFiles(root fs.FS) (paths []string, err error) {
	err = fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			paths = append(paths, path)
		}
		return err
	})
	return paths, err
}
