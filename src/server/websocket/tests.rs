//! Sessions between a WebSocket client and a streaming server that speaks SPDY by hand.

use std::collections::BTreeMap;

use axum::Router;
use axum::routing::any;
use futures::{SinkExt as _, StreamExt as _};
use http::HeaderValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::spdy::{FLUSH, HEADER, Head, data, head, pong};
use super::*;

const ALL: Channels = Channels { stdin: true, stdout: true, stderr: true, tty: false };

/// A client, and what serves it.
struct Session {
    client: WebSocketStream<TcpStream>,
    protocol: Option<String>,
    server: TcpStream,
    /// The head of the request that the streaming server was sent.
    request: String,
    _tasks: JoinSet<()>,
}

/// Connects a client for `protocol` with a streaming server that answers with `more` headers.
async fn session(protocol: &'static str, channels: Channels, more: &str) -> Session {
    let runtime = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/exec/token", runtime.local_addr().expect("an address"));
    let kubelet = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = kubelet.local_addr().expect("an address");
    let handler = move |request: Request| async move {
        if asks_for_tunnel(request.headers()) {
            tunnel(request, &url).await
        } else {
            translate(request, url, channels).await
        }
    };
    let mut tasks = JoinSet::new();
    let router = Router::new().route("/", any(handler));
    tasks.spawn(async move { axum::serve(kubelet, router).await.expect("served") });

    let more = more.to_owned();
    let accept = async {
        let (mut server, _) = runtime.accept().await.expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(server.read_u8().await.expect("a request"));
        }
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             {more}\r\n"
        );
        server.write_all(answer.as_bytes()).await.expect("answered");
        (server, String::from_utf8(request).expect("text"))
    };
    let connect = async {
        let stream = TcpStream::connect(address).await.expect("connected");
        let mut request = format!("ws://{address}/").into_client_request().expect("a request");
        request
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        let upgraded = tokio_tungstenite::client_async(request, stream).await;
        upgraded.expect("upgraded")
    };
    let ((server, request), (client, answer)) = tokio::join!(accept, connect);
    let protocol = answer.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
    let protocol = protocol.map(|value| value.to_str().expect("text").to_owned());
    Session { client, protocol, server, request, _tasks: tasks }
}

impl Session {
    async fn send(&mut self, bytes: &[u8]) {
        let message = Message::Binary(bytes.to_vec().into());
        self.client.send(message).await.expect("sent");
    }

    /// The next message; `None` when the client has been told goodbye.
    async fn message(&mut self) -> Option<Vec<u8>> {
        match self.client.next().await.expect("a message").expect("readable") {
            Message::Binary(bytes) => Some(bytes.to_vec()),
            Message::Close(_) => None,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
                panic!("neither bytes nor a goodbye")
            }
        }
    }

    /// The next frame that the streaming server is sent.
    async fn frame(&mut self) -> (Head, Vec<u8>) {
        let mut bytes = [0; HEADER];
        self.server.read_exact(&mut bytes).await.expect("a frame");
        let head = head(bytes).expect("SPDY");
        let (Head::Data { length, .. } | Head::Control { length, .. }) = head;
        let mut payload = vec![0; length];
        self.server.read_exact(&mut payload).await.expect("a payload");
        (head, payload)
    }

    async fn serve(&mut self, frames: &[Vec<u8>]) {
        self.server.write_all(&frames.concat()).await.expect("written");
    }

    /// Reads the opening of streams; they are numbered 1, 3, 5 and so on.
    async fn opened(&mut self, names: &[&str]) -> BTreeMap<String, u32> {
        let mut streams = BTreeMap::new();
        for (stream, name) in (1_u32..).step_by(2).zip(names) {
            let (head, payload) = self.frame().await;
            assert!(matches!(head, Head::Control { kind: 1, .. }), "{head:?}");
            assert_eq!(payload[..4], stream.to_be_bytes());
            let header = payload.strip_suffix(&FLUSH).expect("flushed");
            assert!(header.ends_with(name.as_bytes()), "{name}");
            streams.insert((*name).to_owned(), stream);
        }
        streams
    }
}

#[tokio::test]
async fn a_command_gets_its_input_and_its_end_and_gives_its_outputs_and_its_code() {
    let mut session = session("v4.channel.k8s.io, v5.channel.k8s.io", ALL, "").await;
    assert_eq!(session.protocol.as_deref(), Some("v5.channel.k8s.io"));
    let request = session.request.to_lowercase();
    assert!(request.starts_with("post /exec/token http/1.1\r\n"), "{request}");
    assert!(request.contains("x-stream-protocol-version: v4.channel.k8s.io\r\n"), "{request}");
    assert!(!request.contains("sec-websocket"), "{request}");
    assert_eq!(session.message().await, Some(vec![1]), "the connection stands");
    let streams = session.opened(&["error", "stdin", "stdout", "stderr"]).await;

    session.send(b"\0in").await;
    session.send(&[4, b'{', b'}']).await;
    session.send(&[255, 0]).await;
    session.send(b"\0late").await;
    let stdin = streams["stdin"];
    let input = Head::Data { stream: stdin, length: 2, is_last: false };
    assert_eq!(session.frame().await, (input, b"in".to_vec()));
    let end = Head::Data { stream: stdin, length: 0, is_last: true };
    assert_eq!(session.frame().await, (end, Vec::new()), "no terminal, so no size of it");

    let outcome = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
    session.serve(&[data(streams["stdout"], b"out", false), pong(2)]).await;
    let answered = Head::Control { kind: 6, length: 4 };
    assert_eq!(session.frame().await, (answered, 2_u32.to_be_bytes().to_vec()));
    session
        .serve(&[
            data(streams["stderr"], b"err", true),
            data(streams["error"], outcome, true),
            data(streams["stdout"], b"more", true),
        ])
        .await;
    assert_eq!(session.message().await.as_deref(), Some(&b"\x01out"[..]));
    assert_eq!(session.message().await.as_deref(), Some(&b"\x02err"[..]));
    assert_eq!(session.message().await.as_deref(), Some(&b"\x01more"[..]));
    let status = session.message().await.expect("an outcome");
    assert_eq!(status.first(), Some(&3));
    let status = String::from_utf8(status[1..].to_vec()).expect("text");
    assert!(status.contains(r#""reason":"ExitCode","message":"7""#), "{status}");
    assert_eq!(session.message().await, None, "goodbye");
}

#[tokio::test]
async fn a_streaming_server_that_hangs_up_is_no_success() {
    let output = Channels { stdin: false, stdout: true, stderr: false, tty: true };
    let mut session = session("v5.channel.k8s.io", output, "").await;
    assert_eq!(session.message().await, Some(vec![1]));
    let streams = session.opened(&["error", "stdout", "resize"]).await;
    session.send(b"\x04{\"Width\":80}").await;
    let (head, size) = session.frame().await;
    let resize = Head::Data { stream: streams["resize"], length: size.len(), is_last: false };
    assert_eq!((head, size.as_slice()), (resize, &b"{\"Width\":80}"[..]));
    session.server.shutdown().await.expect("closed");
    let status = session.message().await.expect("an outcome");
    let status = String::from_utf8_lossy(&status).into_owned();
    assert!(status.contains(r#""status":"Failure""#), "{status}");
}

#[tokio::test]
async fn a_reset_ends_a_stream_and_a_client_that_goes_away_ends_the_session() {
    let mut session = session("v5.channel.k8s.io", ALL, "").await;
    assert_eq!(session.message().await, Some(vec![1]));
    session.opened(&["error", "stdin", "stdout", "stderr"]).await;
    // The stream of the input is reset: it is closed on our side, too.
    session.serve(&[vec![0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 5]]).await;
    let end = Head::Data { stream: 3, length: 0, is_last: true };
    assert_eq!(session.frame().await, (end, Vec::new()));
    session.client.close(None).await.expect("closed");
    assert_eq!(session.server.read(&mut [0; 8]).await.expect("an end"), 0);
}

#[tokio::test]
async fn a_tunnel_passes_the_bytes_of_spdy_through() {
    let chosen = "X-Stream-Protocol-Version: portforward.k8s.io\r\n";
    let mut session = session("SPDY/3.1+portforward.k8s.io", ALL, chosen).await;
    assert_eq!(session.protocol.as_deref(), Some("SPDY/3.1+portforward.k8s.io"));
    let request = session.request.to_lowercase();
    assert!(request.contains("x-stream-protocol-version: portforward.k8s.io\r\n"), "{request}");
    session.send(b"anything").await;
    let mut bytes = [0; 8];
    session.server.read_exact(&mut bytes).await.expect("bytes");
    assert_eq!(&bytes, b"anything");
    session.server.write_all(b"back").await.expect("written");
    assert_eq!(session.message().await.as_deref(), Some(&b"back"[..]));
    session.server.shutdown().await.expect("closed");
    assert_eq!(session.message().await, None);
}

#[test]
fn only_websockets_for_the_two_protocols_are_translated() {
    let headers = |upgrade: &'static str, protocol: &'static str| {
        HeaderMap::from_iter([
            (header::UPGRADE, HeaderValue::from_static(upgrade)),
            (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol)),
        ])
    };
    assert!(asks_for_channels(&headers("WebSocket", "v4.channel.k8s.io,v5.channel.k8s.io")));
    assert!(!asks_for_channels(&headers("websocket", "v4.channel.k8s.io")));
    assert!(!asks_for_channels(&headers("SPDY/3.1", "v5.channel.k8s.io")));
    assert!(asks_for_tunnel(&headers("websocket", "SPDY/3.1+portforward.k8s.io")));
    assert!(!asks_for_tunnel(&headers("websocket", "SPDY/3.1+portforward")));
}
