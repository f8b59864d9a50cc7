//! Keeps the iptables chains that other components expect of a kubelet (`makeIPTablesUtilChains`):
//! upstream's, byte for byte.
//!
//! - `KUBE-IPTABLES-HINT` (mangle) shows which of iptables' back ends the node uses.
//! - `KUBE-FIREWALL` (filter, IPv4) drops packets to loopback addresses that come from elsewhere:
//!   kube-proxy's `route_localnet` would let them in (CVE-2020-8558).
//! - `KUBE-KUBELET-CANARY` is missing once the tables have been flushed. It is checked every
//!   minute, and then the chains are created anew.
//!
//! A node without iptables is no failure: nothing there needs these chains. Nothing is removed when
//! the kubelet ends.

use std::time::Duration;

use tracing::{error, info};

use crate::linux::iptables::{Iptables, IptablesError, Position, Programs, Protocol};

const HINT: &str = "KUBE-IPTABLES-HINT";
const FIREWALL: &str = "KUBE-FIREWALL";
const CANARY: &str = "KUBE-KUBELET-CANARY";

/// The tables with a canary; the first one is checked.
const CANARY_TABLES: [&str; 3] = ["mangle", "nat", "filter"];

/// The time between two checks of the canary.
const INTERVAL: Duration = Duration::from_secs(60);

/// The time that a flush of all tables may take after the first one was flushed.
const FLUSH: Duration = Duration::from_secs(5);
const FLUSH_POLL: Duration = Duration::from_millis(100);

/// The rule of [`FIREWALL`]. kube-proxy creates the same rule, word for word.
const BLOCK_MARTIANS: [&str; 16] = [
    "-m",
    "comment",
    "--comment",
    "block incoming localnet connections",
    "--dst",
    "127.0.0.0/8",
    "!",
    "--src",
    "127.0.0.0/8",
    "-m",
    "conntrack",
    "!",
    "--ctstate",
    "RELATED,ESTABLISHED,DNAT",
    "-j",
    "DROP",
];

/// Creates the chains and keeps them. It ends only if there is nothing to keep: no family has
/// iptables, or the chains cannot be created.
pub async fn keep<P: Programs + Clone>(programs: P) {
    let ipv4 = Iptables::detect(Protocol::Ipv4, programs.clone()).await;
    let ipv6 = Iptables::detect(Protocol::Ipv6, programs).await;
    if ipv4.is_none() && ipv6.is_none() {
        info!("No iptables support on this system; not creating the KUBE-IPTABLES-HINT chain");
    }
    tokio::join!(family(ipv4), family(ipv6));
}

/// Creates the chains of one family and keeps them; ends at once if they cannot be created.
async fn family<P: Programs>(iptables: Option<Iptables<P>>) {
    let Some(iptables) = iptables else { return };
    let protocol = iptables.protocol().as_str();
    if sync(&iptables).await {
        info!(protocol, "Initialized iptables rules.");
        monitor(&iptables).await;
    } else {
        info!(protocol, "Failed to initialize iptables rules; some functionality may be missing.");
    }
}

/// Creates the chains and rules that are missing. Returns true if all of them exist.
async fn sync<P: Programs>(iptables: &Iptables<P>) -> bool {
    let said = |made: Result<(), IptablesError>, failure: &str| match made {
        Ok(()) => true,
        Err(error) => {
            error!(error = &error as &dyn std::error::Error, "{failure}");
            false
        }
    };

    let hint = iptables.ensure_chain("mangle", HINT).await;
    if !said(hint, "Failed to ensure that iptables hint chain exists") {
        return false;
    }

    match iptables.protocol() {
        Protocol::Ipv4 => {}
        // IPv6 has a single loopback address: nothing can be sent to it from elsewhere.
        Protocol::Ipv6 => return true,
    }

    let chain = iptables.ensure_chain("filter", FIREWALL).await;
    if !said(chain, "Failed to ensure that filter table KUBE-FIREWALL chain exists") {
        return false;
    }

    let jump = ["-j", FIREWALL];
    let output = iptables.ensure_rule(Position::Prepend, "filter", "OUTPUT", &jump).await;
    if !said(output, "Failed to ensure that OUTPUT chain jumps to KUBE-FIREWALL") {
        return false;
    }

    let input = iptables.ensure_rule(Position::Prepend, "filter", "INPUT", &jump).await;
    if !said(input, "Failed to ensure that INPUT chain jumps to KUBE-FIREWALL") {
        return false;
    }

    let rule = iptables.ensure_rule(Position::Append, "filter", FIREWALL, &BLOCK_MARTIANS).await;
    said(
        rule,
        "Failed to ensure rule to drop invalid localhost packets in filter table \
         KUBE-FIREWALL chain",
    )
}

/// Creates the chains anew whenever the tables have been flushed. Never ends.
async fn monitor<P: Programs>(iptables: &Iptables<P>) {
    loop {
        while !set_canaries(iptables).await {
            tokio::time::sleep(INTERVAL).await;
        }
        until_flushed(iptables).await;
        info!("Reloading after iptables flush");
        sync(iptables).await;
    }
}

/// Creates the canaries. Returns false if one cannot be created.
async fn set_canaries<P: Programs>(iptables: &Iptables<P>) -> bool {
    for table in CANARY_TABLES {
        if let Err(error) = iptables.ensure_chain(table, CANARY).await {
            let error = &error as &dyn std::error::Error;
            error!(table, chain = CANARY, error, "Could not set up iptables canary");
            return false;
        }
    }
    true
}

/// Waits until all tables have been flushed. Chains that are created before the last flush would go
/// with it.
async fn until_flushed<P: Programs>(iptables: &Iptables<P>) {
    let [first, others @ ..] = CANARY_TABLES;
    loop {
        tokio::time::sleep(INTERVAL).await;
        match iptables.require_chain(first, CANARY).await {
            Ok(()) => {}
            Err(error) if error.is_resource_problem() => {
                let error = &error as &dyn std::error::Error;
                error!(table = first, chain = CANARY, error, "Could not check for iptables canary");
            }
            Err(_) => break,
        }
    }

    let all = async {
        'again: loop {
            for table in others {
                match iptables.require_chain(table, CANARY).await {
                    Err(error) if !error.is_resource_problem() => {}
                    Ok(()) | Err(_) => {
                        tokio::time::sleep(FLUSH_POLL).await;
                        continue 'again;
                    }
                }
            }
            return;
        }
    };

    if tokio::time::timeout(FLUSH, all).await.is_err() {
        info!("Inconsistent iptables state detected");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;
    use std::sync::Arc;

    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use parking_lot::Mutex;
    use tokio::task::JoinSet;

    use super::*;
    use crate::linux::iptables::Finished;

    /// Chains by family, table and name, each with its rules.
    type Chains = BTreeMap<(&'static str, String, String), Vec<String>>;

    /// A machine with iptables, without ip6tables.
    #[derive(Clone, Debug)]
    struct Machine(Arc<Mutex<Chains>>);

    impl Machine {
        fn new() -> Self {
            let built_in = [("nat", "POSTROUTING"), ("filter", "INPUT"), ("filter", "OUTPUT")];
            let chains = built_in.map(|(table, chain)| {
                (("iptables", table.to_owned(), chain.to_owned()), Vec::new())
            });
            Self(Arc::new(Mutex::new(chains.into())))
        }

        /// The present chains and rules: `table chain: rule; rule`.
        fn list(&self) -> Vec<String> {
            let chains = self.0.lock();
            let chains = chains.iter().filter(|((_, _, chain), _)| chain != "POSTROUTING");
            chains
                .map(|((_, table, chain), rules)| format!("{table} {chain}: {}", rules.join("; ")))
                .collect()
        }

        fn flush(&self) {
            let mut chains = self.0.lock();
            chains.retain(|(_, _, chain), _| !chain.starts_with("KUBE-"));
            chains.values_mut().for_each(Vec::clear);
        }
    }

    impl Programs for Machine {
        fn run(
            &self,
            program: &'static str,
            arguments: Vec<String>,
        ) -> BoxFuture<'static, io::Result<Finished>> {
            let finished = |code| Finished { code: Some(code), output: String::new() };
            if program != "iptables" {
                return async { Err(io::ErrorKind::NotFound.into()) }.boxed();
            }
            if arguments == ["--version"] {
                let output = "iptables v1.8.9 (nf_tables)".to_owned();
                return async { Ok(Finished { code: Some(0), output }) }.boxed();
            }
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let ["-w", "5", operation, chain, "-t", table, rule @ ..] = words.as_slice() else {
                return async move { Ok(finished(2)) }.boxed();
            };
            let mut chains = self.0.lock();
            let key = (program, (*table).to_owned(), (*chain).to_owned());
            let rule = rule.join(" ");
            let code = match (*operation, chains.get_mut(&key)) {
                ("-N", Some(_)) | ("-S" | "-C" | "-I" | "-A", None) => 1,
                ("-N", None) => {
                    chains.insert(key, Vec::new());
                    0
                }
                ("-S", Some(_)) => 0,
                ("-C", Some(rules)) => i32::from(!rules.contains(&rule)),
                ("-I", Some(rules)) => {
                    rules.insert(0, rule);
                    0
                }
                ("-A", Some(rules)) => {
                    rules.push(rule);
                    0
                }
                _ => 2,
            };
            async move { Ok(finished(code)) }.boxed()
        }
    }

    const EXPECTED: [&str; 7] = [
        "filter INPUT: -j KUBE-FIREWALL",
        "filter KUBE-FIREWALL: -m comment --comment block incoming localnet connections \
         --dst 127.0.0.0/8 ! --src 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT \
         -j DROP",
        "filter KUBE-KUBELET-CANARY: ",
        "filter OUTPUT: -j KUBE-FIREWALL",
        "mangle KUBE-IPTABLES-HINT: ",
        "mangle KUBE-KUBELET-CANARY: ",
        "nat KUBE-KUBELET-CANARY: ",
    ];

    #[tokio::test(start_paused = true)]
    async fn makes_the_chains_once_and_again_after_a_flush() {
        let machine = Machine::new();
        let mut kept = JoinSet::new();
        kept.spawn(keep(machine.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(machine.list(), EXPECTED);

        tokio::time::sleep(INTERVAL * 5).await;
        assert_eq!(machine.list(), EXPECTED, "nothing is made twice");

        machine.flush();
        tokio::time::sleep(INTERVAL + FLUSH).await;
        assert_eq!(machine.list(), EXPECTED, "made anew");

        assert!(kept.try_join_next().is_none(), "it never ends by itself");
        kept.shutdown().await;
        assert_eq!(machine.list(), EXPECTED, "they stay");
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_without_iptables_is_left_alone() {
        let machine = Machine(Arc::default());
        keep(machine.clone()).await;
        assert!(machine.list().is_empty());
    }
}
