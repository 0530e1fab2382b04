//! podrole gives each Kubernetes pod its own AWS IAM role at the metadata address, and keeps the node's role from all of them.
//!
//! ```text
//!  bin   main                                   args -> subcommand -> exit code
//!  L7    app                                    composition root of `run`; builds, binds, starts, drains
//!  L6    cli  config  telemetry                 one file per subcommand; arguments -> Config, all errors at once
//!  L5    server  admin                          listeners, connections, limits | metrics, live, ready
//!  L4    service                                the use case: (connection, request) -> reply; the one Outcome enum
//!  L3    cache  caller::resolver  audit  events  explain
//!  L2    issuer::{base,sts}  pods::{access,client,read,store,taint,watch}  redirect::{nft,routing}
//!        caller::{netns,sock_diag,cgroup_tree,scanner,dir_watch,shortages,self_test}
//!        upstream::client  events::api  state   <- all external I/O
//!  L1    policy  imds  pods::{index,convert}  redirect::ruleset  cache::slot  caller::cgroup_path
//!        events::schedule                         <- pure
//!        ports: issuer  redirect  caller  upstream  events::sink
//!  L0    types  clock  backoff  token_bucket
//!  rail  deadline  line_writer  metrics  readiness  tasks
//! ```
//!
//! Imports only point down; `tests/layering.rs` holds the code to this picture. ARCHITECTURE.md follows one request through it.

pub mod admin;
pub mod app;
pub mod audit;
pub mod backoff;
pub mod cache;
pub mod caller;
pub mod cli;
pub mod clock;
pub mod config;
pub mod deadline;
pub mod events;
pub mod explain;
pub mod imds;
pub mod issuer;
pub mod line_writer;
pub mod metrics;
pub mod pods;
pub mod policy;
pub mod readiness;
pub mod redirect;
pub mod server;
pub mod service;
pub mod state;
pub mod tasks;
pub mod telemetry;
pub mod token_bucket;
pub mod types;
pub mod upstream;
