package proc

import (
	"os/exec"
	"slices"
	"testing"
)

func TestParseEnviron(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{"A=1\x00", []string{"A=1"}},
		{"A=1\x00A=2\x00B\x00=x\x00", []string{"A=1", "A=2", "B", "=x"}},
		{"A=1\x00\x00B=2\x00", []string{"A=1", "", "B=2"}},
	} {
		if got := parseEnviron(tt.text); !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestEnvironIsThatOfTheStart(t *testing.T) {
	want, err := exec.Command("cat", "/proc/self/environ").Output()
	if err != nil {
		t.Skip(err)
	}
	if got := Environ(); len(got) != len(parseEnviron(string(want))) {
		t.Errorf("got %d variables, want %d", len(got), len(parseEnviron(string(want))))
	}
}
