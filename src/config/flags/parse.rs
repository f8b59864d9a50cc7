//! argv → values, by pflag's rules.

use std::collections::BTreeSet;

use super::table::{find, find_short};
use super::{FlagSpec, Flags, Target};
use crate::config::types::KubeletConfiguration;

/// The error of a command line. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// No such flag.
    #[error("failed to parse kubelet flag: unknown flag: --{0}")]
    Unknown(String),
    /// No such one-letter flag.
    #[error("failed to parse kubelet flag: unknown shorthand flag: '{letter}' in -{group}")]
    UnknownShort {
        /// The letter.
        letter: char,
        /// The group of letters, e.g. `xv`.
        group: String,
    },
    /// Its value is missing.
    #[error("failed to parse kubelet flag: flag needs an argument: {0}")]
    NeedsArgument(String),
    /// Dashes without a name.
    #[error("failed to parse kubelet flag: bad flag syntax: {0}")]
    Syntax(String),
    /// Its value cannot be read.
    #[error(
        "failed to parse kubelet flag: invalid argument {value:?} for \"{flag}\" flag: {problem}"
    )]
    Invalid {
        /// The value.
        value: String,
        /// The flag.
        flag: String,
        /// The problem with the value.
        problem: String,
    },
    /// Something that is no flag.
    #[error("unknown command {0}")]
    Positional(String),
}

/// A command line read over a configuration.
#[derive(Clone, Debug)]
pub(in crate::config) struct Parsed {
    /// The flags that are no fields.
    pub flags: Flags,
    /// The configuration with what flags say about it.
    pub config: KubeletConfiguration,
    /// Notices about deprecated flags, once per flag, in order.
    pub deprecated: Vec<String>,
}

/// Reads `args` (without the program's name) over `config`.
pub(in crate::config) fn parse(
    args: &[String],
    config: KubeletConfiguration,
) -> Result<Parsed, FlagError> {
    let gates_of_the_file = config.feature_gates.clone();
    let mut parser = Parser {
        target: Target { flags: Flags::default(), config },
        given: BTreeSet::new(),
        deprecated: Vec::new(),
    };
    parser.run(args)?;
    let Parser { target: Target { mut flags, mut config }, given, deprecated } = parser;
    // Gates add up over files and flags; everything else that a flag gives replaces what the file
    // says.
    for (name, value) in gates_of_the_file {
        config.feature_gates.entry(name).or_insert(value);
    }
    flags.given = given;
    Ok(Parsed { flags, config, deprecated })
}

/// The notices about the deprecated flags that stand before the first mistake in `args`.
pub(in crate::config) fn deprecated(args: &[String], config: KubeletConfiguration) -> Vec<String> {
    let mut parser = Parser {
        target: Target { flags: Flags::default(), config },
        given: BTreeSet::new(),
        deprecated: Vec::new(),
    };
    // The caller has the mistake already.
    parser.run(args).ok();
    parser.deprecated
}

struct Parser {
    target: Target,
    given: BTreeSet<&'static str>,
    deprecated: Vec<String>,
}

impl Parser {
    fn run(&mut self, args: &[String]) -> Result<(), FlagError> {
        let mut positional = None;
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            if arg == "--" {
                positional = positional.or_else(|| rest.next());
                break;
            }
            if let Some(long) = arg.strip_prefix("--") {
                self.long(arg, long, &mut rest)?;
            } else if arg.len() > 1 && arg.starts_with('-') {
                self.short(&arg[1..], &mut rest)?;
            } else {
                positional = positional.or(Some(arg));
            }
        }
        positional.map_or(Ok(()), |arg| Err(FlagError::Positional(arg.clone())))
    }

    fn long<'a>(
        &mut self,
        arg: &str,
        body: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), FlagError> {
        if body.starts_with(['-', '=']) {
            return Err(FlagError::Syntax(arg.to_owned()));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let spec =
            find(&name.replace('_', "-")).ok_or_else(|| FlagError::Unknown(name.to_owned()))?;
        let value = match (value, spec.bind.value_if_bare()) {
            (Some(value), _) | (None, Some(value)) => value,
            (None, None) => {
                rest.next().ok_or_else(|| FlagError::NeedsArgument(format!("--{name}")))?
            }
        };
        self.set(spec, value)
    }

    /// A group of one-letter flags: `-v4`, `-v=4`, `-v 4`, `-h`.
    fn short<'a>(
        &mut self,
        group: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), FlagError> {
        let mut remaining = group;
        while let Some(letter) = remaining.chars().next() {
            let spec = find_short(letter)
                .ok_or_else(|| FlagError::UnknownShort { letter, group: remaining.to_owned() })?;
            let tail = &remaining[letter.len_utf8()..];
            if let Some(value) = tail.strip_prefix('=') {
                return self.set(spec, value);
            }
            if let Some(value) = spec.bind.value_if_bare() {
                self.set(spec, value)?;
                remaining = tail;
                continue;
            }
            if !tail.is_empty() {
                return self.set(spec, tail);
            }
            let value = rest
                .next()
                .ok_or_else(|| FlagError::NeedsArgument(format!("'{letter}' in -{group}")))?;
            return self.set(spec, value);
        }
        Ok(())
    }

    fn set(&mut self, spec: &'static FlagSpec, value: &str) -> Result<(), FlagError> {
        let first = self.given.insert(spec.name);
        spec.bind.set(&mut self.target, value, first).map_err(|problem| FlagError::Invalid {
            value: value.to_owned(),
            flag: spec.short.map_or_else(
                || format!("--{}", spec.name),
                |short| format!("-{short}, --{}", spec.name),
            ),
            problem,
        })?;
        if let (true, Some(notice)) = (first, spec.deprecated) {
            self.deprecated.push(format!("Flag --{} has been deprecated, {notice}", spec.name));
        }
        Ok(())
    }
}

impl std::fmt::Debug for FlagSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlagSpec").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::all_flags;
    use super::*;
    use crate::config::defaults::flag_defaults;

    fn run(args: &[&str]) -> Result<Parsed, FlagError> {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        parse(&args, flag_defaults())
    }

    #[track_caller]
    fn ok(args: &[&str]) -> Parsed {
        run(args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    }

    #[track_caller]
    fn refused(args: &[&str], text: &str) {
        assert_eq!(run(args).expect_err("refused").to_string(), text, "{args:?}");
    }

    #[test]
    fn there_are_as_many_as_upstream_has() {
        assert_eq!(all_flags().count(), 149);
    }

    #[test]
    fn reads_every_spelling() {
        assert_eq!(ok(&["--max-pods", "5"]).config.max_pods, 5);
        assert_eq!(ok(&["--max_pods=0x10"]).config.max_pods, 16);
        assert_eq!(ok(&["--max-pods=5", "--max-pods=6"]).config.max_pods, 6);
        assert!(!ok(&["--enable-server=false"]).config.enable_server);
        assert!(ok(&["--runonce"]).config.run_once);
        assert_eq!(ok(&["-v4"]).config.logging.verbosity, 4);
        assert_eq!(ok(&["-v=4"]).config.logging.verbosity, 4);
        assert_eq!(ok(&["-v", "4"]).config.logging.verbosity, 4);
        assert_eq!(ok(&["--v=4"]).config.logging.verbosity, 4);
        assert!(ok(&["-h"]).flags.help);
        assert_eq!(ok(&["--version"]).flags.version, super::super::Version::Plain);
        assert_eq!(ok(&["--version=raw"]).flags.version, super::super::Version::Raw);
    }

    #[test]
    fn maps_and_lists_replace_the_default_and_then_add_up() {
        let parsed = ok(&[
            "--eviction-hard=memory.available<1Gi,nodefs.available<5%",
            "--eviction-hard=pid.available<10%",
            "--cluster-dns=10.0.0.1,10.0.0.2",
            "--cluster-dns=10.0.0.3",
            "--enforce-node-allocatable=",
            "--node-labels=a=b,c",
            "--manifest-url-header=a:x,b:y,a:z",
            "--vmodule=plan*=4,worker=2",
        ]);
        assert_eq!(parsed.config.eviction_hard.len(), 3);
        assert_eq!(parsed.config.cluster_dns, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(parsed.config.enforce_node_allocatable, [""; 0]);
        assert_eq!(parsed.flags.node_labels["c"], "");
        assert_eq!(parsed.config.static_pod_url_header.0["a"], ["x", "z"]);
        assert_eq!(parsed.config.logging.vmodule[0].file_pattern, "plan*");
    }

    #[test]
    fn structured_values() {
        let parsed = ok(&[
            "--register-with-taints=a=b:NoSchedule,c:NoExecute",
            "--reserved-memory=0:memory=1Gi,hugepages-1Gi=2Gi;1:memory=2Gi",
            "--cpu-manager-policy-options=full-pcpus-only=true",
            "--kube-reserved=cpu=200m,memory=500Mi",
        ]);
        assert_eq!(parsed.config.register_with_taints[0].key, "a");
        assert_eq!(parsed.config.register_with_taints[1].effect, "NoExecute");
        assert_eq!(parsed.config.reserved_memory[1].limits["memory"].0, "2Gi");
        assert_eq!(parsed.config.cpu_manager_policy_options["full-pcpus-only"], "true");
        assert_eq!(parsed.config.kube_reserved["cpu"], "200m");
    }

    #[test]
    fn refuses_with_upstreams_texts() {
        const HEAD: &str = "failed to parse kubelet flag: ";
        refused(&["--bogus"], &format!("{HEAD}unknown flag: --bogus"));
        refused(&["pos"], "unknown command pos");
        refused(&["--", "pos"], "unknown command pos");
        refused(&["-x"], &format!("{HEAD}unknown shorthand flag: 'x' in -x"));
        refused(&["--port"], &format!("{HEAD}flag needs an argument: --port"));
        refused(&["-v"], &format!("{HEAD}flag needs an argument: 'v' in -v"));
        refused(&["--=x"], &format!("{HEAD}bad flag syntax: --=x"));
        refused(
            &["--port=abc"],
            &format!(
                "{HEAD}invalid argument \"abc\" for \"--port\" flag: strconv.ParseInt: parsing \"abc\": invalid syntax"
            ),
        );
        refused(
            &["--enable-server=maybe"],
            &format!(
                "{HEAD}invalid argument \"maybe\" for \"--enable-server\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax"
            ),
        );
        refused(
            &["--sync-frequency=5"],
            &format!(
                "{HEAD}invalid argument \"5\" for \"--sync-frequency\" flag: time: missing unit in duration \"5\""
            ),
        );
        refused(
            &["--address=nowhere"],
            &format!(
                "{HEAD}invalid argument \"nowhere\" for \"--address\" flag: \"nowhere\" is not a valid IP address"
            ),
        );
    }

    #[test]
    fn notices_deprecated_flags_once() {
        let parsed = ok(&["--port=1", "--port=2", "--containerd=x", "--node-ip=::1"]);
        assert_eq!(parsed.deprecated.len(), 2);
        assert!(
            parsed.deprecated[0]
                .starts_with("Flag --port has been deprecated, This parameter should be set via")
        );
        assert!(parsed.flags.was_given("node-ip") && !parsed.flags.was_given("config"));
    }

    #[test]
    fn gates_add_up_over_file_and_flags() {
        let mut file = flag_defaults();
        file.feature_gates.insert("A".to_owned(), true);
        file.feature_gates.insert("B".to_owned(), true);
        let parsed = parse(&["--feature-gates=B=false,C=true".to_owned()], file).expect("flags");
        let gates: Vec<(&str, bool)> =
            parsed.config.feature_gates.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(gates, [("A", true), ("B", false), ("C", true)]);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(args in proptest::collection::vec("(--?)?[a-z_-]{0,12}=?.{0,12}", 0..5)) {
            drop(parse(&args, flag_defaults()));
        }

        #[test]
        fn no_value_panics(index in 0_usize..149, value in ".{0,30}") {
            let name = all_flags().nth(index).expect("a flag").name;
            drop(parse(&[format!("--{name}={value}")], flag_defaults()));
        }
    }
}
