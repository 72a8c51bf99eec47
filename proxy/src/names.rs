//! Which MX name an address stands for.
//!
//! A door shows only the address that the MSA dialled. The resolver of the same cell, which gave that address out, says
//! what it was the answer to, in a datagram sent *before* the DNS answer: so the note is there when the connection comes.
//!
//! ```text
//!   resolver ── NameNote{cell, domain, mx, address, …} ──▶ $run/names.sock ──▶ Names ── lookup(cell, address) ──▶ SNI, records
//! ```
//!
//! [`Names`] is bounded per cell and in cells: a tenant can ask for any number of names, and only crowds out its own.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use warren_launcher_api::CellId;

/// File name of the datagram socket within the run directory.
pub const SOCKET_NAME: &str = "names.sock";
/// Longest datagram taken.
pub const MAX_NOTE: usize = 4096;
/// Longest name taken: DNS has none longer.
const MAX_NAME: usize = 255;
/// Most cells remembered: more than one proxy has doors, which are descriptors.
const MAX_CELLS: usize = 20_000;
/// Most addresses remembered per cell.
pub const MAX_PER_CELL: usize = 2048;
/// Most names remembered for one address: big providers serve many domains from one.
pub const MAX_PER_ADDRESS: usize = 8;
/// An MSA may dial long after it asked: it keeps what it resolved while it tries the other MXs.
pub const KEEP: Duration = Duration::from_secs(3600);
/// However long a TTL claims to be.
const KEEP_AT_MOST: Duration = Duration::from_secs(86_400);

/// One address given out by the resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameNote {
    /// The cell that asked.
    pub cell: CellId,
    /// The recipient domain whose MX this is, where it was asked for.
    pub domain: Option<String>,
    /// The host name whose address was asked for.
    pub mx: String,
    /// The answer.
    pub address: IpAddr,
    /// Whether the whole chain of answers was validated by DNSSEC.
    pub secure: bool,
    /// Time to live of the answer.
    pub ttl_s: u32,
}

/// What is known of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The host name.
    pub mx: String,
    /// The recipient domain, where known.
    pub domain: Option<String>,
    /// Validated by DNSSEC.
    pub secure: bool,
    until: Instant,
}

/// All that the resolver told.
#[derive(Debug, Default)]
pub struct Names {
    /// By age: ids of cells only grow.
    cells: BTreeMap<CellId, HashMap<IpAddr, Vec<Name>>>,
}

impl Names {
    /// Takes a note. The latest note of an address comes first.
    pub fn note(&mut self, note: NameNote, now: Instant) {
        if note.mx.len() > MAX_NAME || note.domain.as_ref().is_some_and(|domain| domain.len() > MAX_NAME) {
            return;
        }
        if self.cells.len() >= MAX_CELLS && !self.cells.contains_key(&note.cell) {
            // One that is gone without a word, as while the launcher was away; or the resolver tells of cells that never were.
            self.cells.pop_first();
        }
        let cell = self.cells.entry(note.cell).or_default();
        let address = note.address.to_canonical();
        if cell.len() >= MAX_PER_CELL && !cell.contains_key(&address) {
            make_room(cell, now);
        }
        let keep = Duration::from_secs(note.ttl_s.into()).clamp(KEEP, KEEP_AT_MOST);
        let names = cell.entry(address).or_default();
        names.retain(|name| name.until > now && (name.mx != note.mx || name.domain != note.domain));
        names.insert(0, Name { mx: note.mx, domain: note.domain, secure: note.secure, until: now + keep });
        names.truncate(MAX_PER_ADDRESS);
    }

    /// What this cell most lately knew `address` as.
    pub fn lookup(&self, cell: CellId, address: IpAddr, now: Instant) -> Option<&Name> {
        let names = self.cells.get(&cell)?.get(&address.to_canonical())?;
        names.iter().find(|name| name.until > now)
    }

    /// Forgets a cell that is gone.
    pub fn forget(&mut self, cell: CellId) {
        self.cells.remove(&cell);
    }
}

/// Drops what is past its time, else the address that has waited longest.
fn make_room(cell: &mut HashMap<IpAddr, Vec<Name>>, now: Instant) {
    let last = |names: &Vec<Name>| names.iter().map(|name| name.until).max();
    cell.retain(|_, names| last(names).is_some_and(|until| until > now));
    if cell.len() >= MAX_PER_CELL {
        let oldest = cell.iter().min_by_key(|(_, names)| last(names)).map(|(address, _)| *address);
        oldest.map(|address| cell.remove(&address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const CELL: CellId = CellId(7);

    fn note(mx: &str, address: IpAddr, ttl_s: u32) -> NameNote {
        NameNote { cell: CELL, domain: Some("example.org".into()), mx: mx.into(), address, secure: false, ttl_s }
    }

    #[test]
    fn the_latest_name_counts_and_only_in_its_cell() {
        let now = Instant::now();
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let mut names = Names::default();
        names.note(note("mx1.example.org", ip, 60), now);
        names.note(note("mx2.example.org", ip, 60), now);
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(names.lookup(CELL, mapped, now).unwrap().mx, "mx2.example.org");
        assert_eq!(names.lookup(CellId(8), ip, now), None);
        names.forget(CELL);
        assert_eq!(names.lookup(CELL, ip, now), None);
    }

    #[test]
    fn names_outlive_short_ttls_and_no_longer() {
        let now = Instant::now();
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let mut names = Names::default();
        names.note(note("mx.example.org", ip, 0), now);
        assert!(names.lookup(CELL, ip, now + KEEP / 2).is_some());
        assert!(names.lookup(CELL, ip, now + KEEP).is_none());
        names.note(note("mx.example.org", ip, u32::MAX), now);
        assert!(names.lookup(CELL, ip, now + KEEP_AT_MOST).is_none());
    }

    #[test]
    fn a_resolver_gone_wild_is_bounded() {
        let (now, ip) = (Instant::now(), IpAddr::from([192, 0, 2, 1]));
        let mut names = Names::default();
        for cell in 0..=MAX_CELLS {
            let cell = CellId(u64::try_from(cell).unwrap());
            names.note(NameNote { cell, ..note("mx.example.org", ip, 60) }, now);
        }
        assert_eq!(names.cells.len(), MAX_CELLS);
        assert!(names.lookup(CellId(0), ip, now).is_none(), "the oldest made room");
        names.note(note(&"x".repeat(256), IpAddr::from([192, 0, 2, 2]), 60), now);
        assert!(names.lookup(CELL, IpAddr::from([192, 0, 2, 2]), now).is_none());
    }

    #[test]
    fn a_cell_crowds_out_only_its_own_oldest() {
        let now = Instant::now();
        let mut names = Names::default();
        let address = |n: usize| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + u32::try_from(n).unwrap()));
        for n in 0..=MAX_PER_CELL {
            names.note(note("mx.example.org", address(n), 60), now + Duration::from_micros(n as u64));
        }
        assert_eq!(names.cells[&CELL].len(), MAX_PER_CELL);
        assert!(names.lookup(CELL, address(0), now).is_none());
        assert!(names.lookup(CELL, address(MAX_PER_CELL), now).is_some());
        for n in 0..2 * MAX_PER_ADDRESS {
            names.note(note(&format!("mx{n}.example.org"), address(5), 60), now);
        }
        assert_eq!(names.cells[&CELL][&address(5)].len(), MAX_PER_ADDRESS);
    }
}
