// Chat is the backend of a chat: it serves one page, and gives those who log in
// a token from control. Messages do not pass through it.
package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

//go:embed chat.html
var page []byte

var (
	listen  = flag.String("listen", "127.0.0.1:8070", "address of the page")
	edge    = flag.String("edge", "http://127.0.0.1:8080", "where browsers find Nabat")
	control = flag.String("control", "http://127.0.0.1:8090", "where this program asks for tokens")
)

func main() {
	flag.Parse()
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(page) // the browser may have gone
	})
	http.Handle("GET /nabat-client.js", http.RedirectHandler(*control+"/nabat-client.js", http.StatusTemporaryRedirect))
	http.HandleFunc("POST /token", login)
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("chat at http://%s/?user=alice\n", l.Addr())
	log.Fatal(http.Serve(l, nil))
}

// login answers with where to connect, and the token to do it with.
func login(w http.ResponseWriter, r *http.Request) {
	user := r.FormValue("user") // who has logged in here: a real one asks for more than a name
	if user == "" {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	token, err := issue(map[string]any{
		"sub": user, "subscribe": []string{"chat.*"}, "publish": []string{"chat.*"}, "presence": []string{"chat.*"}, "ttl": "10m",
	})
	if err != nil {
		log.Print(err)
		http.Error(w, "no token to be had", http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"edge": *edge, "token": token}) // as above
}

var client = &http.Client{Timeout: 10 * time.Second}

// issue asks control for a token.
func issue(grant map[string]any) (string, error) {
	body, err := json.Marshal(grant)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequest(http.MethodPost, *control+"/v1/tokens", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	if key := os.Getenv("CONTROL_KEY"); key != "" { // nabat dev wants none
		req.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return "", err
	}
	var issued struct{ Token string }
	if err := json.Unmarshal(answer, &issued); err != nil || issued.Token == "" {
		return "", fmt.Errorf("control answers %s: %s", res.Status, answer)
	}
	return issued.Token, nil
}
