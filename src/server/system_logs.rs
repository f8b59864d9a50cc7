//! `/logs/`: the files below `/var/log`, and the logs of services that journald or a file has
//! (NodeLogQuery).
//!
//! Whoever may read here reads as root: links are followed, as upstream follows them. The file of a
//! query never leaves the directory.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as Within, Query, State as Shared};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use http::{StatusCode, Uri, header};
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::diagnostics::{Diagnostics, Handler};
use super::node_log_query::{self, NodeLogQuery};
use super::{State, closed, text};
use crate::linux::beneath::Root;
use crate::linux::blocking;

/// Time for the logs of services, as upstream.
const DEADLINE: Duration = Duration::from_secs(30);
/// The page that stands for a directory.
const INDEX: &str = "index.html";

type Pairs = Query<Vec<(String, String)>>;

/// The routes, which may be closed.
pub(super) fn routes(diagnostics: &Diagnostics) -> Router<State> {
    if !diagnostics.serves(Handler::SystemLogs) {
        return closed("/logs/", "logs endpoint is disabled.\n");
    }
    let root = async |state: Shared<State>, query: Pairs, uri: Uri| {
        answer(&state.diagnostics, "", &query, &uri).await
    };
    let below = async |state: Shared<State>, path: Within<String>, query: Pairs, uri: Uri| {
        answer(&state.diagnostics, &path, &query, &uri).await
    };
    Router::new().route("/logs/", get(root)).route("/logs/{*path}", get(below))
}

async fn answer(
    diagnostics: &Diagnostics,
    path: &str,
    query: &[(String, String)],
    uri: &Uri,
) -> Response {
    let directory = &diagnostics.system_logs;
    let asked =
        if diagnostics.serves(Handler::LogQuery) { node_log_query::parse(query) } else { Ok(None) };
    let asked = match asked {
        Ok(Some(asked)) => asked,
        Ok(None) => return file(directory, path, uri).await,
        Err(problem) => return text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    };
    if !path.is_empty() {
        return text(StatusCode::NOT_ACCEPTABLE, "path not allowed in query mode\n");
    }

    if let Err(problem) = node_log_query::check(&asked) {
        return text(StatusCode::NOT_ACCEPTABLE, format!("{problem}\n"));
    }
    match asked.files.first() {
        Some(wanted) => file_beneath(directory, wanted, uri).await,
        None => services(directory.clone(), asked),
    }
}

/// Serves what a query names as [`file()`] does, but never what is not beneath the directory: what
/// was resolved is what is read.
async fn file_beneath(directory: &Path, wanted: &str, uri: &Uri) -> Response {
    let directory = directory.to_owned();
    let path = format!("/{}", wanted.trim_start_matches('/'));
    let look = move || {
        let root = Root::open(&directory)?;
        let place = resolve(&root, &path)?;
        let index =
            || resolve(&root, &format!("{path}{INDEX}")).and_then(|index| open(&index.path()));
        Ok::<_, io::Error>(look_at(&place.path(), &path, index))
    };
    match blocking::spawn(look).await.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(found) => answer_with(found, uri).await,
        Err(error) => {
            let problem = node_log_query::no_file(wanted, &error.to_string());
            text(StatusCode::NOT_ACCEPTABLE, format!("{problem}\n"))
        }
    }
}

/// Something beneath a directory, held by its descriptor.
struct Place(OwnedFd);

impl Place {
    /// A path that leads to what is held, whatever its name leads to by now.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// Finds a path, with or without a slash at its beginning, beneath the directory.
fn resolve(root: &Root, path: &str) -> io::Result<Place> {
    root.resolve(Path::new(path.trim_start_matches('/'))).map(Place)
}

/// Something below the directory, ready to be sent.
enum Found {
    /// A directory: its entries, with a slash behind each directory.
    Directory(Vec<String>),
    File {
        file: std::fs::File,
        size: u64,
        modified: Option<jiff::Timestamp>,
    },
    /// The path has to end with a slash, or must not.
    Moved(String),
}

/// Serves a file or a directory as Go's file server does, but for ranges.
async fn file(directory: &Path, path: &str, uri: &Uri) -> Response {
    let directory = directory.to_owned();
    let path = format!("/{}", path.trim_start_matches('/'));
    let found = blocking::spawn(move || look(&directory, &path)).await;
    answer_with(found.unwrap_or_else(|error| Err(io::Error::other(error))), uri).await
}

/// Sends what was found, as Go's file server does.
async fn answer_with(found: io::Result<Found>, uri: &Uri) -> Response {
    match found {
        Ok(Found::Directory(names)) => {
            ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], listing(&names)).into_response()
        }
        Ok(Found::Moved(to)) => {
            let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, format!("{to}{query}"))])
                .into_response()
        }
        Ok(Found::File { file, size, modified }) => send(file, size, modified).await,
        Err(error) => refusal(error.kind()),
    }
}

/// The answer to an error, which tells nobody more than it must.
fn refusal(kind: io::ErrorKind) -> Response {
    const MISSING: [io::ErrorKind; 3] =
        [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory, io::ErrorKind::InvalidInput];
    if MISSING.contains(&kind) {
        text(StatusCode::NOT_FOUND, "404 page not found\n")
    } else if kind == io::ErrorKind::PermissionDenied {
        text(StatusCode::FORBIDDEN, "403 Forbidden\n")
    } else {
        text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n")
    }
}

/// Opens what `path`, which begins with a slash, leads to. Blocks.
fn look(directory: &Path, path: &str) -> io::Result<Found> {
    let mut place = directory.to_owned();
    let mut depth = 0;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => {}
            ".." => {
                place.pop();
                depth -= 1;
            }
            part => {
                place.push(part);
                depth += 1;
            }
        }
    }

    look_at(&place, path, || open(&place.join(INDEX)))
}

/// Opens `place`, which `path` has led to. `index` opens the page that stands for it if it is a
/// directory. Blocks.
fn look_at(
    place: &Path,
    path: &str,
    index: impl FnOnce() -> io::Result<Found>,
) -> io::Result<Found> {
    if path.ends_with("/index.html") {
        return Ok(Found::Moved("./".to_owned()));
    }
    let metadata = std::fs::metadata(place)?;
    let base = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let has_slash = path.ends_with('/');
    if metadata.is_dir() {
        if !has_slash {
            return Ok(Found::Moved(format!("{base}/")));
        }
        return match index() {
            Ok(found) => Ok(found),
            Err(_) => entries(place).map(Found::Directory),
        };
    }
    if has_slash {
        return Ok(Found::Moved(format!("../{base}")));
    }
    open(place)
}

/// Opens a regular file. A pipe that nobody writes must not hold the thread.
fn open(path: &Path) -> io::Result<Found> {
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let modified = metadata.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
    Ok(Found::File { file, size: metadata.len(), modified })
}

fn entries(directory: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(directory)?
        .map(|entry| {
            let entry = entry?;
            let mut name: OsString = entry.file_name();
            if entry.file_type()?.is_dir() {
                name.push("/");
            }
            Ok(name.to_string_lossy().into_owned())
        })
        .collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Go's page of a directory.
fn listing(names: &[String]) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    use std::fmt::Write as _;

    const PATH: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b',')
        .remove(b'/')
        .remove(b':')
        .remove(b';')
        .remove(b'=')
        .remove(b'@');
    let mut page = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n\
                    <pre>\n"
        .to_owned();
    for name in names {
        // Without this a colon would end a scheme.
        let dot = if name.contains(':') { "./" } else { "" };
        let url = utf8_percent_encode(name, PATH);
        let shown = name
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&#34;")
            .replace('\'', "&#39;");
        let _ = writeln!(page, "<a href=\"{dot}{url}\">{shown}</a>");
    }
    page.push_str("</pre>\n");
    page
}

/// Sends as much of a file as it had when it was opened.
async fn send(file: std::fs::File, size: u64, modified: Option<jiff::Timestamp>) -> Response {
    /// The bytes that tell what a file is.
    const SNIFFED: u64 = 512;

    let mut file = tokio::fs::File::from_std(file);
    let mut head = Vec::new();
    if (&mut file).take(SNIFFED.min(size)).read_to_end(&mut head).await.is_err() {
        return refusal(io::ErrorKind::Other);
    }

    let kind = content_type(&head);
    let left = size.saturating_sub(head.len() as u64);
    let rest = ReaderStream::new(file.take(left));
    let chunks = stream::once(async move { Ok(Bytes::from(head)) }).chain(rest);
    let mut response =
        Response::builder().header(header::CONTENT_TYPE, kind).header(header::CONTENT_LENGTH, size);
    if let Some(modified) = modified {
        let modified = modified.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        response = response.header(header::LAST_MODIFIED, modified);
    }
    let response = response.body(Body::from_stream(chunks));
    response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// Guesses the type of a log by its first bytes.
fn content_type(head: &[u8]) -> &'static str {
    let is_binary = |byte: &u8| matches!(byte, 0..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    if head.starts_with(&[0x1f, 0x8b, 0x08]) {
        "application/x-gzip"
    } else if head.iter().any(is_binary) {
        "application/octet-stream"
    } else {
        "text/plain; charset=utf-8"
    }
}

type Chunks = BoxStream<'static, io::Result<Bytes>>;

/// Streams the logs of services: journald's first, then those that are in files.
fn services(directory: PathBuf, query: NodeLogQuery) -> Response {
    // What takes too long is cut off.
    let opened = open_services(directory, query).flatten_stream();
    let chunks = opened.take_until(tokio::time::sleep(DEADLINE));
    let headers = [(header::CONTENT_TYPE, "text/plain;charset=UTF-8")];
    (headers, Body::from_stream(chunks)).into_response()
}

async fn open_services(directory: PathBuf, query: NodeLogQuery) -> Chunks {
    let units = journal_units().await;
    let (native, files): (Vec<&str>, Vec<&str>) = query
        .services
        .iter()
        .map(String::as_str)
        .partition(|service| units.contains(&format!("{service}.service")));

    let mut parts: Vec<Chunks> = Vec::new();
    if !native.is_empty() {
        let arguments = node_log_query::journalctl(&query.options, &native);
        parts.push(output_of("journalctl", &arguments, DEADLINE));
    }
    if !files.is_empty() && !query.options.is_empty() {
        parts.push(said(format!(
            "\noptions present and query resolved to log files for [{}]\n\
             try without specifying options\n",
            files.join(" ")
        )));
    } else {
        for service in files {
            parts.push(log_file(directory.clone(), service.to_owned()).await);
        }
    }
    stream::iter(parts).flatten().boxed()
}

/// Returns the units that the journal knows, one a line; empty without a journal.
async fn journal_units() -> String {
    let mut command = tokio::process::Command::new("journalctl");
    command.args(["--field", "_SYSTEMD_UNIT"]).stdin(Stdio::null()).kill_on_drop(true);
    match command.output().await {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Ok(_) | Err(_) => String::new(),
    }
}

/// Runs a program; both its outputs are the log. It is killed when `deadline` is over, even if its
/// log is not read any more, and when the log is dropped.
fn output_of(program: &str, arguments: &[String], deadline: Duration) -> Chunks {
    let started = || {
        let (reader, writer) = io::pipe()?;
        let child = tokio::process::Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .kill_on_drop(true)
            .spawn()?;
        let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into())?;
        Ok::<_, io::Error>((child, reader))
    };
    match started() {
        Ok((child, reader)) => {
            let unread = CancellationToken::new();
            let reading = unread.clone().drop_guard();
            #[expect(
                clippy::disallowed_methods,
                reason = "a client that stops reading keeps the response, which then is not polled"
            )]
            tokio::spawn(watch_over(child, deadline, unread));
            ReaderStream::new(reader)
                .map(move |chunk| {
                    let _reading = &reading;
                    chunk
                })
                .boxed()
        }
        Err(error) => {
            tracing::warn!(%error, program, "the program of a log query cannot be run");
            said("\nerror: journal output not available\n".to_owned())
        }
    }
}

/// Waits for the end of a program, and kills it after `deadline` or when its output is unread.
async fn watch_over(mut child: Child, deadline: Duration, unread: CancellationToken) {
    let ended = unread.run_until_cancelled(tokio::time::timeout(deadline, child.wait())).await;
    if matches!(ended, Some(Ok(_))) {
        return;
    }
    if let Err(error) = child.kill().await {
        tracing::debug!(%error, "the program of a log query was not killed");
    }
}

/// Opens the log of a service by the names that such logs have.
async fn log_file(directory: PathBuf, service: String) -> Chunks {
    let name = service.clone();
    let open_one = move || {
        let root = Root::open(&directory)?;
        let mut error = io::Error::from(io::ErrorKind::NotFound);
        for path in [name.clone(), format!("{name}.log"), format!("{name}/{name}.log")] {
            match open_beneath(&root, &path) {
                Ok(file) => return Ok(file),
                Err(problem) if problem.kind() == io::ErrorKind::NotFound => error = problem,
                Err(problem) => return Err(problem),
            }
        }
        Err(error)
    };
    match blocking::spawn(open_one).await.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(file) => ReaderStream::new(tokio::fs::File::from_std(file)).boxed(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            said(format!("\nlog not found for {service}\n"))
        }
        Err(error) => said(format!("\nerror getting log for {service}: {error}\n")),
    }
}

/// Opens a regular file beneath the directory; a directory is as good as nothing. Blocks.
fn open_beneath(root: &Root, path: &str) -> io::Result<std::fs::File> {
    let place = resolve(root, path)?;
    let link = place.path();
    match open(&link) {
        Ok(Found::File { file, .. }) => Ok(file),
        Ok(Found::Directory(_) | Found::Moved(_)) => Err(io::ErrorKind::NotFound.into()),
        Err(_) if std::fs::metadata(&link)?.is_dir() => Err(io::ErrorKind::NotFound.into()),
        Err(error) => Err(error),
    }
}

fn said(text: String) -> Chunks {
    stream::once(async move { Ok(Bytes::from(text)) }).boxed()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write the logs that they read")]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use http_body_util::BodyExt as _;

    use super::*;

    struct Asked {
        status: u16,
        location: Option<String>,
        body: String,
    }

    async fn ask(directory: &Path, query_is_on: bool, path: &str, query: &str) -> Asked {
        let mut handlers = BTreeSet::from([Handler::SystemLogs]);
        if query_is_on {
            handlers.insert(Handler::LogQuery);
        }
        let diagnostics = Diagnostics {
            handlers,
            flags: BTreeMap::new(),
            started: jiff::Timestamp::UNIX_EPOCH,
            log: None,
            checkpoints: PathBuf::new(),
            system_logs: directory.to_owned(),
        };
        let uri: Uri = format!("/logs/?{query}").parse().expect("a URI");
        let Query(pairs) = Pairs::try_from_uri(&uri).expect("a query");
        let response = answer(&diagnostics, path, &pairs, &uri).await;
        let location = response.headers().get(header::LOCATION);
        let location = location.map(|to| to.to_str().expect("text").to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        Asked { status, location, body: String::from_utf8_lossy(&body).into_owned() }
    }

    fn logs() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        std::fs::create_dir_all(path.join("sub/deep")).expect("made");
        std::fs::write(path.join("a.log"), "of a\n").expect("written");
        std::fs::write(path.join("sub/sub.log"), "of sub\n").expect("written");
        std::fs::write(path.join("<b>: c"), "x").expect("written");
        std::os::unix::fs::symlink("/etc/hostname", path.join("out")).expect("linked");
        directory
    }

    #[tokio::test]
    async fn files_and_directories_are_served_as_go_serves_them() {
        let directory = logs();
        let get = async |path: &str| ask(directory.path(), false, path, "").await;
        assert_eq!(get("a.log").await.body, "of a\n");
        assert_eq!(
            get("").await.body,
            "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n\
             <a href=\"./%3Cb%3E:%20c\">&lt;b&gt;: c</a>\n<a href=\"a.log\">a.log</a>\n\
             <a href=\"out\">out</a>\n<a href=\"sub/\">sub/</a>\n</pre>\n"
        );
        assert_eq!(get("sub").await.location.as_deref(), Some("sub/?"));
        assert_eq!(get("a.log/").await.location.as_deref(), Some("../a.log?"));
        assert_eq!(get("sub/index.html").await.location.as_deref(), Some("./?"));
        assert_eq!(get("../../a.log").await.body, "of a\n", "never above the directory");
        for missing in ["none", "a.log/x", "nul\0"] {
            let asked = get(missing).await;
            assert_eq!((asked.status, asked.body.as_str()), (404, "404 page not found\n"));
        }
    }

    /// Waits until a process is gone.
    async fn wait_for_end(pid: &str) {
        let place = Path::new("/proc").join(pid);
        let gone = async {
            while place.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it is killed");
    }

    #[tokio::test]
    async fn a_program_whose_log_is_not_read_ends_in_its_time() {
        let script = "echo $$; exec sleep 1000";
        let arguments = ["-c".to_owned(), script.to_owned()];
        for is_kept in [true, false] {
            let deadline = if is_kept { Duration::from_millis(300) } else { DEADLINE };
            let mut chunks = output_of("sh", &arguments, deadline);
            let first = chunks.next().await.expect("a chunk").expect("readable");
            // A client that stops reading keeps the stream; one that goes away drops it.
            let kept = is_kept.then_some(chunks);
            wait_for_end(String::from_utf8_lossy(&first).trim()).await;
            drop(kept);
        }
    }

    #[tokio::test]
    async fn a_query_follows_no_index_out_of_the_directory() {
        let directory = logs();
        let sub = directory.path().join("sub");
        std::os::unix::fs::symlink("/etc/hostname", sub.join("index.html")).expect("linked");
        let listed = ask(directory.path(), true, "", "query=/sub/").await;
        assert_eq!(listed.status, 200);
        assert!(listed.body.contains("sub.log"), "{}", listed.body);
        std::fs::remove_file(sub.join("index.html")).expect("removed");
        std::fs::write(sub.join("index.html"), "own").expect("written");
        let own = ask(directory.path(), true, "", "query=/sub/").await;
        assert_eq!(own.body, "own");
    }

    #[test]
    fn what_was_resolved_is_what_is_read() {
        let directory = logs();
        let root = Root::open(directory.path()).expect("a root");
        let place = resolve(&root, "/a.log").expect("found");
        let name = directory.path().join("a.log");
        std::fs::remove_file(&name).expect("removed");
        std::os::unix::fs::symlink("/etc/hostname", &name).expect("linked");
        let Found::File { mut file, .. } = open(&place.path()).expect("opened") else {
            panic!("not a file")
        };
        let mut text = String::new();
        io::Read::read_to_string(&mut file, &mut text).expect("read");
        assert_eq!(text, "of a\n");
    }

    #[tokio::test]
    async fn a_query_finds_files_beneath_the_directory_only() {
        let directory = logs();
        let query = async |query: &str| ask(directory.path(), true, "", query).await;
        assert_eq!(query("query=/a.log").await.body, "of a\n");
        assert_eq!(query("query=a").await.body, "of a\n", "a service with a file");
        assert_eq!(query("query=sub").await.body, "of sub\n");
        assert_eq!(query("query=nobody").await.body, "\nlog not found for nobody\n");
        assert_eq!(
            query("query=nobody&tailLines=3").await.body,
            "\noptions present and query resolved to log files for [nobody]\n\
             try without specifying options\n"
        );
        let out = query("query=/out").await;
        assert_eq!(out.status, 406, "{}", out.body);
        assert!(query("query=out").await.body.starts_with("\nerror getting log for out: "));
        let refused = ask(directory.path(), true, "sub/", "query=a").await;
        assert_eq!(
            (refused.status, refused.body.as_str()),
            (406, "path not allowed in query mode\n")
        );
        let bad = query("query=%20").await;
        assert_eq!(bad.status, 400, "{}", bad.body);
    }
}
