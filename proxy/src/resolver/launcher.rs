//! Where the doors come from: the launcher hands them out, with a UDP socket and a TCP listener each.

use std::{io, os::fd::OwnedFd, path::Path};

use warren_launcher_api::{CellId, Role, TenantName};

use super::Doors;
use crate::holder::{self, Holder};

/// Holds the doors that the launcher at `socket` hands out; connects again whenever it must. Never returns.
pub async fn hold(doors: &mut Doors, socket: &Path) {
    match holder::hold(doors, socket).await {}
}

impl Holder<2> for Doors {
    const ROLE: Role = Role::Resolver;

    async fn serve(&mut self, cell: CellId, _: Option<TenantName>, [udp, tcp]: [OwnedFd; 2]) -> io::Result<()> {
        self.open(cell, udp, tcp).await
    }

    /// Whose cell it is does not matter to questions.
    fn bind(&mut self, _: CellId, _: TenantName) {}

    async fn close(&mut self, cell: CellId) {
        Doors::close(self, cell).await;
    }
}
