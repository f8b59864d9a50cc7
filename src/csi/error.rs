//! The error of a call to a CSI driver. Made by `client`. Its text goes into events, so it is
//! upstream's.

use tonic::Code;

use crate::cri::CriError;

/// A failed call to a driver, or one that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsiError {
    /// No driver of this name is registered.
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    NotRegistered(String),
    /// The driver refused the call, or did not answer. Its text is grpc-go's.
    #[error(transparent)]
    Call(CriError),
    /// The driver's answer cannot be used.
    #[error("{0}")]
    Answer(&'static str),
}

impl CsiError {
    /// Returns true if the call is over and nothing of it is left. After any other failure the
    /// driver may still be at work.
    pub fn is_final(&self) -> bool {
        match self {
            Self::NotRegistered(_) | Self::Answer(_) => true,
            Self::Call(error) => !matches!(
                error.code,
                Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Unavailable
                    | Code::ResourceExhausted
                    | Code::Aborted
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::CsiError;
    use crate::cri::CriError;

    #[track_caller]
    fn check(status: &Status, is_final: bool, text: &str) {
        let error = CsiError::Call(CriError::from_status("NodeStageVolume", status));
        assert_eq!((error.is_final(), error.to_string().as_str()), (is_final, text));
    }

    #[test]
    fn only_an_answer_about_the_volume_is_final() {
        check(&Status::internal("no"), true, "rpc error: code = Internal desc = no");
        check(&Status::not_found("v"), true, "rpc error: code = NotFound desc = v");
        check(&Status::aborted("busy"), false, "rpc error: code = Aborted desc = busy");
        check(&Status::unavailable("x"), false, "rpc error: code = Unavailable desc = x");
        let deadline = CsiError::Call(CriError::deadline("NodeStageVolume"));
        assert!(!deadline.is_final());
        assert_eq!(
            deadline.to_string(),
            "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
        );
        assert_eq!(
            CsiError::NotRegistered("d.io".to_owned()).to_string(),
            "driver name d.io not found in the list of registered CSI drivers"
        );
    }
}
