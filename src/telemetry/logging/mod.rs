//! The log: klog's text format or upstream's JSON, a level filter that can be changed while
//! running, and panics.
//!
//! `-v` maps onto tracing's levels: below 4 INFO, from 4 DEBUG (decisions), from 6 TRACE (loops).
//! `--vmodule` raises single source files. Libraries are one step quieter than our own code. Times
//! are in UTC. Lines are written with one call each and never held back: what klog buffers, and how
//! often it flushes, has no meaning here.

mod fields;
mod filter;
mod json;
mod text;

use std::io::Write;

use parking_lot::Mutex;
use tracing::{Event, Level, Metadata, Subscriber, span, subscriber::Interest};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

pub use filter::LogHandle;

use crate::clock::Clock;
use fields::Fields;
use filter::Filter;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// klog's text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What `main` takes from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// How lines look.
    pub format: Format,
    /// `-v`.
    pub verbosity: u32,
    /// `--vmodule`: patterns of source files and their levels.
    pub vmodule: Vec<(String, u32)>,
    /// Warnings and errors to stderr, the rest to stdout, instead of all to stderr.
    pub split_stream: bool,
}

/// A second log was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log is already set up")]
pub struct AlreadySetUp;

/// Sets up the log of the process, and panics to go through it.
pub fn init(config: LogConfig) -> Result<LogHandle, AlreadySetUp> {
    let quiet: Box<dyn Write + Send> =
        if config.split_stream { Box::new(std::io::stdout()) } else { Box::new(std::io::stderr()) };
    let output = Output { info: Mutex::new(quiet), error: Mutex::new(Box::new(std::io::stderr())) };
    let (layer, handle) = LogLayer::new(config, output);
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
        .map_err(|_| AlreadySetUp)?;
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no text");
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(location, error = text, %backtrace, "Panicked");
    }));
    Ok(handle)
}

/// Where lines go.
struct Output {
    info: Mutex<Box<dyn Write + Send>>,
    error: Mutex<Box<dyn Write + Send>>,
}

impl Output {
    fn write(&self, level: Level, line: &str) {
        let stream = if level <= Level::WARN { &self.error } else { &self.info };
        // There is nobody to tell that the log cannot be written.
        stream.lock().write_all(line.as_bytes()).ok();
    }
}

/// One line before it has a format.
struct Line<'a> {
    level: Level,
    now: jiff::Timestamp,
    /// The last two parts of the source file's path.
    file: &'a str,
    line: u32,
    message: &'a str,
    /// Of the spans, outermost first, then of the event.
    fields: &'a [&'a Fields],
}

struct LogLayer {
    format: Format,
    filter: Filter,
    output: Output,
    clock: Clock,
    pid: u32,
}

impl LogLayer {
    fn new(config: LogConfig, output: Output) -> (Self, LogHandle) {
        let LogConfig { format, verbosity, vmodule, split_stream: _ } = config;
        let (filter, handle) = Filter::new(verbosity, vmodule);
        (Self { format, filter, output, clock: Clock::system(), pid: std::process::id() }, handle)
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // The answer is kept until the level changes, which asks again.
        if self.filter.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.filter.enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.filter.most())
    }

    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        context: Context<'_, S>,
    ) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut own = Fields::default();
        event.record(&mut own);
        let message = own.take_message();
        let mut of_spans: Vec<Fields> = Vec::new();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            of_spans.extend(span.extensions().get::<Fields>().cloned());
        }
        let all: Vec<&Fields> = of_spans.iter().chain([&own]).collect();
        let metadata = event.metadata();
        let line = Line {
            level: *metadata.level(),
            now: self.clock.now().wall,
            file: metadata.file().unwrap_or("unknown"),
            line: metadata.line().unwrap_or(0),
            message: &message,
            fields: &all,
        };
        let text = match self.format {
            Format::Text => text::line(&line, self.pid),
            Format::Json => json::line(&line),
        };
        self.output.write(line.level, &text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `log` writes to the two streams.
    fn logged(config: LogConfig, log: impl FnOnce(&LogHandle)) -> (String, String) {
        let (info, error) = (Sink::default(), Sink::default());
        let output = Output {
            info: Mutex::new(Box::new(info.clone())),
            error: Mutex::new(Box::new(error.clone())),
        };
        let (layer, handle) = LogLayer::new(config, output);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            log(&handle);
        });
        let text = |sink: &Sink| String::from_utf8(sink.0.lock().clone()).expect("UTF-8");
        (text(&info), text(&error))
    }

    #[test]
    fn text_has_klogs_form() {
        let (info, error) = logged(LogConfig::default(), |_| {
            let span = tracing::info_span!("pod", pod = "default/web", uid = tracing::field::Empty);
            let _entered = span.enter();
            span.record("uid", "u1");
            tracing::info!(count = 3, ok = true, name = %"a\"b", "Pod \"started\"");
            tracing::debug!("not shown");
            tracing::warn!(text = "two\nlines", "Careful");
        });
        let (header, rest) = info.split_once("] ").expect("a header");
        assert!(header.starts_with('I') && header.contains(" mod.rs:"), "{header}");
        assert_eq!(header.split_once(' ').map(|(date, _)| date.len()), Some(5), "{header}");
        assert_eq!(
            rest,
            "\"Pod \\\"started\\\"\" pod=\"default/web\" uid=\"u1\" count=3 ok=true name=\"a\\\"b\"\n"
        );
        let (header, rest) = error.split_once("] ").expect("a header");
        assert!(header.starts_with('W'), "{header}");
        assert_eq!(rest, "\"Careful\" pod=\"default/web\" uid=\"u1\" text=<\n\ttwo\n\tlines\n >\n");
    }

    #[test]
    fn a_field_named_message_leaves_the_sentence_alone() {
        let rejected = || {
            let message = "Pod was rejected";
            tracing::info!(reason = "OutOfcpu", message, "Pod rejected");
        };
        let (text, _) = logged(LogConfig::default(), |_| rejected());
        let (_, rest) = text.split_once("] ").expect("a header");
        assert_eq!(rest, "\"Pod rejected\" reason=\"OutOfcpu\" message=\"Pod was rejected\"\n");
        let config = LogConfig { format: Format::Json, ..LogConfig::default() };
        let (json, _) = logged(config, |_| rejected());
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(
            (&json["msg"], &json["message"]),
            (&"Pod rejected".into(), &"Pod was rejected".into())
        );
    }

    #[test]
    fn json_has_upstreams_keys() {
        let config = LogConfig { format: Format::Json, verbosity: 4, ..LogConfig::default() };
        let source = std::io::Error::other("it broke");
        let (info, error) = logged(config, |_| {
            tracing::debug!(count = 3, "Decided");
            tracing::error!(error = &source as &dyn std::error::Error, pod = "a/b", "Failed");
        });
        let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
        assert_eq!(
            (&info["msg"], &info["v"], &info["count"]),
            (&"Decided".into(), &4.into(), &3.into())
        );
        assert!(info["ts"].as_f64().is_some_and(|ts| ts > 1e12), "{info}");
        assert!(
            info["caller"].as_str().is_some_and(|caller| caller.starts_with("logging/mod.rs:")),
            "{info}"
        );
        let error: serde_json::Value = serde_json::from_str(&error).expect("JSON");
        assert_eq!((&error["err"], &error["pod"]), (&"it broke".into(), &"a/b".into()));
        assert!(error.get("v").is_none());
    }

    #[test]
    fn the_level_can_change() {
        let (info, _) = logged(LogConfig::default(), |handle| {
            let say = |text: &str| tracing::debug!("{text}");
            say("one");
            handle.set_verbosity(4);
            say("two");
            let current = LogHandle::current().expect("the log is set up");
            assert_eq!(current.verbosity(), 4);
            current.set_verbosity(0);
            say("three");
        });
        assert!(info.contains("two") && !info.contains("one") && !info.contains("three"), "{info}");
    }
}
