//! What survives a restart: health, ramps, suspicion. Sessions do not, so neither do tickets and places.

use serde::{Deserialize, Serialize};

/// Opaque to who stores it: take it from [`Policy::state`](super::Policy::state), store it as JSON, give it to
/// [`Policy::new`](super::Policy::new). Times in it are calendar times; the time that passed in between counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {}
