//! Why a request failed, by what the caller can do about it.

use serde::{Deserialize, Serialize};

use crate::{CellId, ImageName, TenantName};

/// A request that was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum LauncherError {
    /// The image is missing or broken: an operator must build or name it right.
    #[error("image {image}: {reason}")]
    Image {
        /// Which.
        image: ImageName,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The tenant's container runs already: adopt it (`List`, `Sockets`).
    #[error("tenant {tenant} is awake already, in cell {cell}")]
    AlreadyAwake {
        /// Whose.
        tenant: TenantName,
        /// Where.
        cell: CellId,
    },
    /// The tenant's last container is still going: try again when `Exited` has come.
    #[error("tenant {tenant} is still going to sleep, in cell {cell}")]
    StillEnding {
        /// Whose.
        tenant: TenantName,
        /// Where.
        cell: CellId,
    },
    /// No such cell, or no longer.
    #[error("there is no cell {cell}")]
    NoSuchCell {
        /// Which.
        cell: CellId,
    },
    /// The tenant's volume cannot be used: an operator must look.
    #[error("volume: {reason}")]
    Volume {
        /// What is wrong.
        reason: String,
    },
    /// Making or starting the container failed: try again later.
    #[error("start: {reason}")]
    Start {
        /// The step and the kernel's answer.
        reason: String,
    },
    /// The request itself is out of bounds or not for this role.
    #[error("request refused: {reason}")]
    Refused {
        /// Which bound.
        reason: String,
    },
    /// The launcher is ending, or has too much to do: try again later.
    #[error("launcher busy: {reason}")]
    Busy {
        /// With what.
        reason: String,
    },
}
