package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"rkubelet/proxies/rules"
)

// runtime answers what the tests ask.
type runtime struct {
	cri.UnimplementedRuntimeServiceServer
	cri.UnimplementedImageServiceServer
	left   chan error
	events chan *cri.ContainerEventResponse
	runs   chan string
}

func (r *runtime) RunPodSandbox(_ context.Context, q *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	r.runs <- q.Config.Metadata.Name
	return &cri.RunPodSandboxResponse{PodSandboxId: "id-" + q.Config.Metadata.Name}, nil
}

func (r *runtime) StopPodSandbox(ctx context.Context, _ *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	if _, has := ctx.Deadline(); !has {
		r.left <- status.Error(codes.FailedPrecondition, "the deadline did not come through")
	}
	<-ctx.Done()
	r.left <- ctx.Err()
	return nil, ctx.Err()
}

func (*runtime) ExecSync(context.Context, *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	return &cri.ExecSyncResponse{Stdout: bytes.Repeat([]byte("x"), 40<<20)}, nil
}

func (*runtime) RemovePodSandbox(context.Context, *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	return nil, status.Error(codes.NotFound, "no such sandbox")
}

func (r *runtime) GetContainerEvents(_ *cri.GetEventsRequest, to cri.RuntimeService_GetContainerEventsServer) error {
	for event := range r.events {
		if err := to.Send(event); err != nil {
			return err
		}
	}
	return nil
}

type bed struct {
	cri.RuntimeServiceClient
	runtime *runtime
	engine  *rules.Engine
	record  *rules.Record
	server  *grpc.Server
	control *http.Client
	t       *testing.T
}

func newBed(t *testing.T) *bed {
	dir := t.TempDir()
	b := &bed{t: t, runtime: &runtime{
		left: make(chan error, 9), events: make(chan *cri.ContainerEventResponse, 9), runs: make(chan string, 9),
	}}
	serve := func(path string, server *grpc.Server) {
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
	}
	b.server = grpc.NewServer()
	cri.RegisterRuntimeServiceServer(b.server, b.runtime)
	serve(filepath.Join(dir, "runtime"), b.server)
	b.engine, b.record = rules.New(), &rules.Record{Render: render}
	p := &proxy{engine: b.engine, names: newNames(), record: b.record}
	serve(filepath.Join(dir, "proxy"), newServer(p, filepath.Join(dir, "runtime")))
	control := filepath.Join(dir, "control")
	go func() { _ = rules.Serve(control, b.engine, b.record) }()
	b.control = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", control)
	}}}
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "proxy"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	b.RuntimeServiceClient = cri.NewRuntimeServiceClient(conn)
	return b
}

func (b *bed) run(ctx context.Context, name string) error {
	_, err := b.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{
		Config: &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "ns"}},
	})
	return err
}

func (b *bed) rules(wanted ...rules.Rule) {
	if err := b.engine.Set(wanted); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) want(err error, wanted codes.Code) {
	b.t.Helper()
	if status.Code(err) != wanted {
		b.t.Fatalf("got %v, want %v", err, wanted)
	}
}

func limited(t *testing.T, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func TestCallsPassAsTheyAre(t *testing.T) {
	b := newBed(t)
	ctx := limited(t, 20*time.Second)
	b.want(b.run(ctx, "a"), codes.OK)
	reply, err := b.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: "c"})
	b.want(err, codes.OK)
	if len(reply.Stdout) != 40<<20 {
		t.Fatalf("%d bytes came", len(reply.Stdout))
	}
	_, err = b.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: "id-a"})
	b.want(err, codes.NotFound)
	if status.Convert(err).Message() != "no such sandbox" {
		t.Fatal(err)
	}
	var lines bytes.Buffer
	if err := b.record.Write(&lines, 0, nil); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"method":"RunPodSandbox","pod":"ns/a"`, `"pod_sandbox_id":"id-a"`, `"code":"NotFound"`} {
		if !strings.Contains(strings.ReplaceAll(lines.String(), `: "`, `:"`), part) {
			t.Fatalf("%s is not in the recording", part)
		}
	}
}

func TestDeadlineAndCancelReachTheRuntime(t *testing.T) {
	b := newBed(t)
	_, err := b.StopPodSandbox(limited(t, 300*time.Millisecond), &cri.StopPodSandboxRequest{PodSandboxId: "x"})
	b.want(err, codes.DeadlineExceeded)
	if err := <-b.runtime.left; err != context.DeadlineExceeded && err != context.Canceled {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	time.AfterFunc(200*time.Millisecond, cancel)
	_, err = b.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: "x"})
	b.want(err, codes.Canceled)
	if err := <-b.runtime.left; err != context.Canceled {
		t.Fatal(err)
	}
}

func TestAHeldCallWaitsUntilItIsReleased(t *testing.T) {
	b := newBed(t)
	b.rules(rules.Rule{Name: "r", Method: "RunPodSandbox", Pod: "ns/b", Do: rules.Hold})
	ctx := limited(t, 20*time.Second)
	b.want(b.run(ctx, "a"), codes.OK)
	done := make(chan error, 1)
	go func() { done <- b.run(ctx, "b") }()
	for len(b.engine.Held()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if len(b.runtime.runs) != 1 {
		t.Fatal("a call held before was passed on")
	}
	answer, err := b.control.Post("http://proxy/release", "", strings.NewReader(`{"rule": "r"}`))
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer, err)
	}
	b.want(<-done, codes.OK)
	go func() { done <- b.run(limited(t, 200*time.Millisecond), "b") }()
	b.want(<-done, codes.DeadlineExceeded)
	for len(b.engine.Held()) > 0 {
		time.Sleep(time.Millisecond)
	}
	if len(b.runtime.runs) != 2 {
		t.Fatal("a call whose client left was passed on")
	}
}

func TestFailDropCutAndCounts(t *testing.T) {
	b := newBed(t)
	ctx := limited(t, 20*time.Second)
	b.rules(
		rules.Rule{Name: "fail", Method: "RunPodSandbox", Nth: 2, Do: rules.Fail, Code: "RESOURCE_EXHAUSTED"},
		rules.Rule{Name: "drop", Method: "RunPodSandbox", Pod: "ns/d", Do: rules.DropReply},
		rules.Rule{Name: "cut", Method: "RunPodSandbox", Pod: "ns/c", Do: rules.Cut, Times: 1},
	)
	b.want(b.run(ctx, "a"), codes.OK)
	b.want(b.run(ctx, "a"), codes.ResourceExhausted)
	b.want(b.run(ctx, "d"), codes.Unavailable)
	b.want(b.run(ctx, "c"), codes.Unavailable)
	b.want(b.run(ctx, "c"), codes.OK)
	if got := len(b.runtime.runs); got != 3 {
		t.Fatalf("%d calls reached the runtime: a, d and the second c should", got)
	}
	answer, err := b.control.Post("http://proxy/release", "", strings.NewReader(`{"rul": "r"}`))
	if err != nil || answer.StatusCode != http.StatusBadRequest {
		t.Fatal("a field that does not exist was taken", err)
	}
}

func TestStreamsAndTheEndOfTheRuntime(t *testing.T) {
	b := newBed(t)
	stream, err := b.GetContainerEvents(limited(t, 20*time.Second), &cri.GetEventsRequest{})
	b.want(err, codes.OK)
	b.rules(rules.Rule{Name: "lose", Method: "GetContainerEvents", Nth: 2, Do: rules.DropReply})
	for _, id := range []string{"1", "2", "3"} {
		b.runtime.events <- &cri.ContainerEventResponse{ContainerId: id}
	}
	for _, id := range []string{"1", "3"} {
		event, err := stream.Recv()
		b.want(err, codes.OK)
		if event.ContainerId != id {
			t.Fatalf("event %s came, want %s", event.ContainerId, id)
		}
	}
	var lines bytes.Buffer
	_ = b.record.Write(&lines, 0, nil)
	decoder := json.NewDecoder(&lines)
	for count := 0; count < 3; count++ {
		var line map[string]any
		if err := decoder.Decode(&line); err != nil || line["method"] != "GetContainerEvents" {
			t.Fatal(line, err)
		}
	}
	go b.server.Stop()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Fatalf("the runtime ended, the client saw %v", err)
	}
}
