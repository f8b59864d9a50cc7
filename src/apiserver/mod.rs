//! The API server: transport, client, events, tokens, the cache of ConfigMaps and Secrets.

pub mod events;
