package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"rkubelet/proxies/rules"
)

// raw passes messages as the bytes that they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error {
	if data == nil {
		data = []byte{} // a message without content is one all the same
	}
	*v.(*[]byte) = data
	return nil
}
func (raw) Name() string { return "proto" }

type proxy struct {
	engine *rules.Engine
	names  *names
	record *rules.Record
}

// call is one call on its way.
type call struct {
	*proxy
	pair   *pair
	client grpc.ServerStream
	method string
	seen   rules.Call
	entry  rules.Entry
	// streamed: each message has had its line in the recording.
	streamed bool
}

// handle carries one call, of whatever kind, from its first message to its status.
func (p *proxy) handle(_ any, client grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(client)
	from, ok := peer.FromContext(client.Context())
	if !ok {
		return status.Error(codes.Internal, "proxy: a call without a connection")
	}
	c := &call{proxy: p, pair: from.AuthInfo.(*pair), client: client, method: full}
	c.entry.Start = time.Now().UnixNano()
	c.entry.Method = full[strings.LastIndex(full, "/")+1:]
	var request []byte
	if err := client.RecvMsg(&request); err != nil {
		return err
	}
	c.entry.Request = request
	c.seen = p.names.call(full, request)
	return c.finish(c.carry(request))
}

// finish notes how the call ended.
func (c *call) finish(err error) error {
	if !c.streamed || err != nil {
		c.note(c.entry.Response, err)
	}
	return err
}

func (c *call) note(response []byte, err error) {
	entry := c.entry
	entry.End = time.Now().UnixNano()
	entry.Pod, entry.Container = c.seen.Pod, c.seen.Container
	entry.Response = response
	s := status.Convert(err)
	entry.Code, entry.Message = s.Code().String(), s.Message()
	c.record.Add(entry)
}

// act asks the rules; an error is what the client gets instead, `drop` that it gets nothing of this message.
func (c *call) act(when string) (drop bool, err error) {
	verdict, err := c.engine.Apply(c.client.Context(), when, c.seen)
	if verdict.Rule != "" {
		c.entry.Rule = verdict.Rule
	}
	if err != nil {
		return false, status.FromContextError(err).Err()
	}
	switch verdict.Do {
	case "":
		return false, nil
	case rules.DropReply:
		if isStream(c.method) {
			return true, nil
		}
		return false, status.Error(code(verdict.Code), orElse(verdict.Message, "error reading from server: EOF"))
	case rules.Cut:
		_ = c.pair.client.Close()
		return false, status.Error(codes.Unavailable, "cut")
	default:
		return false, status.Error(code(verdict.Code), orElse(verdict.Message, "failed by rule "+verdict.Rule))
	}
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// code reads a code's name, as "NotFound" or "NOT_FOUND"; none is Unavailable.
func code(name string) codes.Code {
	wanted := strings.ToLower(strings.ReplaceAll(name, "_", ""))
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		if strings.ToLower(c.String()) == wanted {
			return c
		}
	}
	return codes.Unavailable
}

// carry passes the call on, between the two moments at which rules act.
func (c *call) carry(request []byte) error {
	if _, err := c.act(rules.Before); err != nil {
		return err
	}
	// The deadline and the cancellation of the client travel in the context; its metadata does not by itself.
	ctx, cancel := context.WithCancel(c.client.Context())
	defer cancel()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		md = md.Copy()
		delete(md, ":authority")
		delete(md, "content-type")
		delete(md, "user-agent")
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	runtime, err := c.pair.backend.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, c.method)
	if err != nil {
		return err
	}
	if err := runtime.SendMsg(&request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	go c.upstream(runtime)
	return c.downstream(runtime)
}

// upstream passes on what else the client sends; for a unary call that is only its end.
func (c *call) upstream(runtime grpc.ClientStream) {
	for {
		var message []byte
		if err := c.client.RecvMsg(&message); err != nil {
			_ = runtime.CloseSend()
			return
		}
		if err := runtime.SendMsg(&message); err != nil {
			return
		}
	}
}

// downstream passes on header, messages, trailer and status of the runtime.
func (c *call) downstream(runtime grpc.ClientStream) error {
	var once sync.Once
	header := func() {
		once.Do(func() {
			if md, err := runtime.Header(); err == nil && md != nil {
				_ = c.client.SendHeader(md)
			}
		})
	}
	if isStream(c.method) {
		go header() // it may come long before the first message
	}
	stream := isStream(c.method)
	if stream {
		defer c.engine.Opened(c.seen, func() { _ = c.pair.client.Close() })()
	}
	for {
		var message []byte
		if err := runtime.RecvMsg(&message); err != nil {
			c.client.SetTrailer(runtime.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			if !stream {
				if _, failed := c.act(rules.After); failed != nil {
					return failed
				}
			}
			return err
		}
		header()
		c.names.learn(c.method, c.entry.Request, message)
		if stream {
			c.seen = c.names.event(c.method, c.seen, message)
		} else {
			c.entry.Response = message
		}
		drop, err := c.act(rules.After)
		if stream {
			c.note(message, err)
			c.streamed = true
		}
		if err != nil {
			return err
		}
		if drop {
			continue
		}
		if err := c.client.SendMsg(&message); err != nil {
			return fmt.Errorf("the client went away: %w", err)
		}
	}
}
