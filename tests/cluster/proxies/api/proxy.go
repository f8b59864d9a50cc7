package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"rkubelet/proxies/rules"
)

type proxy struct {
	engine *rules.Engine
	record *rules.Record
	target *url.URL
	// asNode shows the node's certificate; asBearer none: a token in the request then says who asks.
	asNode, asBearer http.RoundTripper
}

func newProxy(target *url.URL, config *tls.Config) *proxy {
	transport := func(config *tls.Config) *http.Transport {
		protocols := new(http.Protocols)
		protocols.SetHTTP2(true)
		return &http.Transport{TLSClientConfig: config, Protocols: protocols, DisableCompression: true}
	}
	nobody := config.Clone()
	nobody.Certificates = nil
	return &proxy{
		engine: rules.New(), record: &rules.Record{Render: render}, target: target,
		asNode: transport(config), asBearer: transport(nobody),
	}
}

type connKey struct{}

func rememberConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// abort ends the request without an answer, or, for the rule `cut`, the whole connection.
func abort(r *http.Request, whole bool) {
	if whole {
		closeConn(r)
	}
	panic(http.ErrAbortHandler)
}

func closeConn(r *http.Request) {
	if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		_ = conn.Close()
	}
}

// request is one on its way.
type request struct {
	*proxy
	w     http.ResponseWriter
	r     *http.Request
	seen  rules.Call
	entry rules.Entry
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		abort(r, false)
	}
	q := &request{proxy: p, w: w, r: r, seen: describe(r)}
	q.entry = rules.Entry{Start: time.Now().UnixNano(), Method: q.seen.Method, Pod: q.seen.Pod}
	if r.Method != http.MethodGet {
		q.entry.Request = body
	}
	defer func() {
		q.entry.End = time.Now().UnixNano()
		if q.entry.Code == "" {
			q.entry.Code = "none"
		}
		p.record.Add(q.entry)
	}()
	q.carry(body)
}

// act asks the rules; true means that the request has had its answer.
func (q *request) act(when string, call rules.Call) (answered, drop bool) {
	verdict, err := q.engine.Apply(q.r.Context(), when, call)
	if verdict.Rule != "" {
		q.entry.Rule = verdict.Rule
	}
	if err != nil {
		return true, false // the client left
	}
	switch verdict.Do {
	case "":
		return false, false
	case rules.DropReply:
		return false, true
	case rules.Cut:
		abort(q.r, true)
	}
	q.fail(verdict)
	return true, false
}

// fail answers as an API server in trouble does.
func (q *request) fail(verdict rules.Verdict) {
	code, err := strconv.Atoi(verdict.Code)
	if err != nil || code < 400 || code > 599 {
		code = http.StatusInternalServerError
	}
	reason := map[int]string{429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}[code]
	message := verdict.Message
	if message == "" {
		message = "failed by rule " + verdict.Rule
	}
	q.entry.Code, q.entry.Message = strconv.Itoa(code), message
	if code == http.StatusTooManyRequests {
		q.w.Header().Set("Retry-After", "1")
	}
	q.w.Header().Set("Content-Type", "application/json")
	q.w.WriteHeader(code)
	_, _ = fmt.Fprintf(q.w, `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":%q,"reason":%q,"code":%d}`+"\n",
		message, reason, code)
}

func (q *request) carry(body []byte) {
	if answered, _ := q.act(rules.Before, q.seen); answered {
		return
	}
	// What was sent reaches the API server even if the client goes away: it had left the client's machine.
	ctx := q.r.Context()
	watch := strings.HasPrefix(q.seen.Method, "watch ")
	onward := q.r.Clone(ctx)
	onward.RequestURI = ""
	onward.URL.Scheme, onward.URL.Host = q.target.Scheme, q.target.Host
	onward.Host = q.target.Host
	onward.Body, onward.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	for _, name := range []string{"Connection", "Keep-Alive", "Te", "Transfer-Encoding", "Upgrade"} {
		onward.Header.Del(name)
	}
	transport := q.asNode
	if q.r.TLS != nil && len(q.r.TLS.PeerCertificates) == 0 {
		transport = q.asBearer
	}
	response, err := transport.RoundTrip(onward)
	if err != nil {
		q.entry.Message = err.Error()
		// As it would be without a proxy: the connection breaks, there is no answer.
		abort(q.r, true)
	}
	defer response.Body.Close()
	q.entry.Code = strconv.Itoa(response.StatusCode)
	if watch && response.StatusCode == http.StatusOK {
		q.stream(response)
		return
	}
	q.whole(response)
}

// whole passes on an answer that has an end.
func (q *request) whole(response *http.Response) {
	body, err := io.ReadAll(response.Body)
	if err != nil {
		abort(q.r, true)
	}
	if q.r.Method != http.MethodGet {
		q.entry.Response = body
	}
	answered, drop := q.act(rules.After, q.seen)
	if drop {
		q.entry.Message = "the reply was lost"
		abort(q.r, false)
	}
	if answered {
		return
	}
	q.header(response)
	_, _ = q.w.Write(body)
}

func (q *request) header(response *http.Response) {
	for name, values := range response.Header {
		q.w.Header()[name] = values
	}
	q.w.Header().Del("Connection")
	q.w.WriteHeader(response.StatusCode)
}

// stream passes on a watch, event by event; rules see each event as `event RESOURCE`, in order.
func (q *request) stream(response *http.Response) {
	defer q.engine.Opened(q.seen, func() { closeConn(q.r) })()
	q.header(response)
	flusher := http.NewResponseController(q.w)
	_ = flusher.Flush()
	event := rules.Call{Method: "event " + strings.TrimPrefix(q.seen.Method, "watch ")}
	if !strings.Contains(response.Header.Get("Content-Type"), "json") {
		// Not lines: nothing to look into, and still to be passed on at once.
		q.copy(response.Body, flusher)
		return
	}
	lines := bufio.NewReaderSize(response.Body, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if q.engine.Any() {
				event.Pod = objectOf(line)
				answered, drop := q.act(rules.After, event)
				if answered {
					return
				}
				if drop {
					continue
				}
			}
			if _, err := q.w.Write(line); err != nil {
				return
			}
			_ = flusher.Flush()
		}
		if err != nil {
			if err != io.EOF {
				abort(q.r, false)
			}
			return
		}
	}
}

func (q *request) copy(from io.Reader, flusher *http.ResponseController) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := q.w.Write(buffer[:n]); err != nil {
				return
			}
			_ = flusher.Flush()
		}
		if err != nil {
			return
		}
	}
}
