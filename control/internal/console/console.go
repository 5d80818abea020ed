// Package console serves control's web pages: the start page and the stories.
package console

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed static
var static embed.FS

// Options of the pages.
type Options struct {
	// EdgeURL is where the pages find an edge, such as http://127.0.0.1:8080.
	// Empty: the page's own host, port 8080.
	EdgeURL string
}

// csp lets a page load its own files only, and connect to its edge.
const csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src *; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

var types = map[string]string{".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
	".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml", ".json": "application/json"}

type page struct {
	body []byte
	kind string
	etag string
}

// Handler serves the pages.
func Handler(o Options) http.Handler {
	pages := load()
	config, err := json.Marshal(map[string]string{"edge": o.EdgeURL})
	if err != nil {
		panic("console: " + err.Error()) // a text always encodes
	}
	pages["/config.json"] = newPage(config, ".json")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, pages) })
}

func newPage(body []byte, ext string) page {
	sum := sha256.Sum256(body)
	return page{body, types[ext], `"` + hex.EncodeToString(sum[:8]) + `"`}
}

// load names every embedded file by its path; index.html also by its folder.
func load() map[string]page {
	pages := make(map[string]page)
	err := fs.WalkDir(static, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := static.ReadFile(name)
		if err != nil {
			return err
		}
		at := strings.TrimPrefix(name, "static")
		p := newPage(body, path.Ext(name))
		pages[strings.TrimSuffix(at, "index.html")] = p
		return nil
	})
	if err != nil {
		panic("console: " + err.Error()) // embedded files can always be read
	}
	return pages
}

func serve(w http.ResponseWriter, r *http.Request, pages map[string]page) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "pages take GET", http.StatusMethodNotAllowed)
		return
	}
	p, ok := pages[r.URL.Path]
	if !ok {
		if _, folder := pages[r.URL.Path+"/"]; folder {
			http.Redirect(w, r, r.URL.Path+"/", http.StatusMovedPermanently)
			return
		}
		http.Error(w, "there is no such page; the start page is /", http.StatusNotFound)
		return
	}
	h.Set("Content-Security-Policy", csp)
	h.Set("Content-Type", p.kind)
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", p.etag)
	if r.Header.Get("If-None-Match") == p.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(p.body) // the reader is gone when it fails
}
