package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// build makes the image in work, writes archive and bill, and returns the digest
// of what the tag means: of the index, or of the only image.
func build(o *options, work string) (digest v1.Hash, err error) {
	// The full name: what a runtime makes of a short one is its own affair.
	tag, err := name.NewTag(o.tag)
	if err != nil {
		return digest, fmt.Errorf("-tag: %w", err)
	}
	var images []mutate.IndexAddendum
	for _, p := range o.platforms {
		binary, err := compile(o, p, work)
		if err != nil {
			return digest, err
		}
		image, err := assemble(o, p, binary)
		if err != nil {
			return digest, fmt.Errorf("image for %s: %w", p, err)
		}
		images = append(images, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: p.os, Architecture: p.arch}}})
		if o.sbom != "" && len(images) == 1 { // the modules are the same everywhere
			if err := writeSBOM(o, binary); err != nil {
				return digest, err
			}
		}
	}
	if o.format == "docker" {
		image := images[0].Add.(v1.Image)
		if digest, err = image.Digest(); err != nil {
			return digest, err
		}
		return digest, tarball.WriteToFile(o.out, tag, image)
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), images...)
	if digest, err = index.Digest(); err != nil {
		return digest, err
	}
	return digest, writeOCI(o, tag, index, filepath.Join(work, "layout"))
}

// assemble is the image for one platform.
func assemble(o *options, p platform, binary string) (v1.Image, error) {
	list, err := entries(o.root, binary)
	if err != nil {
		return nil, err
	}
	layer, err := pack(list, o.created)
	if err != nil {
		return nil, err
	}
	created := v1.Time{Time: o.created}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		Architecture: p.arch, OS: p.os, Created: created, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User: uid + ":" + uid, WorkingDir: "/", Entrypoint: []string{"/usr/bin/nabat"},
			Env:    []string{"PATH=/usr/bin"},
			Labels: labels(o),
		},
	})
	if err != nil {
		return nil, err
	}
	return mutate.Append(image, mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "deploy/image, " + runtime.Version()}})
}

// labels are those of the image specification.
func labels(o *options) map[string]string {
	all := map[string]string{
		"title": "nabat", "description": "A clustered real-time broker on NATS: edge, control and NATS in one program",
		"licenses": "Apache-2.0", "version": o.version, "revision": o.revision, "source": o.source,
		"created": o.created.Format(time.RFC3339),
	}
	set := make(map[string]string)
	for key, value := range all {
		if value != "" {
			set["org.opencontainers.image."+key] = value
		}
	}
	return set
}

// writeOCI writes index as the only thing of an OCI layout, as an archive. dir is
// for the layout and must not exist.
func writeOCI(o *options, tag name.Tag, index v1.ImageIndex, dir string) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("layout: %w", err)
	}
	// containerd takes the name of the first, others that of the second.
	full := strings.Replace(tag.Name(), name.DefaultRegistry, "docker.io", 1)
	names := map[string]string{"io.containerd.image.name": full, "org.opencontainers.image.ref.name": tag.TagStr()}
	if err := path.AppendIndex(index, layout.WithAnnotations(names)); err != nil {
		return fmt.Errorf("layout: %w", err)
	}
	file, err := os.Create(o.out)
	if err != nil {
		return err
	}
	w := tar.NewWriter(file)
	err = filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || at == dir {
			return err
		}
		return archive(w, dir, at, d, o.created)
	})
	return errors.Join(err, w.Close(), file.Close())
}

// archive adds one file or folder of a layout to an archive.
func archive(w *tar.Writer, dir, at string, d fs.DirEntry, created time.Time) error {
	inside, err := filepath.Rel(dir, at)
	if err != nil {
		return err
	}
	h := &tar.Header{Name: filepath.ToSlash(inside), Typeflag: tar.TypeReg, Mode: 0o644, ModTime: created, Format: tar.FormatPAX}
	if d.IsDir() {
		h.Name, h.Typeflag, h.Mode = h.Name+"/", tar.TypeDir, 0o755
		return w.WriteHeader(h)
	}
	file, err := os.Open(at)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()
	if err != nil {
		return err
	}
	h.Size = info.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, file)
	return err
}
