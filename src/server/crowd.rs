//! Bounds the connections of one listener, so that clients that were never let in cannot keep out
//! those that were.
//!
//! Rules:
//!
//! 1. A new connection is a stranger. It stops being one when a request on it is let in.
//! 2. At most [`STRANGERS`] strangers are open. One more closes the oldest stranger of the address
//!    that has most of them, so that one address cannot displace the connections of others.
//! 3. At most [`ADMITTED`] connections are exempt from rule 2; further ones stay strangers.
//!
//! It never accepts, reads or closes a socket: it cancels the token of the connection's task.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Connections without an admitted request that one listener keeps open.
pub(super) const STRANGERS: usize = 1024;

/// Connections that the bound of strangers does not apply to.
const ADMITTED: usize = 8192;

/// The connections of one listener. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The number of the last connection; later connections have higher numbers.
    last: u64,
    /// The number of strangers.
    count: usize,
    /// The strangers of each address, oldest first.
    strangers: BTreeMap<IpAddr, BTreeMap<u64, CancellationToken>>,
    /// The connections on which a request was let in.
    admitted: BTreeSet<u64>,
}

/// A connection's place in the crowd; given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    peer: IpAddr,
    number: u64,
    closed: CancellationToken,
}

impl Crowd {
    /// Registers a new connection from `peer`, and closes a stranger if there are too many.
    pub(super) fn enter(&self, peer: IpAddr) -> Arc<Place> {
        let mut shared = self.shared.lock();
        if shared.count >= STRANGERS {
            shared.close_one();
        }

        shared.last += 1;
        let number = shared.last;
        let closed = CancellationToken::new();
        shared.strangers.entry(peer).or_default().insert(number, closed.clone());
        shared.count += 1;

        Arc::new(Place { crowd: self.clone(), peer, number, closed })
    }
}

impl Shared {
    /// Closes the oldest stranger of the address that has most strangers; among equals, of the
    /// address whose oldest stranger came first.
    fn close_one(&mut self) {
        let oldest = |connections: &BTreeMap<u64, CancellationToken>| {
            connections.first_key_value().map_or(u64::MAX, |(number, _)| *number)
        };
        let busiest = self
            .strangers
            .iter()
            .max_by_key(|(_, found)| (found.len(), std::cmp::Reverse(oldest(found))))
            .map(|(peer, found)| (*peer, oldest(found)));

        if let Some((peer, number)) = busiest
            && let Some(closed) = self.remove(peer, number)
        {
            closed.cancel();
        }
    }

    /// Takes a connection out of the strangers; `None` if it is none.
    fn remove(&mut self, peer: IpAddr, number: u64) -> Option<CancellationToken> {
        let connections = self.strangers.get_mut(&peer)?;
        let removed = connections.remove(&number)?;
        if connections.is_empty() {
            self.strangers.remove(&peer);
        }
        self.count -= 1;
        Some(removed)
    }
}

impl Place {
    /// Records that a request of this connection was let in.
    pub(super) fn admit(&self) {
        let mut shared = self.crowd.shared.lock();
        if shared.admitted.len() < ADMITTED && shared.remove(self.peer, self.number).is_some() {
            shared.admitted.insert(self.number);
        }
    }

    /// Resolves when the connection must give way to another one.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shared = self.crowd.shared.lock();
        shared.remove(self.peer, self.number);
        shared.admitted.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_oldest_stranger_gives_way() {
        let crowd = Crowd::default();
        let places: Vec<_> = (0..STRANGERS).map(|_| crowd.enter(address(1))).collect();
        assert!(!places[0].closed.is_cancelled());
        let _more = [crowd.enter(address(1)), crowd.enter(address(1))];
        let closed: Vec<bool> = places.iter().map(|place| place.closed.is_cancelled()).collect();
        assert_eq!(closed.iter().filter(|closed| **closed).count(), 2);
        assert!(closed[0] && closed[1]);
    }

    #[test]
    fn an_address_with_many_connections_does_not_displace_others() {
        let crowd = Crowd::default();
        let quiet = crowd.enter(address(1));
        let _noisy: Vec<_> = (0..2 * STRANGERS).map(|_| crowd.enter(address(2))).collect();
        assert!(!quiet.closed.is_cancelled());
    }

    #[test]
    fn an_admitted_connection_stays() {
        let crowd = Crowd::default();
        let admitted = crowd.enter(address(1));
        admitted.admit();
        let _others: Vec<_> = (0..2 * STRANGERS).map(|_| crowd.enter(address(1))).collect();
        assert!(!admitted.closed.is_cancelled());
    }

    #[test]
    fn connections_that_end_leave_nothing_behind() {
        let crowd = Crowd::default();
        let places: Vec<_> = (0..2 * STRANGERS).map(|_| crowd.enter(address(1))).collect();
        places[2 * STRANGERS - 1].admit();
        drop(places);
        let shared = crowd.shared.lock();
        assert_eq!((shared.count, shared.strangers.len(), shared.admitted.len()), (0, 0, 0));
    }
}
