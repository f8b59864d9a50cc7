//! A command's streams between a WebSocket of `v5.channel.k8s.io` and a SPDY connection.
//!
//! A message begins with the number of its channel: 0 is the standard input, 1 and 2 are the
//! outputs, 3 is the outcome, 4 the size of the terminal. 255 and a number close a channel. Each
//! channel but those that were not asked for is a stream of the SPDY connection.
//!
//! Each direction waits only for itself: a client that does not read cannot keep its own input from
//! the command. The session ends with the client, or when the command's outcome has been sent.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tracing::debug;

use super::spdy::{self, Control, Head};
use super::status::{self, Outcome};
use crate::dispatch::Channels;
use crate::server::streams::{OpenError, Opened};

/// The protocol that the streaming server is asked for.
pub(super) const PROTOCOL: &str = "v4.channel.k8s.io";
/// The time for the outcome to be sent; upstream's.
const STATUS: Duration = Duration::from_secs(10);
/// The time for the client to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// The longest outcome that is read.
const LONGEST_STATUS: usize = 64 << 10;
/// Closes a channel, whose number follows.
const CLOSE: u8 = 255;
/// The orders that may wait for the writer; more are dropped.
const ORDERS: usize = 16;

/// A stream of a command. The number is that of its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Stdin, Self::Stdout, Self::Stderr, Self::Error, Self::Resize];

    fn of_channel(channel: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == channel)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Error => "error",
            Self::Resize => "resize",
        }
    }
}

/// The streams of a command, in the order in which they are opened.
struct Streams(Vec<Kind>);

impl Streams {
    fn new(channels: Channels) -> Self {
        let asked = [
            (Kind::Error, true),
            (Kind::Stdin, channels.stdin),
            (Kind::Stdout, channels.stdout),
            (Kind::Stderr, channels.stderr),
            (Kind::Resize, channels.tty),
        ];
        Self(asked.into_iter().filter_map(|(kind, is_asked)| is_asked.then_some(kind)).collect())
    }

    /// The number of a stream in the SPDY connection; none if it was not asked for.
    fn number(&self, kind: Kind) -> Option<u32> {
        let index = self.0.iter().position(|own| *own == kind)?;
        u32::try_from(index).ok().map(|index| 2 * index + 1)
    }

    fn kind(&self, number: u32) -> Option<Kind> {
        self.0.iter().copied().find(|kind| self.number(*kind) == Some(number))
    }

    /// The channel that says that the connection stands: the first that can be written.
    fn first(&self) -> Kind {
        let outputs = [Kind::Stdout, Kind::Stderr];
        outputs.into_iter().find(|kind| self.0.contains(kind)).unwrap_or(Kind::Error)
    }

    fn open(&self) -> Vec<u8> {
        let headers: Vec<_> = self.0.iter().map(|kind| ("streamtype", kind.name())).collect();
        spdy::open(&headers)
    }
}

/// What the reader of the streaming server has the writer do.
#[derive(Clone, Copy, Debug)]
enum Order {
    Pong(u32),
    CloseStdin,
}

/// Runs a session to its end. `opening` connects with the streaming server.
pub(super) async fn run(
    socket: WebSocket,
    opening: impl Future<Output = Result<Opened, OpenError>>,
    channels: Channels,
) {
    let streams = Streams::new(channels);
    let (mut to_client, mut from_client) = socket.split();
    if to_client.send(message(streams.first(), &[])).await.is_err() {
        return;
    }

    let outcome = match opening.await {
        Ok(opened) => {
            let (from_server, to_server) = tokio::io::split(opened.stream);
            let (orders, ordered) = mpsc::channel(ORDERS);
            let input = Input { streams: &streams, to_server, is_stdin_open: true, is_up: true };
            let output = Output { streams: &streams, open: streams.0.clone(), orders };
            tokio::select! {
                outcome = output.copy(from_server, &mut to_client) => outcome,
                () = input.copy(&mut from_client, ordered) => None,
            }
        }
        Err(error) => Some(Outcome::Failed(error.to_string())),
    };

    let Some(outcome) = outcome else { return };
    let farewell = async {
        to_client.send(message(Kind::Error, &status::write(&outcome))).await?;
        let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        to_client.send(Message::Close(Some(close))).await
    };
    match tokio::time::timeout(STATUS, farewell).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return debug!(%error, "the outcome of a command was not sent"),
        Err(_) => return debug!("the outcome of a command was not sent in time"),
    }
    // What is closed with bytes unread is reset, and the client may then miss the outcome.
    let read_on = async { while let Some(Ok(_)) = from_client.next().await {} };
    drop(tokio::time::timeout(GOODBYE, read_on).await);
}

fn message(kind: Kind, bytes: &[u8]) -> Message {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(kind as u8);
    message.extend(bytes);
    Message::Binary(message.into())
}

/// The way from the client to the command.
struct Input<'a, W> {
    streams: &'a Streams,
    to_server: W,
    is_stdin_open: bool,
    /// False once the streaming server takes nothing more. Its own end says why.
    is_up: bool,
}

impl<W: AsyncWrite + Unpin> Input<'_, W> {
    /// Copies until the client has gone.
    async fn copy(
        mut self,
        from_client: &mut SplitStream<WebSocket>,
        mut ordered: mpsc::Receiver<Order>,
    ) {
        let open = self.streams.open();
        self.write(&open).await;
        loop {
            // Both arms are cancel-safe.
            tokio::select! {
                message = from_client.next() => {
                    let bytes = match message {
                        Some(Ok(bytes @ (Message::Binary(_) | Message::Text(_)))) => {
                            bytes.into_data()
                        }
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    };
                    if !self.take(&bytes).await {
                        return;
                    }
                }
                Some(order) = ordered.recv() => match order {
                    Order::Pong(number) => self.write(&spdy::pong(number)).await,
                    Order::CloseStdin => self.close_stdin().await,
                },
            }
        }
    }

    /// Takes a message. Returns false if it is against the protocol.
    async fn take(&mut self, message: &[u8]) -> bool {
        let Some((channel, bytes)) = message.split_first() else { return true };
        if *channel == CLOSE {
            let &[closed] = bytes else { return false };
            let Some(kind) = Kind::of_channel(closed) else { return false };
            if kind == Kind::Stdin {
                self.close_stdin().await;
            }
            return true;
        }

        let number = match Kind::of_channel(*channel) {
            Some(Kind::Stdin) if !self.is_stdin_open => None,
            Some(kind @ (Kind::Stdin | Kind::Resize)) => self.streams.number(kind),
            Some(Kind::Stdout | Kind::Stderr | Kind::Error) | None => None,
        };
        if let Some(number) = number {
            for part in bytes.chunks(spdy::LONGEST_DATA) {
                self.write(&spdy::data(number, part, false)).await;
            }
        }
        true
    }

    async fn close_stdin(&mut self) {
        let Some(number) = self.streams.number(Kind::Stdin) else { return };
        if std::mem::replace(&mut self.is_stdin_open, false) {
            self.write(&spdy::data(number, &[], true)).await;
        }
    }

    async fn write(&mut self, frame: &[u8]) {
        if self.is_up {
            self.is_up = self.to_server.write_all(frame).await.is_ok();
        }
    }
}

/// The way from the command to the client.
struct Output<'a> {
    streams: &'a Streams,
    /// The streams that the streaming server has not closed.
    open: Vec<Kind>,
    orders: mpsc::Sender<Order>,
}

impl Output<'_> {
    /// Copies until the command has ended; `None` if the client has gone.
    async fn copy(
        mut self,
        mut from_server: impl AsyncRead + Unpin,
        to_client: &mut SplitSink<WebSocket, Message>,
    ) -> Option<Outcome> {
        let mut written = Vec::new();
        let mut buffer = vec![0; spdy::LONGEST_DATA];
        while self.is_awaited() {
            let mut head = [0; spdy::HEADER];
            if from_server.read_exact(&mut head).await.is_err() {
                return Some(self.lost(&written));
            }
            let (stream, mut left, is_last) = match spdy::head(head) {
                Ok(Head::Data { stream, length, is_last }) => (stream, length, is_last),
                Ok(Head::Control { kind, length }) => {
                    let mut payload = vec![0; length];
                    if from_server.read_exact(&mut payload).await.is_err() {
                        return Some(self.lost(&written));
                    }
                    match spdy::control(kind, &payload) {
                        Ok(control) => self.control(control),
                        Err(error) => return Some(Outcome::Failed(error.to_string())),
                    }
                    continue;
                }
                Err(error) => return Some(Outcome::Failed(error.to_string())),
            };

            let kind = self.streams.kind(stream);
            while left > 0 {
                let most = left.min(buffer.len());
                let read = from_server.read(&mut buffer[..most]).await.unwrap_or(0);
                if read == 0 {
                    return Some(self.lost(&written));
                }
                left -= read;
                let bytes = &buffer[..read];
                match kind {
                    Some(kind @ (Kind::Stdout | Kind::Stderr)) => {
                        to_client.send(message(kind, bytes)).await.ok()?;
                    }
                    Some(Kind::Error) => {
                        let room = LONGEST_STATUS.saturating_sub(written.len());
                        written.extend(bytes.iter().take(room));
                    }
                    Some(Kind::Stdin | Kind::Resize) | None => {}
                }
            }
            if is_last {
                self.end(stream);
            }
        }
        Some(status::read(&written))
    }

    /// Returns true while the outcome or more output is to come.
    fn is_awaited(&self) -> bool {
        let awaited = [Kind::Stdout, Kind::Stderr, Kind::Error];
        self.open.iter().any(|kind| awaited.contains(kind))
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Reset { stream } => self.end(stream),
            Control::Ping(number) => self.order(Order::Pong(number)),
            Control::GoAway | Control::Other => {}
        }
    }

    fn end(&mut self, stream: u32) {
        let Some(kind) = self.streams.kind(stream) else { return };
        self.open.retain(|open| *open != kind);
        if kind == Kind::Stdin {
            // The command reads nothing more; the server waits for our end of the stream.
            self.order(Order::CloseStdin);
        }
    }

    fn order(&self, order: Order) {
        if self.orders.try_send(order).is_err() {
            debug!(?order, "the streaming server does not take what it has asked for");
        }
    }

    /// The outcome when the connection has ended.
    fn lost(&self, written: &[u8]) -> Outcome {
        if written.is_empty() && self.open.contains(&Kind::Error) {
            return Outcome::Failed("error reading from error stream: unexpected EOF".to_owned());
        }
        status::read(written)
    }
}
