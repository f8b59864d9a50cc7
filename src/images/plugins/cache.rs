//! Keeps the credentials that a plug-in gave: by image, by registry, or for every image; for each
//! service account if the plug-in was given one.
//!
//! Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::images::credentials::{AccountName, Credential};
use crate::model::Mono;

/// The key of credentials for every image; no registry has such a name.
pub(super) const GLOBAL: &str = "<global>";
/// How often what has expired is dropped.
const PURGE: Duration = Duration::from_secs(15 * 60);

/// Whom credentials were given for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AccountKey {
    /// The service account.
    pub(super) account: AccountName,
    /// The annotations that the plug-in was given.
    pub(super) annotations: BTreeMap<String, String>,
    /// The hash of its token; empty where credentials outlive the token.
    pub(super) token_hash: String,
}

type Key = (String, Option<AccountKey>);

/// The credentials, each with the moment of its expiry.
#[derive(Debug)]
pub(super) struct Cache {
    entries: HashMap<Key, (BTreeMap<String, Credential>, Mono)>,
    purged: Mono,
}

impl Cache {
    pub(super) fn new(now: Mono) -> Self {
        Self { entries: HashMap::new(), purged: now }
    }

    /// What is known for an image: of the image itself, of its registry, of every image.
    pub(super) fn get(
        &mut self,
        image: &str,
        account: Option<&AccountKey>,
        now: Mono,
    ) -> Option<BTreeMap<String, Credential>> {
        if now.since(self.purged) > PURGE {
            self.entries.retain(|_, (_, until)| now <= *until);
            self.purged = now;
        }
        [image, registry(image), GLOBAL].into_iter().find_map(|base| {
            let key = (base.to_owned(), account.cloned());
            let (credentials, until) = self.entries.get(&key)?;
            (now <= *until).then(|| credentials.clone())
        })
    }

    pub(super) fn add(
        &mut self,
        base: &str,
        account: Option<&AccountKey>,
        credentials: BTreeMap<String, Credential>,
        until: Mono,
    ) {
        self.entries.insert((base.to_owned(), account.cloned()), (credentials, until));
    }
}

/// The registry of an image, with its port.
pub(super) fn registry(image: &str) -> &str {
    image.split('/').next().unwrap_or(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    fn user(name: &str) -> BTreeMap<String, Credential> {
        BTreeMap::from([("r.io".to_owned(), Credential::new(name, "p"))])
    }

    #[test]
    fn an_image_comes_before_its_registry_and_that_before_all() {
        let mut cache = Cache::new(at(0));
        cache.add(GLOBAL, None, user("all"), at(100));
        assert_eq!(cache.get("r.io:5000/a", None, at(1)), Some(user("all")));
        cache.add("r.io:5000", None, user("registry"), at(100));
        assert_eq!(cache.get("r.io:5000/a", None, at(1)), Some(user("registry")));
        cache.add("r.io:5000/a", None, user("image"), at(50));
        assert_eq!(cache.get("r.io:5000/a", None, at(50)), Some(user("image")));
        assert_eq!(cache.get("r.io:5000/a", None, at(51)), Some(user("registry")), "expired");
        assert_eq!(cache.get("other.io/a", None, at(101)), None);
    }

    #[test]
    fn accounts_do_not_share() {
        let account = |annotation: &str, token: &str| AccountKey {
            account: AccountName {
                namespace: "n".to_owned(),
                name: "a".to_owned(),
                uid: "1".to_owned(),
            },
            annotations: BTreeMap::from([("k".to_owned(), annotation.to_owned())]),
            token_hash: token.to_owned(),
        };
        let mut cache = Cache::new(at(0));
        cache.add("r.io/a", Some(&account("x", "")), user("a"), at(100));
        assert_eq!(cache.get("r.io/a", Some(&account("x", "")), at(1)), Some(user("a")));
        assert_eq!(cache.get("r.io/a", Some(&account("y", "")), at(1)), None);
        assert_eq!(cache.get("r.io/a", Some(&account("x", "t")), at(1)), None);
        assert_eq!(cache.get("r.io/a", None, at(1)), None);
    }

    #[test]
    fn what_has_expired_is_dropped() {
        let mut cache = Cache::new(at(0));
        cache.add("r.io/a", None, user("a"), at(1));
        cache.get("r.io/b", None, at(900));
        assert_eq!(cache.entries.len(), 1);
        cache.get("r.io/b", None, at(901));
        assert_eq!(cache.entries.len(), 0);
    }
}
