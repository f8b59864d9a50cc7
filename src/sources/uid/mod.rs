//! The UID that upstream gives a static pod, byte for byte.
//!
//! Pure. A kubelet that takes a node over knows the running pods by their UIDs, so a static pod
//! survives the exchange only when both kubelets compute the same one. Upstream hashes a printout
//! of the defaulted pod in its internal types, and then where the pod comes from:
//!
//! ```text
//! (*core.Pod){TypeMeta:(v1.TypeMeta){Kind:(string) APIVersion:(string)} ObjectMeta:(…
//! ```
//!
//! - [`internal`] moves the fields that have another place in the internal types.
//! - [`dump`] prints them by `layout.txt`: the fields' names, order and types.
//! - [`quantity`] prints quantities, whose parts depend on how they were written.
//!
//! `tests/static-uids` writes the layout and the expected UIDs with upstream's own code. A pod
//! which [`Unprintable`] describes gets a UID of its own kind: it is stable here, but upstream's
//! differs, and such a pod starts anew when the kubelet is exchanged.

mod dump;
mod fnv;
mod internal;
mod quantity;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use self::fnv::Fnv128a;
use super::static_pod::Origin;
use crate::model::Pod;

/// Why a pod cannot be printed as upstream prints it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Unprintable {
    /// A moment: it is printed with the time zone of the node.
    #[error("it holds a moment")]
    Moment,
    /// A quantity that upstream holds as a number without bounds, or a sum of such.
    #[error("the quantity {0:?} is out of the ordinary")]
    Quantity(String),
    /// A value that is not of its field's type.
    #[error("{0} is not of its type")]
    Type(String),
    /// Serialisation of the pod.
    #[error("it cannot be serialised")]
    Serialise,
}

/// The UID of a defaulted pod that has none of its own.
pub(super) fn of(pod: &Pod, origin: Origin<'_>, node_name: &str) -> String {
    let source = match origin {
        Origin::File(path) => format!("host:{node_name}file:{path}"),
        Origin::Url(url) => format!("url:{url}"),
    };
    match upstream(pod, &source) {
        Ok(uid) => uid,
        Err(why) => {
            tracing::debug!(
                pod = pod.metadata.name,
                error = %why,
                "The UID of a static pod differs from the one that upstream's kubelet gives it"
            );
            own(pod, &source)
        }
    }
}

/// The hash of upstream's printout.
fn upstream(pod: &Pod, source: &str) -> Result<String, Unprintable> {
    let mut hasher = Fnv128a::default();
    dump::pod(&document(pod)?, &mut hasher)?;
    hasher.write(source.as_bytes());
    Ok(hasher.hexadecimal())
}

/// The pod as plain data, arranged as the internal types are.
fn document(pod: &Pod) -> Result<Value, Unprintable> {
    // By way of a text: the code that turns a pod into plain data would be one more large part of
    // the program.
    let text = serde_json::to_vec(pod).map_err(|_| Unprintable::Serialise)?;
    let mut document = serde_json::from_slice(&text).map_err(|_| Unprintable::Serialise)?;
    internal::arrange(&mut document)?;
    Ok(document)
}

/// A hash of the pod's JSON, as long as upstream's.
fn own(pod: &Pod, source: &str) -> String {
    let mut hasher = Sha256::new();
    // Serialising plain data cannot fail; maps are ordered, so equal pods give equal texts.
    hasher.update(serde_json::to_vec(pod).unwrap_or_default());
    hasher.update(source);
    hex::encode(&hasher.finalize()[..16])
}

#[cfg(test)]
mod tests;
