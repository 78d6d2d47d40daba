package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// writeImage writes the image of all architectures as a tar of an OCI layout.
// Nothing is in it but /drainit, so that COPY --from, an init container and an
// image volume all find that file, and it alone.
func writeImage(s *source, out string) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	index = mutate.Annotations(index, labels(s)).(v1.ImageIndex)
	for _, t := range targets {
		image, err := s.image(t, out)
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: t.goarch, Variant: t.oci},
		}})
	}
	dir, err := os.MkdirTemp("", "drainit-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// The layout's index is the image's own: `crane push --index` pushes that.
	if _, err := layout.Write(dir, index); err != nil {
		return err
	}
	return archive(s, dir, out)
}

// labels say what an image was built from.
func labels(s *source) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":    "drainit",
		"org.opencontainers.image.source":   "https://github.com/drainit/drainit",
		"org.opencontainers.image.version":  s.version,
		"org.opencontainers.image.revision": s.commit,
		"org.opencontainers.image.licenses": "MIT",
	}
}

// image returns the image of one architecture.
func (s *source) image(t target, out string) (v1.Image, error) {
	binary, err := os.ReadFile(filepath.Join(out, t.file()))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := add(w, s, "drainit", 0o755, binary); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: s.time}, CreatedBy: "COPY drainit /drainit",
	}})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = "linux", t.goarch, t.oci
	config.Created = v1.Time{Time: s.time}
	config.Config = v1.Config{Entrypoint: []string{"/drainit"}, Labels: labels(s)}
	return mutate.ConfigFile(image, config)
}

// archive writes the files of dir as drainit-image.tar.
func archive(s *source, dir, out string) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	root := os.DirFS(dir)
	names, err := listFiles(root)
	if err != nil {
		return err
	}
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := add(w, s, name, 0o644, content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return write(out, "drainit-image.tar", b.Bytes(), 0o644)
}

// add writes a file of the commit's time and of root's to a tar.
func add(w *tar.Writer, s *source, name string, mode int64, content []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: s.time, Format: tar.FormatUSTAR}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
