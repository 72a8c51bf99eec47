//! Which MX names an address stands for, and what DNSSEC and MTA-STS say of them.
//!
//! A door shows only the address that the MSA dialled. The resolver of the same cell, which gave that address out, says
//! what it was the answer to, in datagrams sent *before* the DNS answer: so the notes are there when the connection comes.
//!
//! ```text
//!   resolver ── Note::Tlsa{cell, mx, found} ─┐
//!            ── Note::Sts{cell, domain, …}  ─┼─▶ $run/names.sock ──▶ Names ── lookup(cell, address) ──────────▶ SNI, records
//!            ── Note::Name{cell, address, …}─┘                             └─ judge_by(cell, address, domain) ▶ what TLS has to be
//! ```
//!
//! One address serves many MX names, and one MX name many domains, so there are several [`Name`]s to an address. A policy that arrives late comes in
//! a note of its own and holds for names told before. All is bounded per cell and in cells: a tenant can ask for any number of names, and only crowds
//! out its own. What is crowded out is never taken for "no TLSA records": a secure name without a word about them is [`TlsaFound::Failed`].

//!
//! - `note`: what is told. - `cell`: which names the addresses of one cell have. - `facts`: what is known of names. All pure: time comes in.

mod cell;
mod facts;
mod note;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_launcher_api::CellId;

use self::cell::Cell;
use self::note::MAX_NAME;
use crate::tls::{Known, StsFound, TlsaFound};

pub use self::cell::{MAX_BYTES, MAX_PER_ADDRESS, MAX_PER_CELL};
pub use self::facts::{MAX_FACTS, MAX_FACTS_BYTES};
pub use self::note::{MAX_NOTE, NameNote, Note, SOCKET_NAME, StsNote, TlsaNote};

/// Most cells remembered: more than one proxy has doors, which are descriptors.
const MAX_CELLS: usize = 20_000;
/// An MSA may dial long after it asked: it keeps what it resolved while it tries the other MXs.
pub const KEEP: Duration = Duration::from_secs(3600);
/// However long a TTL claims to be.
const KEEP_AT_MOST: Duration = Duration::from_secs(86_400);

/// One name of an address, and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The host name.
    pub mx: String,
    /// The recipient domain, where known.
    pub domain: Option<String>,
    /// The way from the domain's MX records to the address was validated by DNSSEC.
    pub secure: bool,
    /// The host's TLSA records, validated. Means something only if `secure`.
    pub tlsa: Arc<TlsaFound>,
    /// The domain's MTA-STS policy.
    pub sts: Arc<StsFound>,
}

impl Name {
    /// What there is to judge a recipient of `domain` by.
    #[must_use]
    pub fn known<'a>(&'a self, domain: &'a str) -> Known<'a> {
        Known { domain, mx: Some(&self.mx), secure: self.secure, tlsa: &self.tlsa, sts: &self.sts }
    }
}

/// All that the resolver told.
#[derive(Debug, Default)]
pub struct Names {
    /// By age: ids of cells only grow.
    cells: BTreeMap<CellId, Cell>,
}

impl Names {
    /// Takes a note. The latest of an address comes first.
    pub fn note(&mut self, note: Note, now: Instant) {
        match note {
            Note::Name(note) => {
                if fits(&note.mx) && note.domain.as_deref().is_none_or(fits) {
                    self.cell(note.cell).named(note, now);
                }
            }
            Note::Tlsa(TlsaNote { cell, mx, found, ttl_s }) if fits(&mx) => {
                let bytes = match &found {
                    TlsaFound::Records(records) => records.iter().map(|record| record.data.len() + 4).sum(),
                    TlsaFound::None | TlsaFound::Failed => 0,
                };
                self.cell(cell).tlsa.insert(mx, found, bytes, now, keep(ttl_s));
            }
            Note::Sts(StsNote { cell, domain, found }) if fits(&domain) => {
                let (bytes, ttl_s) = match &found {
                    StsFound::Policy(policy) => (policy.mx.iter().map(String::len).sum(), policy.max_age_s),
                    StsFound::None | StsFound::Failed(_) => (0, 0),
                };
                self.cell(cell).sts.insert(domain, found, bytes, now, keep(ttl_s));
            }
            Note::Tlsa(_) | Note::Sts(_) => {}
        }
    }

    /// Everything that this cell knows `address` as, the latest first: the first of them is the name to give as SNI.
    #[must_use]
    pub fn lookup(&self, cell: CellId, address: IpAddr, now: Instant) -> Vec<Name> {
        let Some(cell) = self.cells.get(&cell) else { return Vec::new() };
        cell.told(address, now).map(|told| cell.name(told, now)).collect()
    }

    /// What a recipient of `domain` is judged by in a session with `address` that was greeted under the name `dialled`: the name of one of the domain's MXs,
    /// rather that of the session, rather a secure one, rather a late one. A host whose address was asked for without any domain, such as a smart
    /// host, speaks for all domains that have no name here. None if nobody told, or too long ago; but where the address has as many names as are remembered, this
    /// one may have been crowded out, and with it that it has TLSA records: then they count as unknown, and mail waits until it is asked for again.
    #[must_use]
    pub fn judge_by(
        &self,
        cell: CellId,
        address: IpAddr,
        domain: &str,
        dialled: Option<&str>,
        now: Instant,
    ) -> Option<Name> {
        let domain = domain.trim_end_matches('.');
        let cell = self.cells.get(&cell)?;
        let is = |told: &&cell::Told| told.domain.as_deref().is_some_and(|known| known.eq_ignore_ascii_case(domain));
        let rank =
            |told: &&cell::Told| (dialled.is_none_or(|dialled| !told.mx.eq_ignore_ascii_case(dialled)), !told.secure);
        let best = cell.told(address, now).filter(is).min_by_key(rank);
        let best = best.or_else(|| cell.told(address, now).filter(|told| told.domain.is_none()).min_by_key(rank));
        let mut name = match best {
            Some(best) => cell.name(best, now),
            None => cell.crowded_out(address, dialled, now)?,
        };
        name.sts = cell.sts.get(domain, now).unwrap_or_default();
        Some(name)
    }

    /// The MTA-STS policy of a domain that the cell asked for; for recipients whose MX name nobody knows.
    #[must_use]
    pub fn sts(&self, cell: CellId, domain: &str, now: Instant) -> Arc<StsFound> {
        self.cells.get(&cell).and_then(|cell| cell.sts.get(domain, now)).unwrap_or_default()
    }

    /// Forgets a cell that is gone.
    pub fn forget(&mut self, cell: CellId) {
        self.cells.remove(&cell);
    }

    fn cell(&mut self, id: CellId) -> &mut Cell {
        if self.cells.len() >= MAX_CELLS && !self.cells.contains_key(&id) {
            // One that is gone without a word, as while the launcher was away; or the resolver tells of cells that never were.
            self.cells.pop_first();
        }
        self.cells.entry(id).or_default()
    }
}

fn fits(name: &str) -> bool {
    name.len() <= MAX_NAME
}

fn keep(ttl_s: u32) -> Duration {
    Duration::from_secs(ttl_s.into()).clamp(KEEP, KEEP_AT_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{StsMode, StsPolicy, Tlsa};
    use std::net::Ipv4Addr;

    const CELL: CellId = CellId(7);

    fn note(mx: &str, address: IpAddr, ttl_s: u32) -> NameNote {
        NameNote { cell: CELL, domain: Some("example.org".into()), mx: mx.into(), address, secure: false, ttl_s }
    }

    fn named(names: &mut Names, note: NameNote, now: Instant) {
        names.note(Note::Name(note), now);
    }

    fn tlsa(mx: &str, found: TlsaFound) -> Note {
        Note::Tlsa(TlsaNote { cell: CELL, mx: mx.into(), found, ttl_s: 60 })
    }

    fn records() -> TlsaFound {
        TlsaFound::Records(vec![Tlsa { usage: 3, selector: 1, matching: 1, data: vec![7; 32] }])
    }

    fn policy(mx: Vec<String>) -> StsFound {
        StsFound::Policy(StsPolicy { mode: StsMode::Enforce, mx, max_age_s: 86_400, id: "1".into() })
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn all_names_of_an_address_and_only_in_its_cell() {
        let now = Instant::now();
        let mut names = Names::default();
        named(&mut names, note("mx1.example.org", ip(1), 60), now);
        named(&mut names, note("mx2.example.org", ip(1), 60), now);
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        let known: Vec<String> = names.lookup(CELL, mapped, now).into_iter().map(|name| name.mx).collect();
        assert_eq!(known, ["mx2.example.org", "mx1.example.org"], "the latest first");
        assert_eq!(names.lookup(CellId(8), ip(1), now), []);
        names.forget(CELL);
        assert_eq!(names.lookup(CELL, ip(1), now), []);
    }

    #[test]
    fn a_domain_is_judged_by_its_own_mx() {
        let now = Instant::now();
        let mut names = Names::default();
        let of =
            |domain: &str, mx: &str, secure| NameNote { domain: Some(domain.into()), secure, ..note(mx, ip(1), 60) };
        named(&mut names, of("a.example", "mx.a.example", true), now);
        named(&mut names, of("a.example", "old.a.example", false), now);
        named(&mut names, of("b.example", "mx.b.example", false), now);
        let by = |names: &Names, domain: &str, dialled: Option<&str>| {
            names.judge_by(CELL, ip(1), domain, dialled, now).map(|name| (name.mx, name.secure))
        };
        assert_eq!(by(&names, "A.example.", None), Some(("mx.a.example".into(), true)), "rather secure than late");
        assert_eq!(by(&names, "a.example", Some("mx.b.example")), Some(("mx.a.example".into(), true)));
        assert_eq!(by(&names, "a.example", Some("OLD.a.example")), Some(("old.a.example".into(), false)));
        assert_eq!(by(&names, "b.example", Some("mx.a.example")), Some(("mx.b.example".into(), false)));
        assert_eq!(by(&names, "c.example", None), None, "nobody told");
        named(&mut names, NameNote { domain: None, ..note("smart.example", ip(1), 60) }, now);
        assert_eq!(by(&names, "c.example", None), Some(("smart.example".into(), false)));
        assert_eq!(by(&names, "b.example", None), Some(("mx.b.example".into(), false)));
    }

    #[test]
    fn records_and_policies_hold_for_names_told_before_and_after() {
        let now = Instant::now();
        let mut names = Names::default();
        names.note(tlsa("mx.example.org", records()), now);
        named(&mut names, NameNote { secure: true, ..note("mx.example.org", ip(1), 60) }, now);
        let by = |names: &Names, now| names.judge_by(CELL, ip(1), "example.org", None, now).unwrap();
        assert_eq!((&*by(&names, now).tlsa, &*by(&names, now).sts), (&records(), &StsFound::None));
        let late = policy(vec!["mx.example.org".into()]);
        names.note(Note::Sts(StsNote { cell: CELL, domain: "example.org".into(), found: late.clone() }), now);
        assert_eq!(*by(&names, now).sts, late);
        assert_eq!(*names.sts(CELL, "example.org", now), late);
        let name = by(&names, now);
        let known = name.known("example.org");
        assert_eq!((known.mx, known.secure, known.tlsa), (Some("mx.example.org"), true, &records()));
        // Told anew: the records are gone.
        names.note(tlsa("mx.example.org", TlsaFound::None), now);
        assert_eq!(*by(&names, now).tlsa, TlsaFound::None);
    }

    #[test]
    fn without_a_word_about_its_records_a_secure_name_waits() {
        let now = Instant::now();
        let mut names = Names::default();
        named(&mut names, note("insecure.example.org", ip(1), 60), now);
        named(&mut names, NameNote { secure: true, ..note("mx.example.org", ip(2), 60) }, now);
        assert_eq!(*names.lookup(CELL, ip(1), now)[0].tlsa, TlsaFound::None);
        assert_eq!(*names.lookup(CELL, ip(2), now)[0].tlsa, TlsaFound::Failed);
    }

    #[test]
    fn names_outlive_short_ttls_and_no_longer() {
        let now = Instant::now();
        let mut names = Names::default();
        named(&mut names, note("mx.example.org", ip(1), 0), now);
        assert_eq!(names.lookup(CELL, ip(1), now + KEEP / 2).len(), 1);
        assert_eq!(names.lookup(CELL, ip(1), now + KEEP), []);
        named(&mut names, note("mx.example.org", ip(1), u32::MAX), now);
        assert_eq!(names.lookup(CELL, ip(1), now + KEEP_AT_MOST), []);
    }

    #[test]
    fn a_resolver_gone_wild_is_bounded() {
        let now = Instant::now();
        let mut names = Names::default();
        for cell in 0..=MAX_CELLS {
            let cell = CellId(u64::try_from(cell).unwrap());
            named(&mut names, NameNote { cell, ..note("mx.example.org", ip(1), 60) }, now);
        }
        assert_eq!(names.cells.len(), MAX_CELLS);
        assert_eq!(names.lookup(CellId(0), ip(1), now), [], "the oldest made room");
        named(&mut names, note(&"x".repeat(256), ip(2), 60), now);
        assert_eq!(names.lookup(CELL, ip(2), now), []);
    }

    #[test]
    fn a_cell_crowds_out_only_its_own_oldest() {
        let now = Instant::now();
        let mut names = Names::default();
        let address = |n: usize| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + u32::try_from(n).unwrap()));
        for n in 0..=MAX_PER_CELL {
            named(&mut names, note("mx.example.org", address(n), 60), now + Duration::from_micros(n as u64));
        }
        assert_eq!(names.cells[&CELL].addresses.len(), MAX_PER_CELL);
        assert_eq!(names.lookup(CELL, address(0), now), []);
        assert_eq!(names.lookup(CELL, address(MAX_PER_CELL), now).len(), 1);
        for n in 0..2 * MAX_PER_ADDRESS {
            named(&mut names, note(&format!("mx{n}.example.org"), address(5), 60), now);
        }
        assert_eq!(names.lookup(CELL, address(5), now).len(), MAX_PER_ADDRESS);
    }

    #[test]
    fn a_domain_that_may_have_been_crowded_out_waits() {
        let now = Instant::now();
        let mut names = Names::default();
        for n in 0..=MAX_PER_ADDRESS {
            let by = |names: &Names| names.judge_by(CELL, ip(1), "first.example", Some("mx.example"), now);
            assert_eq!(by(&names), None, "nobody told, and {n} others are told");
            let domain = Some(format!("{n}.example"));
            named(&mut names, NameNote { domain, ..note("mx.example", ip(1), 60) }, now);
            if n + 1 >= MAX_PER_ADDRESS {
                let name = by(&names).unwrap();
                assert_eq!((&*name.mx, name.secure, &*name.tlsa), ("mx.example", true, &TlsaFound::Failed));
                break;
            }
        }
    }

    #[test]
    fn a_cell_with_long_names_takes_no_more_memory() {
        let now = Instant::now();
        let mut names = Names::default();
        for n in 0..2 * MAX_BYTES / 500 {
            let long = format!("{n:0>250}");
            let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + u32::try_from(n % 1_000).unwrap()));
            let long = NameNote { domain: Some(long.clone()), ..note(&long, address, 60) };
            named(&mut names, long, now + Duration::from_micros(n as u64));
        }
        let cell = &names.cells[&CELL];
        let kept: usize = cell.addresses.values().flatten().map(cell::Told::bytes).sum();
        assert!(kept == cell.bytes && kept <= MAX_BYTES && kept > MAX_BYTES / 2, "{kept}");
    }

    #[test]
    fn records_and_policies_are_bounded_in_number_and_in_bytes() {
        let now = Instant::now();
        let mut names = Names::default();
        for n in 0..2 * MAX_FACTS {
            names.note(tlsa(&format!("mx{n}.example.org"), records()), now + Duration::from_micros(n as u64));
            let found = policy((0..100).map(|m| format!("{m}{}", "x".repeat(200))).collect());
            names.note(Note::Sts(StsNote { cell: CELL, domain: format!("{n}.example.org"), found }), now);
        }
        let cell = &names.cells[&CELL];
        assert_eq!(cell.tlsa.by_name.len(), MAX_FACTS);
        assert!(cell.tlsa.get("mx0.example.org", now).is_none(), "the oldest made room");
        let kept: usize = cell.sts.by_name.values().map(|fact| fact.bytes).sum();
        assert!(kept == cell.sts.bytes && kept <= MAX_FACTS_BYTES && kept > MAX_FACTS_BYTES / 2, "{kept}");
    }
}
