package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// A part is a module that is linked into the binaries; Go's own library is one.
type part struct{ name, version, license string }

// licenses of the modules that the binaries are linked from. A new one without
// an entry fails the release: its licence is looked at by a person.
var licenses = map[string]string{
	"github.com/drainit/drainit":           "MIT",
	"github.com/kelseyhightower/envconfig": "MIT",
	"golang.org/x/sys":                     "BSD-3-Clause",
	"std":                                  "BSD-3-Clause",
}

// purl names the module as scanners do.
func (p part) purl() string {
	if p.name == "std" {
		return "pkg:golang/stdlib@" + p.version
	}
	return "pkg:golang/" + p.name + "@" + p.version
}

// parts reads from a binary what it was linked from, the program itself first.
func parts(path string) ([]part, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := []part{{name: info.Main.Path, version: info.Main.Version}}
	for _, m := range info.Deps {
		all = append(all, part{name: m.Path, version: m.Version})
	}
	all = append(all, part{name: "std", version: strings.TrimPrefix(info.GoVersion, "go")})
	for i, p := range all {
		all[i].license = licenses[p.name]
		if all[i].license == "" {
			return nil, fmt.Errorf("%s is new: look at its licence and add it to licenses in release/sbom.go", p.name)
		}
	}
	return all, nil
}

// writeSBOMs writes what the binaries are made of, in the two usual formats.
// The binaries of all targets have the same parts.
func writeSBOMs(s *source, out string) error {
	all, err := parts(filepath.Join(out, targets[0].file()))
	if err != nil {
		return err
	}
	if err := writeCycloneDX(s, out, all); err != nil {
		return err
	}
	return writeSPDX(s, out, all)
}

func writeCycloneDX(s *source, out string, all []part) error {
	component := func(p part) cyclonedx.Component {
		return cyclonedx.Component{
			Type: cyclonedx.ComponentTypeLibrary, BOMRef: p.purl(), Name: p.name, Version: p.version, PackageURL: p.purl(),
			Licenses: &cyclonedx.Licenses{{License: &cyclonedx.License{ID: p.license}}},
		}
	}
	main := component(all[0])
	main.Type = cyclonedx.ComponentTypeApplication
	var libraries []cyclonedx.Component
	var refs []string
	for _, p := range all[1:] {
		libraries = append(libraries, component(p))
		refs = append(refs, p.purl())
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{Timestamp: s.time.Format(time.RFC3339), Component: &main}
	bom.Components = &libraries
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}
	var b bytes.Buffer
	if err := cyclonedx.NewBOMEncoder(&b, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return err
	}
	return write(out, "drainit.cdx.json", b.Bytes(), 0o644)
}

func writeSPDX(s *source, out string, all []part) error {
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      "drainit-" + s.version,
		DocumentNamespace: "https://github.com/drainit/drainit/releases/" + s.version + "/" + s.commit,
		CreationInfo: &spdx.CreationInfo{
			Created:  s.time.Format(time.RFC3339),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "drainit-release"}},
		},
	}
	for i, p := range all {
		id := common.ElementID(fmt.Sprintf("Package-%d", i))
		doc.Packages = append(doc.Packages, &spdx.Package{
			PackageName: p.name, PackageSPDXIdentifier: id, PackageVersion: p.version,
			PackageDownloadLocation: "NOASSERTION", PackageLicenseConcluded: p.license, PackageLicenseDeclared: p.license,
			PackageCopyrightText: "NOASSERTION", IsFilesAnalyzedTagPresent: true,
			PackageExternalReferences: []*spdx.PackageExternalReference{{
				Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: p.purl(),
			}},
		})
		from, kind := common.ElementID("DOCUMENT"), common.TypeRelationshipDescribe
		if i > 0 {
			from, kind = "Package-0", common.TypeRelationshipDependsOn
		}
		doc.Relationships = append(doc.Relationships, &spdx.Relationship{
			RefA: common.MakeDocElementID("", string(from)), RefB: common.MakeDocElementID("", string(id)), Relationship: kind,
		})
	}
	for _, t := range targets {
		content, err := os.ReadFile(filepath.Join(out, t.file()))
		if err != nil {
			return err
		}
		doc.Packages[0].PackageComment += fmt.Sprintf("%s sha256:%x\n", t.file(), sha256.Sum256(content))
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	return write(out, "drainit.spdx.json", append(b, '\n'), 0o644)
}
