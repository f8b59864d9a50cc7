//! The tools of operators, in the kubelet's own binary: `rkubelet pods`, `timeline`, `config`,
//! `support-bundle`, `completion`.
//!
//! Fed by argv. They ask the running kubelet at its local socket, which only root can open, and
//! never change anything. Upstream's kubelet takes no words without a dash, so none of them is in
//! the way of a flag.

mod bundle;
mod client;
mod completion;
mod config;
mod pods;
mod table;
mod timeline;

use std::path::PathBuf;

use lexopt::prelude::{Long, Short, Value, ValueExt as _};

use self::client::AskError;
use crate::config as kubelet_config;

/// The help of all tools.
const HELP: &str = "\
Tools, which ask the kubelet that runs on this machine (as root):

  rkubelet pods                         what each pod is at, and what it waits for
  rkubelet timeline [NAMESPACE/]NAME    the steps of a pod's life here, with durations
  rkubelet config validate [FLAGS]      reads flags and files as the start would
  rkubelet config diff [FLAGS]          the fields that differ from a file's defaults
  rkubelet config explain FIELD [FLAGS] a field's value, default, effect and flag
  rkubelet support-bundle [FILE]        a .tar.gz that helps to find a fault; no secrets
  rkubelet completion bash|zsh|fish     completions for a shell, to stdout

  -o, --output text|json   the form of the answer (pods, timeline, config)
      --root-dir string    the root directory of the kubelet that is asked
                           (default /var/lib/kubelet)

Exit code 1: the configuration is refused, or the kubelet does not answer.
";

/// The failure of a tool.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The command line is wrong.
    #[error("{0}\nrkubelet {1} --help shows the tools")]
    Usage(String, &'static str),
    /// The kubelet did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The configuration is refused.
    #[error("{0}")]
    Refused(String),
    /// A file cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// The options that the tools share.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Options {
    words: Vec<String>,
    json: bool,
    help: bool,
    root_dir: PathBuf,
}

/// A tool, by its first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    Pods,
    Timeline,
    Config,
    SupportBundle,
    Completion,
}

impl Tool {
    const ALL: [Self; 5] =
        [Self::Pods, Self::Timeline, Self::Config, Self::SupportBundle, Self::Completion];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Timeline => "timeline",
            Self::Config => "config",
            Self::SupportBundle => "support-bundle",
            Self::Completion => "completion",
        }
    }
}

/// Returns the help of all tools, for `--help` and the man page.
pub fn help() -> &'static str {
    HELP
}

/// Runs the tool that `args` (without the program's name) begins with, and returns its output;
/// `None` if it begins with none. Blocks.
pub fn run(args: &[String]) -> Option<Result<String, ToolError>> {
    let (first, rest) = args.split_first()?;
    let tool = Tool::ALL.into_iter().find(|tool| tool.as_str() == first)?;
    Some(run_tool(tool, rest))
}

fn run_tool(tool: Tool, args: &[String]) -> Result<String, ToolError> {
    if tool == Tool::Config {
        return config::run(args);
    }
    let options = parse(tool, args)?;
    if options.help {
        return Ok(HELP.to_owned());
    }

    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    match (tool, words.as_slice()) {
        (Tool::Pods, []) => pods::run(&options.root_dir, options.json),
        (Tool::Timeline, [pod]) => timeline::run(&options.root_dir, pod, options.json),
        (Tool::SupportBundle, []) => bundle::run(&options.root_dir, None),
        (Tool::SupportBundle, [file]) => bundle::run(&options.root_dir, Some(file)),
        (Tool::Completion, [shell]) => completion::script(shell)
            .ok_or_else(|| usage(tool, format!("no completion for {shell:?}: bash, zsh or fish"))),
        (Tool::Timeline, _) => Err(usage(tool, "name one pod: NAMESPACE/NAME".to_owned())),
        (Tool::Completion, _) => Err(usage(tool, "name a shell: bash, zsh or fish".to_owned())),
        (Tool::Pods | Tool::SupportBundle | Tool::Config, _) => {
            Err(usage(tool, format!("too many words: {}", words.join(" "))))
        }
    }
}

fn usage(tool: Tool, problem: String) -> ToolError {
    ToolError::Usage(problem, tool.as_str())
}

fn parse(tool: Tool, args: &[String]) -> Result<Options, ToolError> {
    let mut options = Options {
        words: Vec::new(),
        json: false,
        help: false,
        root_dir: PathBuf::from(kubelet_config::Flags::default().root_dir),
    };
    let wrong = |error: lexopt::Error| usage(tool, error.to_string());

    let mut parser = lexopt::Parser::from_args(args);
    while let Some(argument) = parser.next().map_err(wrong)? {
        match argument {
            Short('o') | Long("output") => {
                let form = parser.value().and_then(lexopt::ValueExt::string).map_err(wrong)?;
                options.json = is_json(&form)
                    .ok_or_else(|| usage(tool, format!("no output {form:?}: text or json")))?;
            }
            Long("root-dir") => options.root_dir = parser.value().map_err(wrong)?.into(),
            Short('h') | Long("help") => options.help = true,
            Value(word) => options.words.push(word.string().map_err(wrong)?),
            Short(_) | Long(_) => return Err(wrong(argument.unexpected())),
        }
    }
    Ok(options)
}

fn is_json(form: &str) -> Option<bool> {
    match form {
        "json" => Some(true),
        "text" | "wide" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{ToolError, run};

    fn args(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn flags_start_the_kubelet() {
        assert!(run(&args("--config=/x pods")).is_none());
        assert!(run(&[]).is_none());
        assert!(run(&args("nonsense")).is_none());
    }

    #[test]
    fn wrong_words_are_named() {
        for (line, problem) in [
            ("pods -o yaml", "no output \"yaml\""),
            ("pods web", "too many words: web"),
            ("timeline", "name one pod"),
            ("timeline --frob x", "invalid option '--frob'"),
            ("completion tcsh", "no completion for \"tcsh\""),
            ("config explain", "name a field"),
            ("config frob", "validate, diff or explain"),
        ] {
            let error = run(&args(line)).expect("a tool").expect_err(line);
            assert!(matches!(error, ToolError::Usage(..)), "{line}: {error}");
            assert!(error.to_string().contains(problem), "{line}: {error}");
        }
    }

    #[test]
    fn without_a_kubelet_the_socket_is_named() {
        let root = tempfile::tempdir().expect("a directory");
        let root_dir = format!("--root-dir={}", root.path().display());
        let error = run(&["pods".to_owned(), root_dir]).expect("a tool").expect_err("no kubelet");
        let text = error.to_string();
        assert!(text.contains("rkubelet.sock"), "{text}");
        assert!(text.contains("is the kubelet running"), "{text}");
    }
}
