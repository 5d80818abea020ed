package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

type settings struct {
	Listen  string        `config:"listen" help:"address"`
	Token   string        `config:"token" help:"secret" secret:"true"`
	Loops   int           `config:"loops" help:"count"`
	Wait    time.Duration `config:"wait" help:"time"`
	Size    Bytes         `config:"size" help:"size"`
	Dev     bool          `config:"dev" help:"flag"`
	Origins []string      `config:"origins" help:"list"`
}

func (s *settings) Check() error {
	if s.Loops > 64 {
		return errors.New("loops is too large")
	}
	return nil
}

func load(t *testing.T, yaml string, environ, args []string) (settings, error) {
	t.Helper()
	s := settings{Listen: ":1", Loops: 2, Wait: time.Second, Size: 1 << 20}
	path := ""
	if yaml != "" {
		path = filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
	Register(fs, &s)
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	return s, Load(&s, fs, path, environ, "NABAT_CONFIG")
}

func TestPrecedence(t *testing.T) {
	s, err := load(t, "listen: \":2\"\nloops: 3\nwait: 2s\nsize: 64KiB\norigins: [a, b]\n",
		[]string{"NABAT_LOOPS=4", "NABAT_WAIT=3s", "NABAT_CONFIG=x", "PATH=/bin"}, []string{"--wait=4s", "--dev", "--origins=c,d"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Listen != ":2" || s.Loops != 4 || s.Wait != 4*time.Second || s.Size != 64<<10 || !s.Dev || strings.Join(s.Origins, "") != "cd" {
		t.Fatalf("%+v", s)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		rule, yaml string
		env, args  []string
		want       string
	}{
		{rule: "an unknown key in the file, with the nearest", yaml: "lisen: x", want: `unknown key "lisen"; did you mean listen?`},
		{rule: "an unknown variable, with the nearest", env: []string{"NABAT_LOOP=1"}, want: "unknown variable NABAT_LOOP; did you mean NABAT_LOOPS?"},
		{rule: "an unknown flag", args: []string{"--nope"}, want: "unknown flag: --nope"},
		{rule: "a number that is none, in the file", yaml: "loops: many", want: `loops: "many" is not a whole number`},
		{rule: "a duration that is none, in the environment", env: []string{"NABAT_WAIT=soon"}, want: `NABAT_WAIT: "soon" is not a duration`},
		{rule: "a size that is none, as a flag", args: []string{"--size=big"}, want: `"big" is not a size`},
		{rule: "a flag that is none", yaml: "dev: maybe", want: `dev: "maybe" is not true or false`},
		{rule: "a list for one value", yaml: "listen: [a]", want: "listen: must be one value, not a list"},
		{rule: "a mapping for a value", yaml: "listen: {a: b}", want: "listen: must be a value, not a mapping"},
		{rule: "broken YAML", yaml: "a: [", want: "configuration file"},
		{rule: "what Check refuses", yaml: "loops: 65", want: "loops is too large"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			_, err := load(t, c.yaml, c.env, c.args)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
	if err := Load(&settings{}, nil, "/does/not/exist", nil); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Fatalf("a missing file: %v", err)
	}
}

func TestEffectiveHidesSecrets(t *testing.T) {
	got := Effective(&settings{Listen: ":1", Token: "hush", Size: 1 << 20, Wait: time.Minute})
	if strings.Contains(got, "hush") || !strings.Contains(got, "•••") || !strings.Contains(got, "size: 1MiB\n") || !strings.Contains(got, "wait: 1m0s\n") {
		t.Fatalf("got\n%s", got)
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{"0": 0, "65536": 65536, "64KiB": 65536, "1MB": 1e6, "2GiB": 2 << 30, "5 B": 5} {
		got, err := ParseBytes(text)
		if err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
		if again, err := ParseBytes(got.String()); err != nil || again != got {
			t.Errorf("%s does not read back", got)
		}
	}
	for _, text := range []string{"", "-1", "1TiB", "x", "9999999999GiB"} {
		if _, err := ParseBytes(text); err == nil {
			t.Errorf("%q passed", text)
		}
	}
}
