//! Images: references, pull policies, credentials, pulls.
