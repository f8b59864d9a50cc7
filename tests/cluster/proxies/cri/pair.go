package main

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// pairing gives each connection of a client one of its own to the runtime. They end together, so that a client sees the
// runtime go away, and the runtime sees a client go away, as if nothing were between them.
type pairing struct{ runtime string }

// pair is what a call knows of its connection.
type pair struct {
	credentials.CommonAuthInfo
	client  net.Conn
	backend *grpc.ClientConn
}

// AuthType names this kind of handshake.
func (*pair) AuthType() string { return "paired" }

func (p *pairing) ServerHandshake(client net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, err := net.Dial("unix", p.runtime)
	if err != nil {
		return nil, nil, err
	}
	paired := &pair{client: client}
	first := make(chan net.Conn, 1)
	first <- &closing{Conn: conn, with: func() { _ = client.Close() }}
	paired.backend, err = grpc.NewClient("passthrough:///localhost",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case conn := <-first:
				return conn, nil
			default:
				return nil, errors.New("the runtime closed the connection")
			}
		}),
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithMaxHeaderListSize(64<<20),
	)
	if err != nil {
		return nil, nil, err
	}
	paired.backend.Connect()
	return &closing{Conn: client, with: func() { _ = paired.backend.Close() }}, paired, nil
}

// closing runs something once when the connection is closed.
type closing struct {
	net.Conn
	once sync.Once
	with func()
}

func (c *closing) Close() error {
	// Apart: closing the other side may wait for this one.
	c.once.Do(func() { go c.with() })
	return c.Conn.Close()
}

func (*pairing) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("this side only accepts")
}
func (*pairing) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
}
func (p *pairing) Clone() credentials.TransportCredentials { return p }
func (*pairing) OverrideServerName(string) error           { return nil }
