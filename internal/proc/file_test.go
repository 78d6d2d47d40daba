package proc

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"testing"
)

func TestReadFile(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789"), 3000) // longer than the first buffer
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, want, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(name, []byte("left over"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v, want %d bytes", len(got), err, len(want))
	}
	if _, err := ReadFile(name+" not there", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v for a file that is not there", err)
	}
	if _, err := ReadFile(t.TempDir(), nil); err == nil {
		t.Error("no error for a directory")
	}
	allocations := testing.AllocsPerRun(100, func() { got, _ = ReadFile(name, got) })
	if allocations > 1 { // the name, for the kernel
		t.Errorf("%v allocations a read into a buffer that is large enough", allocations)
	}
}
