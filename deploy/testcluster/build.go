package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// program is one of the programs that make a Kubernetes, built from the module
// in the folder kube.
type program struct {
	name    string // of the file
	pkg     string // import path
	tags    string
	ldflags string
}

const (
	kubernetes = "v1.36.3"
	helm       = "v3.22.0"
)

// kubeVersion makes the programs know their version; without it helm and kubectl
// take the cluster for an old one.
func kubeVersion() string {
	var b strings.Builder
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, set := range []string{"gitVersion=" + kubernetes, "gitMajor=1", "gitMinor=36", "gitCommit=unknown", "gitTreeState=clean", "buildDate=1970-01-01T00:00:00Z"} {
			fmt.Fprintf(&b, " -X %s.%s", pkg, set)
		}
	}
	return b.String()
}

func helmVersion() string {
	return " -X helm.sh/helm/v3/internal/version.version=" + helm +
		" -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=36" +
		" -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36"
}

var (
	helmProgram = program{"helm", "helm.sh/helm/v3/cmd/helm", "", helmVersion()}

	forQuick = []program{
		{"kindless-quick", ".", "quick", kubeVersion()},
		helmProgram,
	}
	everything = []program{
		{"containerd", "github.com/containerd/containerd/v2/cmd/containerd", "no_btrfs,no_zfs,no_devmapper", ""},
		{"containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", "", ""},
		{"ctr", "github.com/containerd/containerd/v2/cmd/ctr", "no_btrfs,no_zfs,no_devmapper", ""},
		{"bridge", "github.com/containernetworking/plugins/plugins/main/bridge", "", ""},
		{"loopback", "github.com/containernetworking/plugins/plugins/main/loopback", "", ""},
		{"host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local", "", ""},
		{"coredns", "./dns", "", ""},
		{"pause", "./pause", "", ""},
		{"kindless", ".", "", kubeVersion()},
		helmProgram,
	}
)

// builder builds programs into a folder and keeps them there.
type builder struct {
	cache string
	say   func(format string, args ...any)
}

func (b *builder) bin() string { return filepath.Join(b.cache, "bin") }

// build makes the programs of set that are not there, or are of other sources.
func (b *builder) build(ctx context.Context, set []program) error {
	source, err := filepath.Abs("kube")
	if err != nil {
		return err
	}
	sum, err := fingerprint(source)
	if err != nil {
		return fmt.Errorf("%w: run it in deploy/testcluster", err)
	}
	if err := os.MkdirAll(b.bin(), 0o755); err != nil {
		return err
	}
	for _, p := range set {
		file := filepath.Join(b.bin(), p.name)
		stamp := file + ".of"
		of := sum + p.tags + p.ldflags
		if text, err := os.ReadFile(stamp); err == nil && string(text) == of {
			continue
		}
		begin := time.Now()
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", p.tags, "-ldflags", "-s -w"+p.ldflags, "-o", file, p.pkg)
		cmd.Dir = source
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", p.name, err, out)
		}
		if err := os.WriteFile(stamp, []byte(of), 0o644); err != nil {
			return err
		}
		b.say("built %s in %s", p.name, time.Since(begin).Round(time.Second))
	}
	return nil
}

// fingerprint changes with what the programs are built from.
func fingerprint(source string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum", "main.go", "node.go", "dns/main.go", "pause/main.go"} {
		text, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, name, len(text))
		h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// needed looks for what the machine has to bring, and names all that is missing.
func needed() error {
	var errs []error
	if os.Getuid() != 0 {
		errs = append(errs, errors.New("network namespaces and containers need root"))
	}
	for name, pkg := range map[string]string{"ip": "iproute2", "nsenter": "util-linux", "nft": "nftables", "runc": "runc"} {
		if _, err := exec.LookPath(name); err != nil {
			errs = append(errs, fmt.Errorf("%s is missing (Debian: apt-get install %s)", name, pkg))
		}
	}
	return errors.Join(errs...)
}
