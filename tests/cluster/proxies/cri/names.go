package main

import (
	"encoding/json"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"rkubelet/proxies/rules"
)

// descriptor finds a method of the CRI by its full path; nil for one that is none of it.
func descriptor(full string) protoreflect.MethodDescriptor {
	service, method, ok := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	if !ok {
		return nil
	}
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + method))
	if err != nil {
		return nil
	}
	descriptor, _ := found.(protoreflect.MethodDescriptor)
	return descriptor
}

func isStream(full string) bool {
	d := descriptor(full)
	return d != nil && d.IsStreamingServer()
}

// decode reads bytes as a message of this type; nil when they are none.
func decode(as protoreflect.MessageDescriptor, data []byte) proto.Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(as.FullName())
	if err != nil {
		return nil
	}
	message := kind.New().Interface()
	if proto.Unmarshal(data, message) != nil {
		return nil
	}
	return message
}

// byShortName finds RunPodSandbox whichever service it is of.
func byShortName(method string) protoreflect.MethodDescriptor {
	for _, service := range []string{"RuntimeService", "ImageService"} {
		if d := descriptor("/runtime.v1." + service + "/" + method); d != nil {
			return d
		}
	}
	return nil
}

// render writes the bodies of a call with the field names of api.proto.
func render(method string, request, response []byte) (json.RawMessage, json.RawMessage) {
	d := byShortName(method)
	if d == nil {
		return nil, nil
	}
	one := func(as protoreflect.MessageDescriptor, data []byte) json.RawMessage {
		if data == nil {
			return nil // there was none
		}
		message := decode(as, data)
		if message == nil {
			return nil
		}
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
		if err != nil {
			return nil
		}
		return text
	}
	return one(d.Input(), request), one(d.Output(), response)
}

// names remembers which pod and container an id belongs to.
type names struct {
	mu         sync.Mutex
	sandboxes  map[string]string
	containers map[string]container
}

type container struct{ pod, name string }

func newNames() *names {
	return &names{sandboxes: map[string]string{}, containers: map[string]container{}}
}

func podOf(m *cri.PodSandboxMetadata) string {
	if m == nil {
		return ""
	}
	return m.Namespace + "/" + m.Name
}

// call describes a request to the rules.
func (n *names) call(full string, request []byte) rules.Call {
	seen := rules.Call{Method: full[strings.LastIndex(full, "/")+1:]}
	d := descriptor(full)
	if d == nil {
		return seen
	}
	message := decode(d.Input(), request)
	n.mu.Lock()
	defer n.mu.Unlock()
	if m, ok := message.(interface{ GetSandboxConfig() *cri.PodSandboxConfig }); ok {
		seen.Pod = podOf(m.GetSandboxConfig().GetMetadata())
	}
	if m, ok := message.(interface{ GetConfig() *cri.PodSandboxConfig }); ok {
		seen.Pod = podOf(m.GetConfig().GetMetadata())
	}
	if m, ok := message.(interface{ GetConfig() *cri.ContainerConfig }); ok {
		seen.Container = m.GetConfig().GetMetadata().GetName()
	}
	if m, ok := message.(interface{ GetPodSandboxId() string }); ok && seen.Pod == "" {
		seen.Pod = n.sandboxes[m.GetPodSandboxId()]
	}
	if m, ok := message.(interface{ GetContainerId() string }); ok {
		known := n.containers[m.GetContainerId()]
		seen.Pod, seen.Container = known.pod, known.name
	}
	return seen
}

// event describes one message of a stream.
func (n *names) event(full string, seen rules.Call, message []byte) rules.Call {
	d := descriptor(full)
	if event, ok := decode(d.Output(), message).(*cri.ContainerEventResponse); ok {
		n.mu.Lock()
		defer n.mu.Unlock()
		seen.Pod = podOf(event.GetPodSandboxStatus().GetMetadata())
		seen.Container = n.containers[event.GetContainerId()].name
	}
	return seen
}

// learn takes ids from a reply.
func (n *names) learn(full string, request, response []byte) {
	d := descriptor(full)
	if d == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch d.Name() {
	case "RunPodSandbox":
		asked, _ := decode(d.Input(), request).(*cri.RunPodSandboxRequest)
		reply, _ := decode(d.Output(), response).(*cri.RunPodSandboxResponse)
		n.sandboxes[reply.GetPodSandboxId()] = podOf(asked.GetConfig().GetMetadata())
	case "CreateContainer":
		asked, _ := decode(d.Input(), request).(*cri.CreateContainerRequest)
		reply, _ := decode(d.Output(), response).(*cri.CreateContainerResponse)
		n.containers[reply.GetContainerId()] = container{
			podOf(asked.GetSandboxConfig().GetMetadata()), asked.GetConfig().GetMetadata().GetName(),
		}
	case "ListPodSandbox":
		reply, _ := decode(d.Output(), response).(*cri.ListPodSandboxResponse)
		for _, item := range reply.GetItems() {
			n.sandboxes[item.GetId()] = podOf(item.GetMetadata())
		}
	case "ListContainers":
		reply, _ := decode(d.Output(), response).(*cri.ListContainersResponse)
		for _, item := range reply.GetContainers() {
			n.labelled(item.GetId(), item.GetLabels())
		}
	case "PodSandboxStatus":
		reply, _ := decode(d.Output(), response).(*cri.PodSandboxStatusResponse)
		n.sandboxes[reply.GetStatus().GetId()] = podOf(reply.GetStatus().GetMetadata())
	case "ContainerStatus":
		reply, _ := decode(d.Output(), response).(*cri.ContainerStatusResponse)
		n.labelled(reply.GetStatus().GetId(), reply.GetStatus().GetLabels())
	}
}

func (n *names) labelled(id string, labels map[string]string) {
	n.containers[id] = container{
		labels["io.kubernetes.pod.namespace"] + "/" + labels["io.kubernetes.pod.name"], labels["io.kubernetes.container.name"],
	}
}
