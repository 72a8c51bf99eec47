//! Exit doors: the launcher hands them out, the proxy's workers serve them.
//!
//! ```text
//!   holder ──▶ CellDoors ── one task per door, on a worker's thread
//! ```

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use warren_launcher_api::{CellId, Role, TenantName};

use crate::door;
use crate::holder::{self, Holder};
use crate::proxy::Proxy;
use crate::workers::Workers;

/// Holds the doors that the launcher at `socket` hands out; connects again whenever it must.
pub async fn hold(proxy: Arc<Proxy>, workers: Workers, socket: &Path) -> Infallible {
    holder::hold(&mut CellDoors { proxy, workers, open: HashMap::new() }, socket).await
}

/// The doors held at present.
#[derive(Debug)]
struct CellDoors {
    proxy: Arc<Proxy>,
    workers: Workers,
    open: HashMap<CellId, Held>,
}

#[derive(Debug)]
struct Held {
    generation: u32,
    tenant: watch::Sender<Option<TenantName>>,
    task: JoinHandle<()>,
}

/// Whoever stops holding doors closes them.
impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Holder<1> for CellDoors {
    const ROLE: Role = Role::Proxy;

    async fn open(
        &mut self,
        cell: CellId,
        generation: u32,
        tenant: Option<TenantName>,
        [listener]: [OwnedFd; 1],
    ) -> io::Result<()> {
        if self.open.get(&cell).is_some_and(|held| held.generation >= generation) {
            return Ok(());
        }
        let listener = net::TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        let known = self.shut(cell).await;
        let (tenant, told) = watch::channel(tenant.or(known));
        let task = self.workers.next().spawn(door::serve_cell(Arc::clone(&self.proxy), listener, cell, told));
        self.open.insert(cell, Held { generation, tenant, task });
        Ok(())
    }

    fn bind(&mut self, cell: CellId, tenant: TenantName) {
        if let Some(held) = self.open.get(&cell) {
            held.tenant.send_replace(Some(tenant));
        }
    }

    async fn close(&mut self, cell: CellId) {
        self.shut(cell).await;
        self.proxy.forget(cell);
    }

    async fn close_all(&mut self) {
        let cells: Vec<CellId> = self.open.keys().copied().collect();
        for cell in cells {
            self.shut(cell).await;
        }
    }

    fn count(&self) -> usize {
        self.open.len()
    }
}

impl CellDoors {
    /// Closes a door, for certain: its socket is closed when its task has ended. Sessions go on.
    async fn shut(&mut self, cell: CellId) -> Option<TenantName> {
        let mut held = self.open.remove(&cell)?;
        held.task.abort();
        let _ = (&mut held.task).await;
        held.tenant.borrow().clone()
    }
}
