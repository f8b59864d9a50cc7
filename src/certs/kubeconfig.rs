//! The kubeconfig that a bootstrap writes: the cluster of the bootstrap kubeconfig, and the link to
//! the newest certificate. Byte for byte as upstream writes it. Pure.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::apiserver::kubeconfig::Access;

/// Returns the text of a kubeconfig whose user shows the certificate at `pem`.
pub(super) fn text(cluster: &Access, pem: &Path) -> String {
    let pem = scalar(&pem.display().to_string());
    let mut text = "apiVersion: v1\nclusters:\n- cluster:\n".to_owned();
    // Writing to a text cannot fail.
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "    {name}: {value}");
    };
    if let Some(data) = &cluster.roots_data {
        line("certificate-authority-data", &STANDARD.encode(data));
    } else if let Some(file) = &cluster.roots_file {
        line("certificate-authority", &scalar(&file.display().to_string()));
    }
    if cluster.insecure {
        line("insecure-skip-tls-verify", "true");
    }
    line("server", &scalar(&cluster.server_text));

    let _ = write!(
        text,
        "  name: default-cluster
contexts:
- context:
    cluster: default-cluster
    namespace: default
    user: default-auth
  name: default-context
current-context: default-context
kind: Config
users:
- name: default-auth
  user:
    client-certificate: {pem}
    client-key: {pem}
"
    );
    text
}

/// Writes a value as YAML: plain where that is safe, else as a JSON string.
fn scalar(value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._:-[]%@+=~".contains(&byte);
    let starts_plain = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    if starts_plain && value.bytes().all(is_plain) && !value.ends_with(':') {
        return value.to_owned();
    }
    serde_json::Value::from(value).to_string()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests prepare files")]
mod tests {
    use std::path::Path;

    use super::{scalar, text};
    use crate::apiserver::{crypto, kubeconfig};

    /// What upstream's kubelet of 1.36.3 wrote for the bootstrap kubeconfig of the test.
    const UPSTREAM: &str = "apiVersion: v1
clusters:
- cluster:
    certificate-authority: DIR/ca.crt
    server: https://10.200.0.1:6443
  name: default-cluster
contexts:
- context:
    cluster: default-cluster
    namespace: default
    user: default-auth
  name: default-context
current-context: default-context
kind: Config
users:
- name: default-auth
  user:
    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem
    client-key: /var/lib/kubelet/pki/kubelet-client-current.pem
";
    const PEM: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

    /// The text that is written for a bootstrap kubeconfig with these lines of the cluster.
    fn written(cluster: &str) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("ca.crt"), crypto::testing::CA).expect("written");
        let path = directory.path().join("bootstrap");
        let content = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: b\nclusters:\n- name: c\n  cluster: \
             {cluster}\ncontexts:\n- name: b\n  context: {{cluster: c, user: u}}\nusers:\n- name: \
             u\n  user: {{token: abcdef.0123456789abcdef}}\n"
        );
        std::fs::write(&path, content).expect("written");
        let access = kubeconfig::load_cluster(&path).expect("a kubeconfig");
        let text = text(&access, Path::new(PEM));
        text.replace(&directory.path().display().to_string(), "DIR")
    }

    #[test]
    fn the_text_is_upstreams() {
        let with_file =
            written("{server: 'https://10.200.0.1:6443', certificate-authority: ca.crt}");
        assert_eq!(with_file, UPSTREAM);

        let insecure =
            written("{server: 'https://10.200.0.1:6443', insecure-skip-tls-verify: true}");
        let expected =
            UPSTREAM.replace("certificate-authority: DIR/ca.crt", "insecure-skip-tls-verify: true");
        assert_eq!(insecure, expected);
    }

    #[test]
    fn a_value_that_is_not_plain_is_quoted() {
        assert_eq!(scalar("https://[fd00::1]:6443/a"), "https://[fd00::1]:6443/a");
        for value in ["", "a b", "1", "a:", "a #b", "ü"] {
            assert_eq!(scalar(value), format!("\"{value}\""));
        }
    }
}
