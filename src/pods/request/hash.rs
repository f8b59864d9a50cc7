//! `io.kubernetes.container.hash`: which definition a running container was made from.
//!
//! Bit for bit upstream's, so that a node can change between upstream's kubelet and this one
//! without restarting containers: FNV-1a (32 bits) over Go's dump of the bytes of
//! `{"image":…,"name":…}`.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1 as api;

const OFFSET: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;

/// The hash of what cannot change while a container runs: its name and its image.
pub fn container_hash(container: &api::Container) -> u64 {
    let mut json = String::from(r#"{"image":"#);
    push_go_json_string(&mut json, container.image.as_deref().unwrap_or_default());
    json.push_str(r#","name":"#);
    push_go_json_string(&mut json, &container.name);
    json.push('}');

    let mut hash = OFFSET;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(PRIME);
        }
    };
    feed(b"([]uint8)[");
    for (index, byte) in json.bytes().enumerate() {
        if index > 0 {
            feed(b" ");
        }
        feed(byte.to_string().as_bytes());
    }
    feed(b"]");
    u64::from(hash)
}

/// Go's `encoding/json` also escapes what HTML and JavaScript could stumble over.
fn push_go_json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes everything");
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::container_hash;
    use k8s_openapi::api::core::v1::Container;

    #[track_caller]
    fn check(name: &str, image: &str, expected: u64) {
        let container =
            Container { name: name.into(), image: Some(image.into()), ..Container::default() };
        assert_eq!(container_hash(&container), expected, "{name} {image}");
    }

    /// Made with Go: `fnv.New32a()` over `dump.ForHash(json)` of k8s.io/utils, as upstream's 1.36
    /// composes them.
    #[test]
    fn is_bit_for_bit_upstreams() {
        check("c", "busybox", 0xad81_9b5c);
        check("web", "registry.k8s.io/nginx:1.27@sha256:0123", 0x1395_6d38);
        check("", "", 0xedd6_7cc4);
        check("a<b>&", "x\u{2028}y\"q", 0xd92b_1fbc);
    }
}
