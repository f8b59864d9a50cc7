//! Reservations, eviction thresholds and TLS: what upstream finds out only when those parts start.

use std::collections::BTreeMap;

use super::Report;
use crate::config::types::{GoDuration, KubeletConfiguration};
use crate::model::quantity::Amount;

/// The signals that a threshold can be about.
const SIGNALS: [&str; 9] = [
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "containerfs.available",
    "containerfs.inodesFree",
    "allocatableMemory.available",
    "pid.available",
];

/// The cipher suites of Go that the TLS library has.
const SUITES: [&str; 11] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
];

/// Those that it lacks, on purpose: CBC, RC4, 3DES, and RSA key exchange.
const MISSING_SUITES: [&str; 15] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

pub(super) fn check(config: &KubeletConfiguration, report: &mut Report) {
    for reserved in [&config.kube_reserved, &config.system_reserved] {
        reservations(reserved, report);
    }
    thresholds(config, report);
    tls(config, report);
}

fn reservations(reserved: &BTreeMap<String, String>, report: &mut Report) {
    for (resource, quantity) in reserved {
        if !matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage" | "pid") {
            report.add(format!("cannot reserve {resource:?} resource"));
            continue;
        }
        match Amount::parse(quantity) {
            Err(error) => {
                report.add(format!(
                    "failed to parse quantity {quantity:?} for {resource:?} resource: {error}"
                ));
            }
            Ok(amount) if amount < Amount::ZERO => {
                report.add(format!(
                    "resource quantity for {resource:?} cannot be negative: {quantity}"
                ));
            }
            Ok(_) => {}
        }
    }
}

fn thresholds(config: &KubeletConfiguration, report: &mut Report) {
    for (signal, value) in config.eviction_hard.iter().chain(&config.eviction_soft) {
        threshold(signal, value, report);
    }

    for (signal, grace) in &config.eviction_soft_grace_period {
        if !known(signal, report) {
            continue;
        }
        match GoDuration::parse(grace) {
            Err(error) => report.add(error.to_string()),
            Ok(grace) if grace < GoDuration::ZERO => {
                report.add(format!(
                    "invalid eviction grace period specified: {grace}, must be a positive value"
                ));
            }
            Ok(_) => {}
        }
    }

    for (signal, value) in &config.eviction_minimum_reclaim {
        if !known(signal, report) {
            continue;
        }
        match percentage(value) {
            Some(Ok(share)) if share <= 0.0 => {
                report.add(format!(
                    "eviction percentage minimum reclaim {signal} must be positive: {value}"
                ));
            }
            Some(Ok(_)) => {}
            Some(Err(problem)) => report.add(problem),
            None => match Amount::parse(value) {
                Err(error) => report.add(format!("eviction minimum reclaim {signal}: {error}")),
                Ok(amount) if amount < Amount::ZERO => {
                    report.add(format!("negative eviction minimum reclaim specified for {signal}"));
                }
                Ok(_) => {}
            },
        }
    }

    for signal in config.eviction_soft.keys() {
        if !config.eviction_soft_grace_period.contains_key(signal) {
            report.add(format!(
                "grace period must be specified for the soft eviction threshold {signal}"
            ));
        }
    }
}

fn known(signal: &str, report: &mut Report) -> bool {
    let known = SIGNALS.contains(&signal);
    if !known {
        report.add(format!("unsupported eviction signal {signal}"));
    }
    known
}

fn threshold(signal: &str, value: &str, report: &mut Report) {
    if !known(signal, report) {
        return;
    }
    match percentage(value) {
        Some(Ok(share)) if share < 0.0 => {
            report.add(format!("eviction percentage threshold {signal} must be >= 0%: {value}"));
        }
        Some(Ok(share)) if share > 100.0 => {
            report.add(format!("eviction percentage threshold {signal} must be <= 100%: {value}"));
        }
        Some(Ok(_)) => {}
        Some(Err(problem)) => report.add(problem),
        None => match Amount::parse(value) {
            Err(error) => report.add(format!("eviction threshold {signal}: {error}")),
            Ok(amount) if amount <= Amount::ZERO => {
                report.add(format!("eviction threshold {signal} must be positive: {value}"));
            }
            Ok(_) => {}
        },
    }
}

/// The number before a percent sign; nothing when there is no such sign.
fn percentage(text: &str) -> Option<Result<f64, String>> {
    let number = text.strip_suffix('%')?;
    Some(
        number
            .parse()
            .map_err(|_| format!("strconv.ParseFloat: parsing {number:?}: invalid syntax")),
    )
}

fn tls(config: &KubeletConfiguration, report: &mut Report) {
    for suite in &config.tls_cipher_suites {
        if !SUITES.contains(&suite.as_str()) && !MISSING_SUITES.contains(&suite.as_str()) {
            report.add(format!("Cipher suite {suite} not supported or doesn't exist"));
        }
    }
    let version = config.tls_min_version.as_str();
    if !matches!(version, "" | "VersionTLS10" | "VersionTLS11" | "VersionTLS12" | "VersionTLS13") {
        report.add(format!("unknown tls version {version:?}"));
    }
    let chosen = !config.tls_cipher_suites.is_empty();
    if chosen && !config.tls_cipher_suites.iter().any(|suite| SUITES.contains(&suite.as_str())) {
        let is_known = |suite: &String| !MISSING_SUITES.contains(&suite.as_str());
        report.require(config.tls_cipher_suites.iter().any(is_known), || {
            "none of the suites of tlsCipherSuites (--tls-cipher-suites) is supported by the TLS library".into()
        });
    }
}

/// Returns the warnings about options of TLS that have no effect.
pub(super) fn doubtful_tls(config: &KubeletConfiguration) -> Vec<String> {
    let mut texts = Vec::new();
    for suite in
        config.tls_cipher_suites.iter().filter(|suite| MISSING_SUITES.contains(&suite.as_str()))
    {
        texts.push(format!(
            "the cipher suite {suite} is not offered: the TLS library has no such old suites"
        ));
    }
    let version = config.tls_min_version.as_str();
    if matches!(version, "VersionTLS10" | "VersionTLS11") {
        texts.push(format!(
            "tlsMinVersion {version} means VersionTLS12: the TLS library speaks nothing older"
        ));
    }
    if version == "VersionTLS13" && !config.tls_cipher_suites.is_empty() {
        texts.push(
            "TLS 1.3 cipher suites are not configurable: tlsCipherSuites is ignored".to_owned(),
        );
    }
    texts
}
