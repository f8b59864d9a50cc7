//! PEM blocks as Go writes them. Pure.

use pem::{EncodeConfig, LineEnding, Pem};

/// Writes one block: `-----BEGIN CERTIFICATE-----` and so on.
pub(super) fn encode(tag: &str, der: Vec<u8>) -> String {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&Pem::new(tag, der), config)
}
