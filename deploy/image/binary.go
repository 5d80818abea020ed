package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// compile builds the program for p and returns the file. What it depends on is
// the sources, the Go version and the flags: neither the folder, nor the time, nor
// the state of the version control.
func compile(o *options, p platform, work string) (string, error) {
	root, err := filepath.Abs(o.root)
	if err != nil {
		return "", err
	}
	file := filepath.Join(work, "nabat-"+p.arch)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X main.version="+o.version, "-o", file, "./deploy/nabat")
	cmd.Dir = root
	// Settings of the person who builds must not change what is built.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains([]string{"GOFLAGS", "GOEXPERIMENT", "GOAMD64", "GOARM64", "GOWORK", "GODEBUG", "GOFIPS140"}, name)
	})
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0", "GOWORK=off", "GOOS="+p.os, "GOARCH="+p.arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build for %s: %w\n%s", p, err, out)
	}
	return file, nil
}
