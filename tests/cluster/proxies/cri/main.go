// The CRI proxy: stands between a kubelet and the runtime's socket, passes each call on as it came, records it, and does
// what the rules say. usage: cri LISTEN RUNTIME CONTROL (paths of unix sockets)
package main

import (
	"errors"
	"io/fs"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"

	"rkubelet/proxies/rules"
)

// No message of a kubelet or a runtime is larger: the proxy must not be what refuses one.
const maxMessage = 256 << 20

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: cri LISTEN RUNTIME CONTROL")
	}
	listen, runtime, control := os.Args[1], os.Args[2], os.Args[3]
	if err := os.Remove(listen); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", listen)
	if err != nil {
		log.Fatal(err)
	}
	engine := rules.New()
	proxy := &proxy{engine: engine, names: newNames(), record: &rules.Record{Render: render}}
	go func() { log.Fatal(rules.Serve(control, engine, proxy.record)) }()
	log.Fatal(newServer(proxy, runtime).Serve(listener))
}

// newServer takes every call there is, without a look at what it is.
func newServer(proxy *proxy, runtime string) *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(&pairing{runtime: runtime}),
		grpc.ForceServerCodec(raw{}),
		grpc.UnknownServiceHandler(proxy.handle),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxHeaderListSize(64<<20),
	)
}
