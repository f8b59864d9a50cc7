package rules

import (
	"bufio"
	"encoding/json"
	"io"
	"regexp"
	"sync"
)

// Bounds of the recording: the oldest go first.
const (
	maxEntries = 100_000
	maxBytes   = 256 << 20
)

// Entry is one line of the recording. Bodies stay as they came; they are rendered when somebody reads.
type Entry struct {
	Seq       int64
	Start     int64
	End       int64
	Method    string
	Pod       string
	Container string
	Request   []byte
	Response  []byte
	Code      string
	Message   string
	Rule      string
}

// line is how an entry is written.
type line struct {
	Seq       int64           `json:"seq"`
	Start     int64           `json:"start"`
	End       int64           `json:"end"`
	Method    string          `json:"method"`
	Pod       string          `json:"pod,omitempty"`
	Container string          `json:"container,omitempty"`
	Request   json.RawMessage `json:"request,omitempty"`
	Response  json.RawMessage `json:"response,omitempty"`
	Code      string          `json:"code"`
	Message   string          `json:"message"`
	Rule      string          `json:"rule,omitempty"`
}

// Record keeps the last calls.
type Record struct {
	mu      sync.Mutex
	entries []Entry
	bytes   int
	seq     int64
	// Render turns the two bodies of a call into JSON.
	Render func(method string, request, response []byte) (json.RawMessage, json.RawMessage)
}

// Add appends an entry and numbers it.
func (r *Record) Add(e Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	e.Seq = r.seq
	r.entries = append(r.entries, e)
	r.bytes += len(e.Request) + len(e.Response)
	drop := 0
	for r.bytes > maxBytes || len(r.entries)-drop > maxEntries {
		r.bytes -= len(r.entries[drop].Request) + len(r.entries[drop].Response)
		drop++
	}
	if drop > 0 {
		r.entries = append([]Entry(nil), r.entries[drop:]...)
	}
}

// Clear forgets all of it; the numbers go on.
func (r *Record) Clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries, r.bytes = nil, 0
}

// Write writes the entries after number `since` whose method matches, a line each.
func (r *Record) Write(to io.Writer, since int64, method *regexp.Regexp) error {
	r.mu.Lock()
	entries := append([]Entry(nil), r.entries...)
	r.mu.Unlock()
	out := bufio.NewWriter(to)
	encoder := json.NewEncoder(out)
	for _, e := range entries {
		if e.Seq <= since || !matches(method, e.Method) {
			continue
		}
		request, response := r.Render(e.Method, e.Request, e.Response)
		err := encoder.Encode(line{
			e.Seq, e.Start, e.End, e.Method, e.Pod, e.Container, request, response, e.Code, e.Message, e.Rule,
		})
		if err != nil {
			return err
		}
	}
	return out.Flush()
}
