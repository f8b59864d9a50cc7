//! The bytes of a SPDY connection as the messages of a WebSocket.

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest message that is sent.
const LONGEST: usize = 32 << 10;

/// Copies both ways until one side ends.
pub(super) async fn run(socket: WebSocket, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let (mut to_client, from_client) = socket.split();
    let (from_server, to_server) = tokio::io::split(stream);
    tokio::select! {
        () = up(from_client, to_server) => {}
        () = down(from_server, &mut to_client) => {}
    }
    let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    drop(to_client.send(Message::Close(Some(close))).await);
}

async fn up(mut from_client: SplitStream<WebSocket>, mut to_server: impl AsyncWrite + Unpin) {
    while let Some(Ok(message)) = from_client.next().await {
        match message {
            Message::Binary(bytes) => {
                if to_server.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Message::Ping(_) | Message::Pong(_) => {}
            // Text is against the protocol.
            Message::Text(_) | Message::Close(_) => return,
        }
    }
}

async fn down(
    mut from_server: impl AsyncRead + Unpin,
    to_client: &mut SplitSink<WebSocket, Message>,
) {
    let mut buffer = vec![0; LONGEST];
    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
        let message = Message::Binary(buffer[..read].to_vec().into());
        if to_client.send(message).await.is_err() {
            return;
        }
    }
}
