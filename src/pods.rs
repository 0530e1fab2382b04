//! The pods of this node, the namespaces and the service accounts, as the watches show them.
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
