//! Reading one container's log file: from the asked-for line on, and, when following, until the
//! container has ended, across rotation (the file is renamed and a new one of the same name
//! appears).
//!
//! Nothing polls: the directory is watched. The reader holds one file and one buffer.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use futures::StreamExt as _;
use inotify::{EventMask, Inotify, WatchMask};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, SeekFrom};
use tokio::sync::mpsc;

use super::lines::{LineWriter, More};
use crate::dispatch::LogOptions;
use crate::linux::fs::go_text;

/// How much is read at a time.
const CHUNK: usize = 64 * 1024;

/// The longest line that is kept while its end is missing; the runtime cuts lines at 16 KiB.
const MAX_LINE: usize = 1024 * 1024;

/// Why a log cannot be read; the texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub(in crate::pods) enum LogError {
    /// The path cannot be resolved.
    #[error("failed to try resolving symlinks in path {path:?}: {source_text}")]
    Resolve {
        /// The path.
        path: PathBuf,
        /// Go's words for the error.
        source_text: String,
    },
    /// The file cannot be opened or read.
    #[error("failed to {step} log file {path:?}: {}", go_text(source))]
    Io {
        /// `open`, `read`, `watch`.
        step: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// An open log.
#[derive(Debug)]
pub(in crate::pods) struct LogStream {
    path: PathBuf,
    file: File,
    options: LogOptions,
}

impl LogStream {
    /// Opens the log at `path` and seeks to the first line that is asked for.
    pub(in crate::pods) async fn open(path: &Path, options: LogOptions) -> Result<Self, LogError> {
        let resolved = tokio::fs::canonicalize(path).await.map_err(|error| LogError::Resolve {
            path: path.to_owned(),
            source_text: if error.kind() == io::ErrorKind::NotFound {
                format!("lstat {}: no such file or directory", path.display())
            } else {
                error.to_string()
            },
        })?;
        let fail = |step, source| LogError::Io { step, path: resolved.clone(), source };
        let mut file = File::open(&resolved).await.map_err(|error| fail("open", error))?;
        if let Some(lines) = options.tail_lines {
            let start = tail_start(&mut file, lines).await.map_err(|error| fail("tail", error))?;
            file.seek(SeekFrom::Start(start)).await.map_err(|error| fail("seek", error))?;
        }
        Ok(Self { path: resolved, file, options })
    }

    /// Sends the log to `out`, chunk by chunk, until its end or, when following, until the
    /// container has `ended` and all is sent, or until the receiver is gone. Cancel-safe.
    pub(in crate::pods) async fn run(
        mut self,
        out: mpsc::Sender<Result<bytes::Bytes, io::Error>>,
        ended: impl Future<Output = ()> + Send,
    ) {
        if let Err(error) = self.copy(&out, std::pin::pin!(ended)).await {
            // The receiver may be gone: then nobody is left to tell.
            drop(out.send(Err(io::Error::other(error))).await);
        }
    }

    async fn copy(
        &mut self,
        out: &mpsc::Sender<Result<bytes::Bytes, io::Error>>,
        mut ended: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<(), LogError> {
        let mut writer = LineWriter::new(&self.options);
        let mut pending = Vec::new();
        // The watch is set up before the first read, so that no write between reading and waiting
        // is missed.
        let mut changes = if self.options.follow { Some(Changes::new(&self.path)?) } else { None };
        let mut has_ended = false;
        loop {
            if self.drain(&mut pending, &mut writer, out).await? == More::Enough || out.is_closed()
            {
                return Ok(());
            }
            let Some(changes) = &mut changes else {
                // What is left has no newline: upstream sends it all the same.
                return self.flush(&mut pending, &mut writer, out).await;
            };
            if has_ended {
                return Ok(());
            }
            // Cancel-safe: all three lose nothing when dropped. `ended` is not polled once it is
            // over: the loop returns then.
            tokio::select! {
                change = changes.next() => if change? == Change::Recreated {
                    self.reopen(&mut pending, &mut writer, out).await?;
                },
                () = &mut ended => has_ended = true,
                () = out.closed() => return Ok(()),
            }
        }
    }

    /// Sends every complete line up to the end of the file.
    async fn drain(
        &mut self,
        pending: &mut Vec<u8>,
        writer: &mut LineWriter,
        out: &mpsc::Sender<Result<bytes::Bytes, io::Error>>,
    ) -> Result<More, LogError> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = self.file.read(&mut chunk).await.map_err(|source| LogError::Io {
                step: "read",
                path: self.path.clone(),
                source,
            })?;
            if read == 0 {
                return Ok(More::Wanted);
            }

            pending.extend_from_slice(&chunk[..read]);
            let mut sent = Vec::with_capacity(read);
            let mut start = 0;
            let mut more = More::Wanted;
            while let Some(length) = pending[start..].iter().position(|byte| *byte == b'\n') {
                more = writer.push(&pending[start..=start + length], &mut sent);
                start += length + 1;
                if more == More::Enough {
                    break;
                }
            }

            pending.drain(..start);
            if pending.len() > MAX_LINE {
                pending.clear();
            }

            if !sent.is_empty() && out.send(Ok(sent.into())).await.is_err() {
                return Ok(More::Enough);
            }
            if more == More::Enough {
                return Ok(More::Enough);
            }
        }
    }

    async fn flush(
        &mut self,
        pending: &mut Vec<u8>,
        writer: &mut LineWriter,
        out: &mpsc::Sender<Result<bytes::Bytes, io::Error>>,
    ) -> Result<(), LogError> {
        let mut sent = Vec::new();
        writer.push(pending, &mut sent);
        pending.clear();
        if !sent.is_empty() {
            // The receiver may be gone; there is nothing more to send anyway.
            drop(out.send(Ok(sent.into())).await);
        }
        Ok(())
    }

    /// The file was rotated: sends the rest of the old one, then goes on with the new one.
    async fn reopen(
        &mut self,
        pending: &mut Vec<u8>,
        writer: &mut LineWriter,
        out: &mpsc::Sender<Result<bytes::Bytes, io::Error>>,
    ) -> Result<(), LogError> {
        self.drain(pending, writer, out).await?;
        self.flush(pending, writer, out).await?;
        match File::open(&self.path).await {
            Ok(file) => {
                self.file = file;
                Ok(())
            }
            // It may be renamed again already; the next creation is another event.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(LogError::Io { step: "open", path: self.path.clone(), source }),
        }
    }
}

/// What has happened to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// It may have grown.
    Grown,
    /// A file of its name was created: the old one was rotated away.
    Recreated,
}

/// Changes in the directory of a log.
struct Changes {
    events: inotify::EventStream<[u8; 4096]>,
    name: std::ffi::OsString,
    path: PathBuf,
}

impl Changes {
    fn new(path: &Path) -> Result<Self, LogError> {
        let fail = |source| LogError::Io { step: "watch", path: path.to_owned(), source };
        let inotify = Inotify::init().map_err(fail)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
        inotify.watches().add(directory, mask).map_err(fail)?;
        let events = inotify.into_event_stream([0; 4096]).map_err(fail)?;
        let name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
        Ok(Self { events, name, path: path.to_owned() })
    }

    /// The next change of this log. Cancel-safe.
    async fn next(&mut self) -> Result<Change, LogError> {
        loop {
            let event = self
                .events
                .next()
                .await
                .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof));
            let event = event.and_then(std::convert::identity).map_err(|source| LogError::Io {
                step: "watch",
                path: self.path.clone(),
                source,
            })?;
            if event.name.as_deref() != Some(&self.name) {
                continue;
            }
            let created = event.mask.intersects(EventMask::CREATE | EventMask::MOVED_TO);
            return Ok(if created { Change::Recreated } else { Change::Grown });
        }
    }
}

/// Where the last `lines` lines of the file begin.
async fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(length);
    }
    let mut position = length;
    let mut seen = 0;
    let mut chunk = vec![0; CHUNK];
    while position > 0 {
        let size = usize::try_from(position).unwrap_or(CHUNK).min(CHUNK);
        position -= u64::try_from(size).unwrap_or_default();
        file.seek(SeekFrom::Start(position)).await?;
        file.read_exact(&mut chunk[..size]).await?;
        for (index, byte) in chunk[..size].iter().enumerate().rev() {
            let offset = position + u64::try_from(index).unwrap_or_default();
            // The newline that ends the file ends its last line; it does not begin another.
            if *byte == b'\n' && offset + 1 != length {
                seen += 1;
                if seen == lines {
                    return Ok(offset + 1);
                }
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write files")]
mod tests {
    use std::io::Write as _;

    use tokio::sync::watch;

    use super::*;

    /// Waits until the container no longer runs.
    async fn ended(mut running: watch::Receiver<bool>) {
        drop(running.wait_for(|running| !running).await);
    }

    fn line(number: u32) -> String {
        format!("2026-11-21T09:00:00Z stdout F line {number}\n")
    }

    async fn collect(
        receiver: &mut mpsc::Receiver<Result<bytes::Bytes, io::Error>>,
        until: &str,
    ) -> String {
        let mut text = String::new();
        while let Some(chunk) = receiver.recv().await {
            text.push_str(std::str::from_utf8(&chunk.expect("no error")).expect("text"));
            if text.ends_with(until) {
                break;
            }
        }
        text
    }

    #[tokio::test]
    async fn the_last_lines_are_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.log");
        let text: String = (0..5000).map(line).collect();
        std::fs::write(&path, text).expect("written");
        for (tail, expected) in [(0, ""), (1, "line 4999\n"), (2, "line 4998\nline 4999\n")] {
            let options = LogOptions { tail_lines: Some(tail), ..LogOptions::default() };
            let stream = LogStream::open(&path, options).await.expect("opened");
            let (sender, mut receiver) = mpsc::channel(8);
            let (_running, watching) = watch::channel(false);
            let (text, ()) =
                tokio::join!(collect(&mut receiver, "never"), stream.run(sender, ended(watching)));
            assert_eq!(text, expected);
        }
    }

    #[tokio::test]
    async fn following_survives_rotation_and_ends_with_the_container() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.log");
        std::fs::write(&path, line(1)).expect("written");
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let stream = LogStream::open(&path, options).await.expect("opened");
        let (sender, mut receiver) = mpsc::channel(8);
        let (running, watching) = watch::channel(true);
        let script = async {
            assert_eq!(collect(&mut receiver, "line 1\n").await, "line 1\n");
            let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("opened");
            file.write_all(line(2).as_bytes()).expect("written");
            assert_eq!(collect(&mut receiver, "line 2\n").await, "line 2\n");
            std::fs::rename(&path, directory.path().join("0.log.old")).expect("renamed");
            file.write_all(line(3).as_bytes()).expect("written to the old file");
            std::fs::write(&path, line(4)).expect("written to the new file");
            assert_eq!(collect(&mut receiver, "line 4\n").await, "line 3\nline 4\n");
            running.send_replace(false);
            assert_eq!(collect(&mut receiver, "never").await, "");
        };
        tokio::join!(stream.run(sender, ended(watching)), script);
    }
}
