//! The users that images were built to run as.
//!
//! Asked of the runtime once per image instead of at every start. Used by the start of a container.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::ActionError;
use crate::cri::{Runtime, v1};
use crate::model::reason::container as reason;
use crate::pods::request::ImageUser;

/// The users of images, by the image's id.
#[derive(Debug)]
pub struct ImageUsers {
    cri: Runtime,
    known: Mutex<BTreeMap<String, ImageUser>>,
}

impl ImageUsers {
    /// The number of images that are remembered. A node with more is rare, and asking again does no
    /// harm.
    const MOST: usize = 256;

    /// Remembers nothing yet.
    pub fn new(cri: Runtime) -> Self {
        Self { cri, known: Mutex::default() }
    }

    /// Returns the user of an image, from memory where it is known.
    pub(super) async fn of(&self, image_ref: &str) -> Result<ImageUser, ActionError> {
        let known = self.known.lock().get(image_ref).cloned();
        if let Some(known) = known {
            return Ok(known);
        }

        let request = v1::ImageStatusRequest {
            image: Some(v1::ImageSpec { image: image_ref.to_owned(), ..v1::ImageSpec::default() }),
            verbose: false,
        };
        let answer = self.cri.image_status(request).await.map_err(|error| {
            ActionError::new(reason::CREATE_CONTAINER_CONFIG_ERROR, error.to_string())
        })?;
        let image = answer.image.unwrap_or_default();
        let user = match image.uid {
            Some(uid) => ImageUser::Uid(uid.value),
            None if image.username.is_empty() => ImageUser::Uid(0),
            None => ImageUser::Name(image.username),
        };

        // An id is made from the content, so it keeps its user. A name may be given to another
        // image.
        if image.id == image_ref {
            self.remember(image_ref, &user);
        }
        Ok(user)
    }

    fn remember(&self, id: &str, user: &ImageUser) {
        let mut known = self.known.lock();
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(id.to_owned(), user.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::{ImageUser, ImageUsers};
    use crate::clock::Clock;
    use crate::cri::fake::FakeRuntime;

    #[tokio::test]
    async fn the_users_that_are_remembered_are_bounded() {
        let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let users = ImageUsers::new(FakeRuntime::new(clock).client());
        for number in 0..=ImageUsers::MOST {
            users.remember(&format!("sha256:{number}"), &ImageUser::Uid(1));
        }

        let last = format!("sha256:{}", ImageUsers::MOST);
        assert_eq!(users.known.lock().get("sha256:0"), None);
        assert_eq!(users.known.lock().len(), 1);
        assert_eq!(users.of(&last).await.expect("remembered"), ImageUser::Uid(1));
    }
}
