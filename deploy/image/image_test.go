package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// makeImage builds with args and returns the digest that was printed.
func makeImage(t *testing.T, args ...string) (digest string) {
	t.Helper()
	var out strings.Builder
	if err := run(args, func(string) string { return "" }, &out); err != nil {
		t.Fatal(err)
	}
	digest, _, _ = strings.Cut(out.String(), " ")
	return digest
}

// unpack extracts an archive into a new folder.
func unpack(t *testing.T, r io.Reader) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // another user looks in
		t.Fatal(err)
	}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.Mkdir(at, h.FileInfo().Mode().Perm())
		} else {
			var data []byte
			if data, err = io.ReadAll(tr); err == nil {
				err = os.WriteFile(at, data, h.FileInfo().Mode().Perm())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// copySources copies what is needed to build the program.
func copySources(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.go", "go.mod", "go.sum", "LICENSE", "control", "proto", "edge")
	list.Dir = "../.."
	names, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join("../..", name))
		if os.IsNotExist(err) {
			continue // removed, and not yet committed
		}
		to := filepath.Join(dir, name)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err == nil {
			err = os.WriteFile(to, data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTheSameSourcesGiveTheSameDigest(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "1.tar"), filepath.Join(dir, "2.tar")
	a := makeImage(t, "-o", first)
	b := makeImage(t, "-o", second, "-root", copySources(t)) // another folder, without version control
	if a != b || !strings.HasPrefix(a, "sha256:") {
		t.Errorf("digests %s and %s", a, b)
	}
	for _, names := range [][2]string{{first, second}, {filepath.Join(dir, "1.cdx.json"), filepath.Join(dir, "2.cdx.json")}} {
		x, errX := os.ReadFile(names[0])
		y, errY := os.ReadFile(names[1])
		if errX != nil || errY != nil || !bytes.Equal(x, y) {
			t.Errorf("%s and %s differ: %v, %v", names[0], names[1], errX, errY)
		}
	}
	if c := makeImage(t, "-o", second, "-version", "v1.2.3"); c == a {
		t.Error("another version has the same digest")
	}
}

func TestAnArchiveOfTheImageLayout(t *testing.T) {
	out := filepath.Join(t.TempDir(), "nabat.tar")
	digest := makeImage(t, "-o", out, "-platforms", "linux/amd64,linux/arm64", "-tag", "registry.example/nabat:v1.2.3")
	file, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	outer, err := layout.ImageIndexFromPath(unpack(t, file))
	if err != nil {
		t.Fatal(err)
	}
	m, err := outer.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	if d := m.Manifests[0]; d.Digest.String() != digest || d.Annotations["io.containerd.image.name"] != "registry.example/nabat:v1.2.3" {
		t.Errorf("the index names %+v, want %s", d, digest)
	}
	index, err := outer.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	inner, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, d := range inner.Manifests {
		platforms = append(platforms, d.Platform.String())
	}
	if got := strings.Join(platforms, " "); got != "linux/amd64 linux/arm64" {
		t.Errorf("platforms %s", got)
	}
}

func TestTheImageHoldsOneStaticProgramForAnOrdinaryUser(t *testing.T) {
	out := filepath.Join(t.TempDir(), "nabat.tar")
	makeImage(t, "-o", out, "-format", "docker", "-version", "v1.2.3", "-revision", "0123", "-created", "1700000000")
	image, err := tarball.ImageFromPath(out, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkConfig(t, image)
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	dir := unpack(t, r)

	var executable []string
	err = filepath.Walk(dir, func(at string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			executable = append(executable, strings.TrimPrefix(at, dir))
		}
		return err
	})
	if got := strings.Join(executable, " "); err != nil || got != "/usr/bin/nabat" {
		t.Errorf("executable files: %s, %v", got, err)
	}
	binary, err := elf.Open(filepath.Join(dir, "usr/bin/nabat"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the program wants a dynamic linker")
		}
	}
	authorities, err := os.ReadFile(filepath.Join(dir, "etc/ssl/certs/ca-certificates.crt"))
	if pool := x509.NewCertPool(); err != nil || !pool.AppendCertsFromPEM(authorities) || bytes.Count(authorities, []byte("BEGIN")) < 50 {
		t.Errorf("certificate authorities: %v", err)
	}
	runInside(t, dir)
}

func checkConfig(t *testing.T, image v1.Image) {
	t.Helper()
	c, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.User != "65532:65532" || strings.Join(c.Config.Entrypoint, " ") != "/usr/bin/nabat" || c.Created.Unix() != 1700000000 {
		t.Errorf("%+v", c)
	}
	for key, want := range map[string]string{"version": "v1.2.3", "revision": "0123", "licenses": "Apache-2.0", "created": "2023-11-14T22:13:20Z", "title": "nabat"} {
		if got := c.Config.Labels["org.opencontainers.image."+key]; got != want {
			t.Errorf("label %s: %q, want %q", key, got, want)
		}
	}
	if source, there := c.Config.Labels["org.opencontainers.image.source"]; there {
		t.Errorf("a label that nobody gave: %q", source)
	}
}

// runInside runs the program where there is nothing but the image.
func runInside(t *testing.T, dir string) {
	if os.Getuid() != 0 {
		t.Skip("changing the root folder needs root")
	}
	cmd := exec.Command("/usr/bin/nabat", "version")
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	// The folders above belong to this test's user.
	for at := filepath.Dir(dir); at != os.TempDir() && at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "nabat     v1.2.3\n") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestTheBillNamesTheModules(t *testing.T) {
	dir := t.TempDir()
	makeImage(t, "-o", filepath.Join(dir, "nabat.tar"), "-version", "v1.2.3")
	text, err := os.ReadFile(filepath.Join(dir, "nabat.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	var bom cdx.BOM
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	if c := bom.Metadata.Component; bom.BOMFormat != "CycloneDX" || c.Name != "nabat" || c.Version != "v1.2.3" {
		t.Errorf("%+v", bom.Metadata.Component)
	}
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go"} {
		_, version, _ := strings.Cut(string(mod), "\t"+name+" ")
		version = strings.Fields(version)[0]
		if !strings.Contains(string(text), `"pkg:golang/`+name+"@"+version+`"`) {
			t.Errorf("%s %s is not in the bill", name, version)
		}
	}
	if !strings.Contains(string(text), `"pkg:golang/stdlib@1.`) {
		t.Error("the standard library is not in the bill")
	}
}

func TestEveryBadFlagHasItsError(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-format zip", `-format "zip": must be oci or docker`},
		{"-format docker -platforms linux/amd64,linux/arm64", "-format docker holds one platform: give one, or -format oci"},
		{"-platforms windows/amd64", `-platforms "windows/amd64": must be linux/ARCH, such as linux/arm64`},
		{"-platforms linux", `-platforms "linux": must be linux/ARCH, such as linux/arm64`},
		{"-created yesterday", `-created "yesterday": must be seconds since 1970`},
		{"-version 'a", `-version "'a": letters, digits, dots, dashes and plus signs only`},
		{"nabat.tar", `takes flags only, but was given "nabat.tar"`},
	} {
		if _, err := parse(strings.Fields(c.args), func(string) string { return "" }); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.args, err, c.want)
		}
	}
	if err := run([]string{"-tag", "Not A Name"}, func(string) string { return "" }, io.Discard); err == nil || !strings.HasPrefix(err.Error(), "-tag: ") {
		t.Errorf("a bad tag: %v", err)
	}
}
