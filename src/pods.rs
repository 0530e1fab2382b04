//! This node's pods, and namespaces and service accounts, as the watches show them.
//!
//! ```text
//! API server --watch--> convert (drops unused fields) --store--> index (immutable snapshots) --lookup--> service
//! ```

pub mod access;
pub mod client;
pub mod convert;
pub mod index;
pub mod read;
pub mod store;
pub mod taint;
pub mod watch;
