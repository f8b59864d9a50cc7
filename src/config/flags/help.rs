//! `--help`: what this is, how it is started, and every flag under the heading it belongs to.

use std::fmt::Write;

use super::table::{CADVISOR_LEFTOVERS, GOING, Group, OWN};
use super::{FlagSpec, Flags, Target, fields};
use crate::config::defaults::flag_defaults;

const WIDTH: usize = 100;
const INDENT: usize = 10;

const INTRODUCTION: &str = "\
rkubelet is the agent of one Kubernetes node: it registers the node with the API server, runs the pods that are bound
to it (and the static pods of a directory) through a CRI runtime such as containerd, and reports how they are.
It is a drop-in for the kubelet of Kubernetes 1.36: the same flags, the same configuration file, the same API.

Usage:
  rkubelet --config=<file> --kubeconfig=<file> [flags]     a node of a cluster
  rkubelet --config=<file>                                 standalone: static pods only
  rkubelet pods|timeline|config|support-bundle|completion  tools; rkubelet pods --help lists them

Files:
  /var/lib/kubelet/config.yaml      the KubeletConfiguration that kubeadm writes
  /etc/kubernetes/kubelet.conf      the kubeconfig that kubeadm writes
  /var/lib/kubelet                  state, and the volumes of pods
  /var/log/pods                     logs of containers

A flag is given as --name=value or --name value; switches as --name or --name=false; _ is the same as -. What a flag
says wins over drop-in files, these over the file, the file over the defaults.
";

/// The text of `--help`.
pub fn help() -> String {
    let mut target = Target { flags: Flags::default(), config: flag_defaults() };
    let mut text = INTRODUCTION.to_owned();
    for group in OWN {
        section(&mut text, &mut target, group);
    }
    text.push_str(
        "\nThe flags below are deprecated: the file that --config names has a field for each. They show the defaults\n\
         that hold without a file; a file has safer ones for the read-only port, authentication and authorization.\n",
    );
    for group in fields::FIELDS {
        section(&mut text, &mut target, group);
    }
    section(&mut text, &mut target, &GOING);
    section(&mut text, &mut target, &CADVISOR_LEFTOVERS);
    text.push_str(
        "\nExit codes: 0 after SIGTERM, --help and --version; 1 when flags or configuration are refused or the\n\
         kubelet cannot go on.\n",
    );
    text
}

fn section(text: &mut String, target: &mut Target, &(title, flags): &Group) {
    let _ = write!(text, "\n{title}:\n");
    for spec in flags {
        flag(text, target, spec);
    }
}

fn flag(text: &mut String, target: &mut Target, spec: &FlagSpec) {
    let short = spec.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
    let kind = spec.bind.type_name();
    let gap = if kind.is_empty() || kind.starts_with('[') { "" } else { " " };
    let short = if spec.short == Some('v') { "-v, ".to_owned() } else { short };
    let _ = writeln!(text, "  {short}--{}{gap}{kind}", spec.name);
    let mut words = spec.help.to_owned();
    let default = spec.bind.value(target);
    if !matches!(default.as_str(), "" | "false" | "0" | "[]") {
        let _ = write!(words, " (default {default})");
    }
    wrapped(text, &words);
}

fn wrapped(text: &mut String, words: &str) {
    let mut column = 0;
    for word in words.split(' ') {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > WIDTH {
            text.push('\n');
            column = 0;
        }
        if column == 0 {
            let _ = write!(text, "{:INDENT$}", "");
            column = INDENT;
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::help;

    #[test]
    fn names_every_flag_once_within_its_width() {
        let text = help();
        for spec in super::super::table::all_flags() {
            let lines = text.lines().filter(|line| {
                line.strip_prefix("      --")
                    .or_else(|| {
                        line.get(6..)
                            .filter(|_| line.starts_with("  -"))
                            .and_then(|l| l.strip_prefix("--"))
                    })
                    .and_then(|line| line.split([' ', '[']).next())
                    == Some(spec.name)
            });
            assert_eq!(lines.count(), 1, "--{}", spec.name);
        }
        let longest = text.lines().max_by_key(|line| line.chars().count()).expect("lines");
        assert!(longest.chars().count() <= 120, "{longest}");
    }
}
