//! State on `watch` channels: the latest value wins, and only a change wakes the readers.

use tokio::sync::watch;

/// Publishes `value` unless it is the latest value already. Returns true if it was published.
pub fn set_if_changed<T: PartialEq>(sender: &watch::Sender<T>, value: T) -> bool {
    sender.send_if_modified(|latest| {
        let is_changed = *latest != value;
        *latest = value;
        is_changed
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::set_if_changed;

    #[test]
    fn only_a_change_is_seen() {
        let (sender, mut receiver) = watch::channel(1);
        assert!(!set_if_changed(&sender, 1));
        assert!(!receiver.has_changed().expect("a sender"));
        assert!(set_if_changed(&sender, 2));
        assert_eq!(*receiver.borrow_and_update(), 2);
    }
}
