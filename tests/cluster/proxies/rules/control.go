package rules

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
)

// Serve answers on the control socket at path until it fails: HTTP, as README.md of the harness says.
func Serve(path string, engine *Engine, record *Record) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	return http.Serve(listener, handler(engine, record))
}

func handler(engine *Engine, record *Record) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /record", func(w http.ResponseWriter, r *http.Request) {
		since, _ := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
		method, err := whole(r.URL.Query().Get("method"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = record.Write(w, since, method)
	})
	mux.HandleFunc("DELETE /record", func(http.ResponseWriter, *http.Request) { record.Clear() })
	mux.HandleFunc("GET /rules", func(w http.ResponseWriter, _ *http.Request) { answer(w, engine.Rules()) })
	mux.HandleFunc("DELETE /rules", func(http.ResponseWriter, *http.Request) { _ = engine.Set(nil) })
	mux.HandleFunc("PUT /rules", func(w http.ResponseWriter, r *http.Request) {
		var wanted []Rule
		if !read(w, r, &wanted) {
			return
		}
		if err := engine.Set(wanted); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("GET /held", func(w http.ResponseWriter, _ *http.Request) { answer(w, engine.Held()) })
	mux.HandleFunc("POST /release", func(w http.ResponseWriter, r *http.Request) {
		var which struct {
			ID   int    `json:"id"`
			Rule string `json:"rule"`
		}
		if read(w, r, &which) {
			answer(w, map[string]int{"released": engine.Release(which.ID, which.Rule)})
		}
	})
	return mux
}

// read decodes the body; a field that does not exist is a mistake of the test and is refused.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}
