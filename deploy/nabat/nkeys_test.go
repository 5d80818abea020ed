package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
)

func TestNKeysAreMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	run := func() string {
		var out, problems bytes.Buffer
		if code := (&app{stdout: &out, stderr: &problems}).run(t.Context(), []string{"nkeys", "--dir", dir}); code != 0 {
			t.Fatalf("%d: %s", code, &problems)
		}
		return out.String()
	}
	if out := run(); strings.Count(out, "made  U") != len(roles) {
		t.Errorf("%s", out)
	}
	conf, err := os.ReadFile(filepath.Join(dir, "nkeys.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range roles {
		file := filepath.Join(dir, role+".nk")
		seed, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if info, _ := os.Stat(file); info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v", file, info.Mode())
		}
		pair, err := nkeys.FromSeed(bytes.TrimSpace(seed))
		if err != nil {
			t.Fatal(err)
		}
		public, _ := pair.PublicKey()
		if line := "NABAT_NKEY_" + strings.ToUpper(role) + ": " + public + "\n"; !strings.Contains(string(conf), line) {
			t.Errorf("nkeys.conf has no %s", line)
		}
		if !strings.Contains(accounts(t), "$NABAT_NKEY_"+strings.ToUpper(role)) {
			t.Errorf("accounts.conf has no %s", role)
		}
	}
	if out := run(); strings.Count(out, "kept  U") != len(roles) {
		t.Errorf("%s", out)
	}
	if again, _ := os.ReadFile(filepath.Join(dir, "nkeys.conf")); !bytes.Equal(again, conf) {
		t.Error("nkeys.conf changed")
	}
	if err := os.WriteFile(filepath.Join(dir, "edge.nk"), []byte("no seed"), 0o600); err != nil {
		t.Fatal(err)
	}
	var problems bytes.Buffer
	if code := (&app{stdout: &problems, stderr: &problems}).run(t.Context(), []string{"nkeys", "--dir", dir}); code != 1 || !strings.Contains(problems.String(), "holds no seed of a user") {
		t.Errorf("%d: %s", code, &problems)
	}
}

func accounts(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../nats/accounts.conf")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
