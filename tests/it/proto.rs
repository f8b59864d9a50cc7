//! Generated protobuf code must be what `proto/` says: generates it again in memory and compares.
//! `UPDATE=1` rewrites.

use std::path::{Path, PathBuf};

/// Generates `source` into a temporary directory and compares each file with `proto/gen`.
fn check(source: &str, include: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a temporary directory");
    let descriptors = protox::compile([root.join(source)], [root.join(include)])
        .expect("the proto file compiles");
    tonic_prost_build::configure()
        .build_server(true)
        .build_client(true)
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code generation");
    let mut files: Vec<PathBuf> = std::fs::read_dir(out.path())
        .expect("readable")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{source} generated nothing");
    for file in files {
        let generated = std::fs::read_to_string(&file).expect("readable");
        let committed_path = root.join("proto/gen").join(file.file_name().expect("a file name"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&committed_path, &generated).expect("writable");
        }
        let committed = std::fs::read_to_string(&committed_path).unwrap_or_default();
        assert!(
            committed == generated,
            "{} is stale: run `UPDATE=1 cargo test --test it proto` and commit it",
            committed_path.display()
        );
    }
}

#[test]
fn cri_code_is_current() {
    check("proto/cri/api.proto", "proto/cri");
}

#[test]
fn device_plugin_code_is_current() {
    check("proto/deviceplugin/api.proto", "proto/deviceplugin");
}

#[test]
fn csi_code_is_current() {
    check("proto/csi/api.proto", "proto/csi");
}

#[test]
fn plugin_registration_code_is_current() {
    check("proto/pluginregistration/api.proto", "proto/pluginregistration");
}
