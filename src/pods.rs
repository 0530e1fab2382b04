//! What the watch has shown of this node's pods, their namespaces and service accounts.
//!
//! ```text
//! API server --watch--> convert (drop what is not used) --store--> index (one immutable snapshot) --lookup--> service
//! ```

pub mod access;
pub mod client;
pub mod convert;
pub mod index;
pub mod read;
pub mod store;
pub mod taint;
pub mod watch;
