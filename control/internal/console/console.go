// Package console serves control's web pages: the start page, the stories, and
// the operators' console.
package console

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"regexp"
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

// csp lets a page load its own files only, run what it holds itself, show what
// it received, and connect to its edge. The hashes are those of its scripts and
// styles. The console knows a key and talks to its own control alone.
const csp = "default-src 'none'; script-src 'self'%s; style-src 'self'%s; img-src 'self' data: blob:; media-src blob:; connect-src %s; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

var (
	scripts = regexp.MustCompile(`(?s)<script type="module">(.*?)</script>`)
	styles  = regexp.MustCompile(`(?s)<style>(.*?)</style>`)
)

var types = map[string]string{".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
	".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml", ".json": "application/json"}

type page struct {
	body []byte
	kind string
	etag string
	csp  string
}

// Handler serves the pages.
func Handler(o Options) http.Handler {
	pages := load()
	config, err := json.Marshal(map[string]string{"edge": o.EdgeURL})
	if err != nil {
		panic("console: " + err.Error()) // a text always encodes
	}
	pages["/config.json"] = newPage("/config.json", config)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, pages) })
}

func newPage(at string, body []byte) page {
	connect := "*"
	if strings.HasPrefix(at, "/console/") {
		connect = "'self'"
	}
	sum := sha256.Sum256(body)
	return page{body, types[path.Ext(at)], `"` + hex.EncodeToString(sum[:8]) + `"`, fmt.Sprintf(csp, hashes(scripts, body), hashes(styles, body), connect)}
}

// hashes names what a page holds itself as a browser does to allow it.
func hashes(inside *regexp.Regexp, body []byte) string {
	var text strings.Builder
	for _, m := range inside.FindAllSubmatch(body, -1) {
		sum := sha256.Sum256(m[1])
		text.WriteString(" 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'")
	}
	return text.String()
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
		pages[strings.TrimSuffix(at, "index.html")] = newPage(at, body)
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
	h.Set("Content-Security-Policy", p.csp)
	if r.URL.Path == "/nabat-client.js" { // modules are fetched as CORS says: pages of others may import the client
		h.Set("Access-Control-Allow-Origin", "*")
	}
	h.Set("Content-Type", p.kind)
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", p.etag)
	if r.Header.Get("If-None-Match") == p.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(p.body) // the reader is gone when it fails
}
