package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Exit codes for a command that could not be started, as shells have them.
const (
	CodeCannotExecute = 126
	CodeNotFound      = 127
)

// StartError says why the command could not be started.
type StartError struct {
	Code int // CodeCannotExecute or CodeNotFound
	Msg  string
	Hint string
}

func (e *StartError) Error() string { return e.Msg }

// defaultPath is searched where PATH is unset: what Docker sets.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Lookup returns the file that name stands for, as execvp(3) and shells find
// it: a name with a slash is a path, an empty part of PATH is the current
// directory, and a file that may not be executed is remembered while the search
// goes on. exec.LookPath differs in each of these. The error is a *StartError.
func Lookup(name string) (string, error) {
	if name == "" {
		return "", &StartError{CodeNotFound, "the command is an empty string", "name a command after --"}
	}
	if strings.Contains(name, "/") {
		return name, checkExecutable(name)
	}
	path, ok := os.LookupEnv("PATH")
	if !ok {
		path = defaultPath
	}
	var denied error
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		// Join would clean "./x" to "x", which execve would take as it is and
		// a shell script in $0 would show.
		file := strings.TrimSuffix(dir, "/") + "/" + name
		err := checkExecutable(file)
		if err == nil {
			return file, nil
		}
		// bash and dash skip a directory of that name, and anything below a
		// directory that this user can't search: root's PATH is often
		// inherited.
		if info, serr := os.Stat(file); serr == nil && !info.IsDir() {
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", &StartError{CodeNotFound, fmt.Sprintf("%q is not found in PATH (%s)", name, path),
		"install it in the image, name it by its full path, or set PATH"}
}

// checkExecutable reports why file can't be executed, as far as that can be
// told beforehand.
func checkExecutable(file string) error {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return &StartError{CodeNotFound, fmt.Sprintf("%q does not exist", file), "correct the path, or copy the file into the image"}
	case err != nil:
		return &StartError{CodeCannotExecute, fmt.Sprintf("can't examine %q: %v", file, err), "check the permissions of the directories above it"}
	case info.IsDir():
		return &StartError{CodeCannotExecute, fmt.Sprintf("%q is a directory", file), "name the program in that directory"}
	case unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS) != nil:
		return &StartError{CodeCannotExecute, fmt.Sprintf("%q may not be executed by uid %d", file, os.Geteuid()), fmt.Sprintf("chmod +x %s", file)}
	}
	return nil
}

// explain turns an error of execve into one that says what to do.
func explain(file string, err error) error {
	e := &StartError{CodeCannotExecute, fmt.Sprintf("can't execute %q: %v", file, err), ""}
	switch {
	case errors.Is(err, unix.ENOENT):
		// The file was there a moment ago: what is missing is what runs it.
		e.Code = CodeNotFound
		e.Msg = fmt.Sprintf("%q exists, but its interpreter does not: %s", file, interpreter(file))
		e.Hint = "install the interpreter, correct the #! line (look for a carriage return), or link the program statically"
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		e.Hint = "fork failed: raise the container's pids or memory limit"
	case errors.Is(err, unix.E2BIG):
		e.Hint = "shorten the arguments or the environment"
	case errors.Is(err, unix.ENOEXEC):
		e.Hint = "is it built for another architecture, or damaged?"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		e.Hint = "is it on a filesystem mounted noexec?"
	}
	return e
}

// looksBinary reports whether file is not a script, by bash's rule: a NUL byte
// in its first line. The usual cause is an image for another architecture;
// handing that binary to a shell would print pages of syntax errors.
func looksBinary(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 80)
	n, _ := f.Read(head)
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	return strings.Contains(line, "\x00")
}

// interpreter returns what the #! line names, or words for the missing dynamic
// loader of a binary.
func interpreter(file string) string {
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		head := make([]byte, 256) // the kernel reads no more (BINPRM_BUF_SIZE)
		n, _ := f.Read(head)
		if line, _, _ := strings.Cut(string(head[:n]), "\n"); strings.HasPrefix(line, "#!") {
			return fmt.Sprintf("%q", strings.TrimLeft(line[2:], " \t"))
		}
	}
	return "the dynamic loader of " + filepath.Base(file)
}
