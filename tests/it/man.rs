//! The man page `systemd/rkubelet.8` is made from what `--help` says, so that neither forgets what
//! the other has. `UPDATE=1` rewrites it.

use std::fmt::Write as _;
use std::path::Path;

use rkubelet::internals::{config, tools};

const HEAD: &str = r#".\" Made from `rkubelet --help` by `UPDATE=1 cargo test --test it man`.
.TH RKUBELET 8 "" "rkubelet" "Kubernetes"
.SH NAME
rkubelet \- the agent of a Kubernetes node
.SH SYNOPSIS
.B rkubelet
.BI \-\-config= file
.BI \-\-kubeconfig= file
.RI [ flags ]
.br
.B rkubelet
.BI \-\-config= file
.SH DESCRIPTION
"#;

const TAIL: &str = r#".SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT
What is being written to the API server is written, then the process ends. Containers keep running; the next start
adopts them.
.SH HTTP
Port 10250 (HTTPS, authenticated) serves what the API server asks for:
.IR /pods ,
.IR /containerLogs ,
.IR /exec ,
.IR /attach ,
.IR /portForward ,
.IR /metrics ,
.IR /configz ,
.IR /healthz ;
.I /debug/blocked
lists the pods that wait, for what, since when and when it is tried again. Port 10248 of the host itself serves
.IR /healthz .
.SH TOOLS
.EX
@TOOLS@
.EE
.SH EXAMPLES
A node that
.B kubeadm join
has set up:
.PP
.EX
rkubelet \-\-config=/var/lib/kubelet/config.yaml \-\-kubeconfig=/etc/kubernetes/kubelet.conf
.EE
.PP
Why a pod is stuck:
.PP
.EX
rkubelet pods
kubectl describe pod NAME
kubectl get \-\-raw /api/v1/nodes/NODE/proxy/debug/blocked
.EE
.SH SEE ALSO
.BR containerd (8),
.BR kubeadm (1),
.BR kubectl (1),
.BR systemctl (1)
"#;

/// The page from the text of `--help`: headings stand at the margin and end with a colon, flags are
/// indented by six, what they do by ten.
fn page(help: &str) -> String {
    let mut out = HEAD.to_owned();
    let mut in_usage = false;
    let mut literal = false;
    for line in help.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if indent == 0 && !text.is_empty() {
            if literal {
                out.push_str(".EE\n.SH OPTIONS\n");
            }
            literal = false;
            in_usage = text == "Usage:";
        }
        if in_usage || text.is_empty() {
            continue;
        }
        match (indent, text.strip_suffix(':')) {
            (0, Some("Files")) => {
                out.push_str(".SH FILES\n.EX\n");
                literal = true;
            }
            (0, Some(heading)) if !heading.contains('.') => drop(writeln!(out, ".SS {heading}")),
            (0, _) => match text.strip_prefix("Exit codes: ") {
                Some(codes) => drop(writeln!(out, ".SH EXIT STATUS\n{}", escaped(codes))),
                None => drop(writeln!(out, "{}", escaped(text))),
            },
            (2 | 6, _) if text.starts_with('-') => drop(writeln!(out, ".TP\n.B {}", escaped(text))),
            _ => drop(writeln!(out, "{}", escaped(text))),
        }
    }
    let lines: Vec<String> = tools::help().lines().map(escaped).collect();
    let tools = lines.join("\n");
    out + &TAIL.replace("@TOOLS@", &tools)
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('…', "\\[u2026]");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[test]
fn the_man_page_is_what_help_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/rkubelet.8");
    let made = page(&config::help());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &made).expect("writable");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == made,
        "systemd/rkubelet.8 is stale: run `UPDATE=1 cargo test --test it man` and commit it"
    );
    assert!(made.contains(".B \\-\\-kubeconfig"), "the flags are missing");
}
