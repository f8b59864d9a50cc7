//! The proxies that the environment names, by the rules of Go's httpproxy.
//!
//! `HTTPS_PROXY` (or `https_proxy`) is for servers that speak https, `HTTP_PROXY` for the others.
//! `NO_PROXY` names the servers that are reached without: `*`, addresses, networks, and domains
//! with everything below them, each perhaps with a port. This machine itself is never reached
//! through a proxy.

use std::fmt;
use std::net::IpAddr;

use http::Uri;

/// The proxies of the environment. Their addresses may hold passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// `HTTP_PROXY`: the proxy for http.
    pub http: String,
    /// `HTTPS_PROXY`: the proxy for https.
    pub https: String,
    /// `NO_PROXY`: the servers that are reached directly.
    pub none: String,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &!self.http.is_empty())
            .field("https", &!self.https.is_empty())
            .field("none", &self.none)
            .finish()
    }
}

impl Proxies {
    /// Reads the environment of the process.
    #[expect(clippy::disallowed_methods, reason = "this is `config`, which reads the environment")]
    pub(super) fn from_environment() -> Self {
        let any = |upper: &str, lower: &str| {
            let said = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            said(upper).or_else(|| said(lower)).unwrap_or_default()
        };
        Self {
            http: any("HTTP_PROXY", "http_proxy"),
            https: any("HTTPS_PROXY", "https_proxy"),
            none: any("NO_PROXY", "no_proxy"),
        }
    }

    /// The proxy for a server, if there is one.
    pub fn choose(&self, server: &Uri) -> Option<Uri> {
        let https = server.scheme_str() == Some("https");
        let proxy = parse(if https { &self.https } else { &self.http })?;
        let host = server.host()?.trim_start_matches('[').trim_end_matches(']').to_lowercase();
        let port = server.port_u16().unwrap_or(if https { 443 } else { 80 });
        let ip: Option<IpAddr> = host.parse().ok();
        let itself = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
        let excluded = || {
            self.none.split(',').any(|rule| matches(&rule.trim().to_lowercase(), &host, port, ip))
        };
        (!itself && !excluded()).then_some(proxy)
    }
}

/// The address of a proxy; without a scheme it is http. What is no address is no proxy, as for Go.
fn parse(text: &str) -> Option<Uri> {
    let whole = |text: &str| {
        text.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some() && uri.host().is_some())
    };
    if text.is_empty() {
        return None;
    }
    whole(text).or_else(|| whole(&format!("http://{text}")))
}

/// Returns true if one rule of `NO_PROXY` is about a server.
fn matches(rule: &str, host: &str, port: u16, ip: Option<IpAddr>) -> bool {
    if rule == "*" {
        return true;
    }
    if let Some((network, bits)) = rule.split_once('/')
        && let (Ok(network), Ok(bits)) = (network.parse(), bits.parse())
    {
        return ip.is_some_and(|ip| contains(network, bits, ip));
    }

    let (name, wanted) = split_port(rule);
    if wanted.is_some_and(|wanted| wanted != port.to_string()) || name.is_empty() {
        return false;
    }
    if let Ok(address) = name.parse::<IpAddr>() {
        return ip == Some(address);
    }
    if ip.is_some() {
        return false;
    }
    let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
    match name.strip_prefix('.') {
        Some(_) => host.ends_with(name),
        None => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
    }
}

/// `host:port` or `[address]:port`, if the rule has a port.
fn split_port(rule: &str) -> (&str, Option<&str>) {
    if let Some((address, port)) = rule.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        return (address, Some(port));
    }
    match rule.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, Some(port)),
        Some(_) | None => (rule, None),
    }
}

fn contains(network: IpAddr, bits: u32, ip: IpAddr) -> bool {
    let shift = |width: u32| width.checked_sub(bits);
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => shift(32).is_some_and(|shift| {
            (network.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }),
        (IpAddr::V6(network), IpAddr::V6(ip)) => shift(128).is_some_and(|shift| {
            (network.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(none: &str, server: &str) -> Option<String> {
        let proxies = Proxies {
            http: "plain:3128".into(),
            https: "http://u:p@proxy:3128".into(),
            none: none.into(),
        };
        let proxy = proxies.choose(&server.parse().expect("a URI"))?;
        Some(proxy.authority()?.to_string())
    }

    #[test]
    fn servers_are_reached_as_go_reaches_them() {
        let proxy = Some("u:p@proxy:3128".to_owned());
        for (none, server, through) in [
            ("", "https://api:6443", true),
            ("", "https://localhost:6443", false),
            ("", "https://127.0.0.1:6443", false),
            ("", "https://[::1]:6443", false),
            ("*", "https://api", false),
            ("api", "https://api:6443", false),
            ("api:6443", "https://api:6443", false),
            ("api:443", "https://api:6443", true),
            ("api:443", "https://api", false),
            ("example.com", "https://api.example.com", false),
            ("example.com", "https://myexample.com", true),
            (".example.com", "https://example.com", true),
            ("*.example.com", "https://API.example.com", false),
            ("10.0.0.0/8, other", "https://10.1.2.3", false),
            ("10.0.0.0/8", "https://11.1.2.3", true),
            ("0.0.0.0/0", "https://11.1.2.3", false),
            ("10.1.2.3:6443", "https://10.1.2.3:6443", false),
            ("[2001:db8::1]:6443", "https://[2001:db8::1]:6443", false),
            ("2001:db8::/32", "https://[2001:db8::1]:6443", false),
            (",", "https://api", true),
        ] {
            let expected = proxy.clone().filter(|_| through);
            assert_eq!(chosen(none, server), expected, "{none} {server}");
        }
        assert_eq!(chosen("", "http://api").as_deref(), Some("plain:3128"));
    }
}
