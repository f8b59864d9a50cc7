//! The laws for hostile input (`testkit::hostile`) on random input and on the seeds of the fuzz
//! targets: what a fuzzer has found once is tried here for ever. `HOSTILE=N` tries more.

use std::path::Path;

use proptest::prelude::*;
use rkubelet::internals::testkit::hostile::{self, LAWS};

/// Cases of a law that only computes, and of one that makes files.
const QUICK: u32 = 1024;
const WITH_FILES: u32 = 256;

fn cases(default: u32) -> ProptestConfig {
    let cases =
        std::env::var("HOSTILE").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn check(name: &str, input: &[u8]) {
    hostile::check(name, input, || tempfile::tempdir().expect("a directory"));
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

proptest! {
    #![proptest_config(cases(QUICK))]

    #[test]
    fn expansion(text in r"([$()A-C ]|\$\(|\$\$|é){0,24}", any in "(?s).{0,40}") {
        hostile::expansion::check(&text);
        hostile::expansion::check(&any);
    }

    #[test]
    fn env_file(
        lines in prop::collection::vec(r"[ \t]?[AK#]?[ \t]?(=|='|= ')?[v'# \r]{0,6}", 0..6),
        end in "[\r\n]{0,2}",
        any in "(?s).{0,60}",
    ) {
        hostile::env_file::check(&format!("{}{end}", lines.join("\n")));
        hostile::env_file::check(&any);
    }

    #[test]
    fn quantity(
        text in r"[+-]?[0-9]{0,45}(\.[0-9]{0,45})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,3})?",
        any in "[0-9.eEkKimMnu+ -]{0,10}",
    ) {
        hostile::quantity::check(&text);
        hostile::quantity::check(&any);
    }

    #[test]
    fn statistics(
        text in r#"((some|full|8:0|eth0:|0::/|[0-9]{1,20}|avg10=[0-9.eN]{1,6}|[a-z]{1,4}[:=]|["\\{}\n ])[ \n]?){0,24}"#,
        hex in r"[a-z-]{0,4}[0-9a-f]{63,65}(\.scope|\.mount)?",
        any in "(?s).{0,60}",
    ) {
        hostile::statistics::check(&text);
        hostile::statistics::check(&hex);
        hostile::statistics::check(&any);
    }

    #[test]
    fn image_reference(
        text in r"([a-z.]{1,8}(:[0-9]{1,5})?/)?[a-zA-Z0-9._/-]{1,12}(:[a-z0-9._-]{1,6})?(@sha(256|384|1):[0-9a-f]{32,96})?",
        any in r"[a-zA-Z0-9:/@._\[\]é-]{0,20}",
        hex in "[0-9a-f]{64}(:[a-z]{0,2})?(@sha256:[0-9a-f]{64})?",
    ) {
        hostile::image_reference::check(&text);
        hostile::image_reference::check(&any);
        hostile::image_reference::check(&hex);
    }
}

proptest! {
    #![proptest_config(cases(WITH_FILES))]

    #[test]
    fn atomic_writer(input in bytes(200)) {
        check("atomic_writer", &input);
    }

    #[test]
    fn subpath(input in bytes(200)) {
        check("subpath", &input);
    }

    #[test]
    fn config(input in bytes(60), text in "[a-zA-Z]{1,20}: (?s:.{0,60})") {
        check("config", &input);
        check("config", format!("\x01{text}").as_bytes());
    }
}

#[test]
fn every_field_of_the_configuration_holds() {
    hostile::config::check_every_field(tempfile::tempdir().expect("a directory").path());
}

#[test]
fn every_seed_holds() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, _) in LAWS {
        let of_law = std::fs::read_dir(seeds.join(name)).expect("each law has seeds");
        for seed in of_law.map(|entry| entry.expect("readable").path()) {
            check(name, &std::fs::read(&seed).expect("readable"));
        }
    }
}
