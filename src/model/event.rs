//! The types of API events. Texts and reasons are upstream's, see `reason`.

/// The severity of an event: the two types of the events API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// Something expected.
    Normal,
    /// Something that a user may have to act on.
    Warning,
}

impl EventType {
    /// Returns the API's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}
