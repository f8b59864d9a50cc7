//! The phase of a pod: its progress in the API's words. Pure.

use k8s_openapi::api::core::v1 as api;

/// A phase that the kubelet writes. The API's fifth, `Unknown`, is no longer written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Not every container has been started.
    Pending,
    /// Every container has been started; at least one runs or will run.
    Running,
    /// Every container has succeeded and is not restarted.
    Succeeded,
    /// Every container has ended and at least one has failed; none is restarted.
    Failed,
}

impl Phase {
    /// Reads the API's text; `None` for an empty or unknown one.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Pending" => Some(Self::Pending),
            "Running" => Some(Self::Running),
            "Succeeded" => Some(Self::Succeeded),
            "Failed" => Some(Self::Failed),
            _ => None,
        }
    }

    /// Returns the phase of a status.
    pub fn of(status: &api::PodStatus) -> Option<Self> {
        Self::parse(status.phase.as_deref()?)
    }

    /// Returns the API's text, e.g. `Running`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Returns true for the two phases that are never left.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Succeeded | Self::Failed => true,
        }
    }
}

/// Returns true if the status has a phase that is never left.
pub fn is_terminal(status: &api::PodStatus) -> bool {
    Phase::of(status).is_some_and(Phase::is_terminal)
}

#[cfg(test)]
mod tests {
    use super::Phase;

    #[test]
    fn texts_read_back() {
        for phase in [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed] {
            assert_eq!(Phase::parse(phase.as_str()), Some(phase));
        }
        assert_eq!(Phase::parse("Unknown"), None);
        assert_eq!(Phase::parse(""), None);
    }
}
