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
use crate::next::{self, Giver};
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
    tenant: watch::Sender<Option<TenantName>>,
    next: Giver<net::TcpListener>,
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

    async fn serve(&mut self, cell: CellId, tenant: Option<TenantName>, [listener]: [OwnedFd; 1]) -> io::Result<()> {
        let listener = net::TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        if let Some(held) = self.open.get(&cell).filter(|held| !held.task.is_finished()) {
            if tenant.is_some() {
                held.tenant.send_replace(tenant);
            }
            held.next.give(listener).await;
            return Ok(());
        }
        let (tenant, told) = watch::channel(tenant);
        let (next, given) = next::pair();
        let proxy = Arc::clone(&self.proxy);
        let task = self.workers.next().spawn(door::serve_cell(proxy, listener, given, cell, told));
        self.open.insert(cell, Held { tenant, next, task });
        Ok(())
    }

    fn bind(&mut self, cell: CellId, tenant: TenantName) {
        if let Some(held) = self.open.get(&cell) {
            held.tenant.send_replace(Some(tenant));
        }
    }

    /// Its socket is closed when its task has ended. Sessions go on.
    async fn close(&mut self, cell: CellId) {
        if let Some(mut held) = self.open.remove(&cell) {
            held.task.abort();
            let _ = (&mut held.task).await;
        }
        self.proxy.forget(cell);
    }
}
