package main

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// writeSBOM writes what a binary was made of, as it says itself.
func writeSBOM(o *options, binary string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("bill of materials: %w", err)
	}
	file, err := os.Create(o.sbom)
	if err != nil {
		return err
	}
	encoder := cdx.NewBOMEncoder(file, cdx.BOMFileFormatJSON)
	return errors.Join(encoder.SetPretty(true).Encode(bill(o, info)), file.Close())
}

// bill has no serial number and no time of its making, so that the same sources
// give the same bill.
func bill(o *options, info *debug.BuildInfo) *cdx.BOM {
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Timestamp: o.created.Format(time.RFC3339),
		Component: &cdx.Component{
			BOMRef: "nabat", Type: cdx.ComponentTypeApplication, Name: "nabat", Version: o.version,
			Licenses: &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
		},
	}
	components := []cdx.Component{module("stdlib", info.GoVersion, "")}
	uses := []string{components[0].BOMRef}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c := module(m.Path, m.Version, m.Sum)
		components, uses = append(components, c), append(uses, c.BOMRef)
	}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: "nabat", Dependencies: &uses}}
	return bom
}

// module is one module, named by a package URL. The sum is Go's own kind, which
// is no digest of a file: so it is a property.
func module(path, version, sum string) cdx.Component {
	if path == "stdlib" {
		version = strings.TrimPrefix(version, "go")
	}
	url := "pkg:golang/" + path + "@" + version
	c := cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: url}
	if sum != "" {
		c.Properties = &[]cdx.Property{{Name: "go:sum", Value: sum}}
	}
	return c
}
