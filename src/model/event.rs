//! What an event of the API is about and how serious it is. Texts and reasons are upstream's, see
//! `reason`.

/// The two types of the events API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// Something expected.
    Normal,
    /// Something that a user may have to act on.
    Warning,
}

impl EventType {
    /// The API's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}
