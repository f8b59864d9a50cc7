// The API proxy: stands between a kubelet and the API server. It ends TLS, speaks to the API server as the node, passes
// watches on as they stream, and does what the rules say.
// usage: api LISTEN API-SERVER FOLDER CONTROL; the folder has ca.crt, server.{crt,key}, node.{crt,key}
package main

import (
	"crypto/tls"
	"crypto/x509"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"rkubelet/proxies/rules"
)

// What an API server allows on one connection.
const streamsPerConnection = 100

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: api LISTEN API-SERVER FOLDER CONTROL")
	}
	listen, upstream, folder, control := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	target, err := url.Parse(upstream)
	if err != nil {
		log.Fatal(err)
	}
	ca := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(folder, "ca.crt"))
	if err != nil || !ca.AppendCertsFromPEM(pem) {
		log.Fatalf("ca.crt: %v", err)
	}
	pair := func(name string) tls.Certificate {
		pair, err := tls.LoadX509KeyPair(filepath.Join(folder, name+".crt"), filepath.Join(folder, name+".key"))
		if err != nil {
			log.Fatal(err)
		}
		return pair
	}
	proxy := newProxy(target, &tls.Config{RootCAs: ca, Certificates: []tls.Certificate{pair("node")}})
	server := newServer(proxy, &tls.Config{
		Certificates: []tls.Certificate{pair("server")},
		ClientCAs:    ca,
		ClientAuth:   tls.VerifyClientCertIfGiven,
	})
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(rules.Serve(control, proxy.engine, proxy.record)) }()
	log.Fatal(server.ServeTLS(listener, "", ""))
}

func newServer(proxy *proxy, config *tls.Config) *http.Server {
	return &http.Server{
		Handler:     proxy,
		TLSConfig:   config,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: streamsPerConnection},
		ConnContext: rememberConn,
	}
}
