//! Warren's configuration: what can be set, what it is when it is not, and what is wrong with it.
//!
//! ```text
//!   /etc/warren/warren.toml        ──▶ Node::load       the node: names, addresses, limits, paths
//!   /etc/warren/tenants/NAME.toml  ──▶ Directory::load  tenants by name, by domain, by login, by recipient
//!                                  Folder::read       the same again, of what changed
//!                                            │
//!                                            └──▶ Directory::changes   what a reload must touch
//! ```
//!
//! Loading either yields values that need no further checking, or [`Problems`]: every error with file, line, column and
//! what was expected. Keys that are not known are errors. Nothing is resolved, bound or looked up here: `warren check`
//! does that.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod accounts;
mod checker;
pub mod defaults;
mod directory;
pub mod egress;
mod egress_file;
mod folder;
mod forwards;
mod message_size;
mod node;
mod node_file;
mod places;
mod problem;
mod standalone;
mod tenant;
mod timeouts;
mod tls_rules;
mod values;
mod watch;

pub use accounts::{Account, Accounts, PasswordHash};
pub use directory::{Changes, Directory, Login, Recipient};
pub use egress::Egress;
pub use folder::Folder;
pub use node::{
    CertificateFiles, Cgroup, Dnssec, Fleet, Limits, Listen, Node, Paths, Proxy, Rates, Resolver, Retry, Reuse,
    Submission, TlsPolicy, Users,
};
pub use problem::{Problem, Problems};
pub use standalone::{RedirectMode, Standalone, StandaloneTls};
pub use tenant::Tenant;
pub use tls_rules::TlsRule;
pub use values::{Network, parse_address, parse_domain, parse_duration, parse_size};
pub use warren_launcher_api::{ImageName, TenantName};
pub use warren_smtp::mediator::Deadlines;

/// File in the configuration directory that describes the node.
pub const NODE_FILE: &str = "warren.toml";

/// Folder in the configuration directory with a file for each tenant.
pub const TENANTS_FOLDER: &str = "tenants";

/// Where the configuration is when nothing else is said.
pub const DEFAULT_DIRECTORY: &str = "/etc/warren";
