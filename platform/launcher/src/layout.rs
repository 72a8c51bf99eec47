//! What lies where under `--run`.
//!
//! ```text
//! launcher.sock   lock   next-cell   cgroups        (the socket is usually passed by the starter)
//! cells/N         a container that is bound to a tenant (record.rs)
//! containers/cN/  libcontainer's state: config, notify socket
//! bundles/cN/     config.json
//! images/         empty; the maker alone sees the images there
//! ```

use std::path::{Path, PathBuf};

use warren_launcher_api::CellId;

/// Name of a cell's container: in libcontainer's state, in the bundles and in every cgroup hierarchy.
pub fn container_name(cell: CellId) -> String {
    format!("c{cell}")
}

/// The reverse of [`container_name`].
pub fn cell_of(name: &str) -> Option<CellId> {
    let number = name.strip_prefix('c')?.parse().ok()?;
    Some(CellId(number)).filter(|cell| container_name(*cell) == name)
}

/// Records of bound containers.
pub fn cells(run: &Path) -> PathBuf {
    run.join("cells")
}

/// libcontainer's root.
pub fn containers(run: &Path) -> PathBuf {
    run.join("containers")
}

/// OCI bundles.
pub fn bundles(run: &Path) -> PathBuf {
    run.join("bundles")
}

/// Writing into this socket starts a container.
pub fn notify_socket(run: &Path, cell: CellId) -> PathBuf {
    containers(run).join(container_name(cell)).join("notify.sock")
}
