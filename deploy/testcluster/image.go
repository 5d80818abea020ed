package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Images of the test. They are loaded into each node and never pulled.
const (
	pauseName = "nabat.test/pause:1"
	imageName = "nabat.test/nabat"
	imageTag  = "e2e"
)

// buildImage makes Nabat's image with deploy/image, as a release is made.
func buildImage(root, file string) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "run", ".", "-root", root, "-o", file, "-sbom", "-", "-tag", imageName+":"+imageTag, "-version", imageTag)
	cmd.Dir = filepath.Join(root, "deploy", "image")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the image: %w\n%s", err, out)
	}
	return string(bytes.TrimSpace(out)), nil
}

// pauseImage writes an archive, as docker save does, with the one program that
// holds a pod's namespaces.
func pauseImage(file, program string) error {
	binary, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	layer, err := archive(map[string][]byte{"pause": binary}, 0o755)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/pause"}, "User": "65535:65535"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{pauseName}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	image, err := archive(map[string][]byte{"config.json": config, "layer.tar": layer, "manifest.json": manifest}, 0o644)
	if err != nil {
		return err
	}
	return os.WriteFile(file, image, 0o644)
}

func archive(files map[string][]byte, mode int64) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}
