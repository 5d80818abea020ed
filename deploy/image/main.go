// Image builds Nabat's container image without a container runtime and without
// a registry: it compiles the program, puts it into one layer beside the few
// files that it needs, and writes an archive that runtimes import. The same
// sources give the same digest. Beside the archive it writes what is in it, as a
// CycloneDX bill of materials.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// options say what to build.
type options struct {
	root      string    // of the repository
	out       string    // the archive
	sbom      string    // the bill of materials; none if empty
	format    string    // oci or docker
	tag       string    // the name that the image is imported as
	version   string    // what nabat version prints
	revision  string    // of the sources
	source    string    // where the sources are
	created   time.Time // of the image and of the files in it
	platforms []platform
}

// platform is what an image runs on.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

func main() {
	if err := run(os.Args[1:], os.Getenv, os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
}

// run builds what args say and prints the digest.
func run(args []string, env func(string) string, stdout io.Writer) error {
	o, err := parse(args, env)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "nabat-image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // what stays is the system's to clean
	digest, err := build(o, work)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s  %s  %s\n", digest, o.tag, o.out)
	return nil
}

func parse(args []string, env func(string) string) (*options, error) {
	o := &options{}
	var platforms, created string
	f := flag.NewFlagSet("image", flag.ContinueOnError)
	f.StringVar(&o.root, "root", "../..", "the repository")
	f.StringVar(&o.out, "o", "nabat.tar", "the archive to write")
	f.StringVar(&o.sbom, "sbom", "", "the bill of materials to write; - for none (default the archive's name with .cdx.json)")
	f.StringVar(&o.format, "format", "oci", "oci (any number of platforms) or docker (one)")
	f.StringVar(&o.tag, "tag", "nabat:dev", "the name that the image is imported as")
	f.StringVar(&o.version, "version", "dev", "the version that the program tells")
	f.StringVar(&o.revision, "revision", "", "the revision of the sources, for a label")
	f.StringVar(&o.source, "source", "", "where the sources are, for a label")
	f.StringVar(&created, "created", env("SOURCE_DATE_EPOCH"), "time of the image in seconds since 1970 (SOURCE_DATE_EPOCH; default 0)")
	f.StringVar(&platforms, "platforms", "linux/amd64", "platforms, comma separated")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("takes flags only, but was given %q", f.Arg(0))
	}
	seconds := int64(0)
	if created != "" {
		var err error
		if seconds, err = strconv.ParseInt(created, 10, 64); err != nil || seconds < 0 {
			return nil, fmt.Errorf("-created %q: must be seconds since 1970", created)
		}
	}
	o.created = time.Unix(seconds, 0).UTC()
	for _, text := range strings.Split(platforms, ",") {
		system, arch, ok := strings.Cut(text, "/")
		if !ok || system != "linux" || arch == "" {
			return nil, fmt.Errorf("-platforms %q: must be linux/ARCH, such as linux/arm64", text)
		}
		o.platforms = append(o.platforms, platform{system, arch})
	}
	switch o.sbom {
	case "":
		o.sbom = strings.TrimSuffix(o.out, filepath.Ext(o.out)) + ".cdx.json"
	case "-":
		o.sbom = ""
	}
	return o, o.check()
}

// a word goes into the linker's flags.
var word = regexp.MustCompile(`^[A-Za-z0-9._+-]+$`)

func (o *options) check() error {
	switch {
	case o.format != "oci" && o.format != "docker":
		return fmt.Errorf("-format %q: must be oci or docker", o.format)
	case o.format == "docker" && len(o.platforms) > 1:
		return errors.New("-format docker holds one platform: give one, or -format oci")
	case !word.MatchString(o.version):
		return fmt.Errorf("-version %q: letters, digits, dots, dashes and plus signs only", o.version)
	}
	return nil
}
