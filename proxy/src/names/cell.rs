//! What one cell was told: which names its addresses have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use super::facts::Facts;
use super::{Name, NameNote, keep};
use crate::tls::{StsFound, TlsaFound};

/// Most addresses remembered per cell.
pub const MAX_PER_CELL: usize = 2048;
/// Most names remembered for one address: big providers serve many domains from one.
pub const MAX_PER_ADDRESS: usize = 32;
/// Most bytes that the names of a cell take, about: some 5,000 of usual length.
pub const MAX_BYTES: usize = 1 << 20;
/// What a name takes beside its text.
const TOLD: usize = 96;

/// One cell.
#[derive(Debug, Default)]
pub(super) struct Cell {
    pub(super) addresses: HashMap<IpAddr, Vec<Told>>,
    /// That `addresses` take.
    pub(super) bytes: usize,
    pub(super) tlsa: Facts<TlsaFound>,
    pub(super) sts: Facts<StsFound>,
}

/// What a [`NameNote`] leaves behind.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) mx: String,
    pub(super) domain: Option<String>,
    pub(super) secure: bool,
    until: Instant,
}

impl Told {
    pub(super) fn bytes(&self) -> usize {
        TOLD + self.mx.len() + self.domain.as_ref().map_or(0, String::len)
    }
}

impl Cell {
    /// Takes a note; the latest of an address comes first.
    pub(super) fn named(&mut self, note: NameNote, now: Instant) {
        let address = note.address.to_canonical();
        let mut told = self.take(address);
        told.retain(|told| told.until > now && (told.mx != note.mx || told.domain != note.domain));
        let until = now + keep(note.ttl_s);
        told.insert(0, Told { mx: note.mx, domain: note.domain, secure: note.secure, until });
        told.truncate(MAX_PER_ADDRESS);
        let bytes = told.iter().map(Told::bytes).sum::<usize>();
        self.make_room(bytes, now);
        self.bytes += bytes;
        self.addresses.insert(address, told);
    }

    /// What an address was told to be.
    pub(super) fn told(&self, address: IpAddr, now: Instant) -> impl Iterator<Item = &Told> {
        self.addresses.get(&address.to_canonical()).into_iter().flatten().filter(move |told| told.until > now)
    }

    /// A name, and what is known of it.
    pub(super) fn name(&self, told: &Told, now: Instant) -> Name {
        // The word about them comes before the name does: without it nobody can tell what there is, so mail waits (RFC 7672 §2.1.2).
        let lost = || if told.secure { FAILED.clone() } else { Arc::default() };
        Name {
            mx: told.mx.clone(),
            domain: told.domain.clone(),
            secure: told.secure,
            tlsa: self.tlsa.get(&told.mx, now).unwrap_or_else(lost),
            sts: told.domain.as_ref().and_then(|domain| self.sts.get(domain, now)).unwrap_or_default(),
        }
    }

    /// What is to be thought of a domain that `address` has no name of, if it has as many as are remembered.
    pub(super) fn crowded_out(&self, address: IpAddr, dialled: Option<&str>, now: Instant) -> Option<Name> {
        let (first, count) = (self.told(address, now).next()?, self.told(address, now).count());
        (count >= MAX_PER_ADDRESS).then(|| Name {
            mx: dialled.map_or_else(|| first.mx.clone(), ToOwned::to_owned),
            domain: None,
            secure: true,
            tlsa: FAILED.clone(),
            sts: Arc::default(),
        })
    }

    /// Drops what is past its time, then the addresses that have waited longest, until one more of this size fits.
    fn make_room(&mut self, bytes: usize, now: Instant) {
        let full = |cell: &Self| cell.addresses.len() >= MAX_PER_CELL || cell.bytes + bytes > MAX_BYTES;
        let last = |told: &[Told]| told.iter().map(|told| told.until).max();
        if full(self) {
            let past = self.addresses.iter().filter(|(_, told)| last(told).is_none_or(|until| until <= now));
            let past: Vec<IpAddr> = past.map(|(address, _)| *address).collect();
            past.into_iter().for_each(|address| _ = self.take(address));
        }
        while full(self) {
            let oldest = self.addresses.iter().min_by_key(|(_, told)| last(told)).map(|(address, _)| *address);
            let Some(oldest) = oldest else { break };
            self.take(oldest);
        }
    }

    fn take(&mut self, address: IpAddr) -> Vec<Told> {
        let told = self.addresses.remove(&address).unwrap_or_default();
        self.bytes -= told.iter().map(Told::bytes).sum::<usize>();
        told
    }
}

static FAILED: LazyLock<Arc<TlsaFound>> = LazyLock::new(|| Arc::new(TlsaFound::Failed));
