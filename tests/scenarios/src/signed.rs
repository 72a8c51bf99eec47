//! A lab whose DNS is signed: BIND answers for all of it, in the client's place.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use warren_lab::signed::{Signed, Signing, Zone};
use warren_lab::{Event, Lab, LabConfig, Persona, Record, RecordData, Tls, map};

use crate::inside;

/// How long mail may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// A TLSA record of no key.
pub const NO_KEY: &str = "3 1 1 0000000000000000000000000000000000000000000000000000000000000000";

/// A lab, and what secures it.
#[derive(Debug)]
pub struct World {
    /// The lab.
    pub lab: Lab,
    /// BIND.
    pub signed: Signed,
    directory: TempDir,
}

/// A host that takes everything for this domain; the last number of its address.
pub fn host(domain: &str, last: u8, tls: Tls) -> Persona {
    Persona { tls, ..Persona::new(domain, [198, 51, 100, last].into(), &[domain]) }
}

/// A signed domain whose MX is the persona of the same name.
pub fn mail(name: &str, last: u8, signing: Signing, tlsa: &str) -> Zone {
    let records = format!("@ MX 10 mx1.{name}.\nmx1 A 198.51.100.{last}\n_25._tcp.mx1 TLSA {tlsa}\n");
    Zone::new(name, signing, &records)
}

/// The lab's own domains.
fn unsigned(config: &LabConfig) -> Zone {
    let lines = map::records(config).into_iter().filter(|record| record.name.ends_with(".example"));
    let lines = lines.filter_map(|Record { name, data }| match data {
        RecordData::A(address) => Some(format!("{name}. A {address}\n")),
        RecordData::Aaaa(address) => Some(format!("{name}. AAAA {address}\n")),
        RecordData::Mx(preference, exchange) => {
            Some(format!("{name}. MX {preference} {}.\n", exchange.trim_matches('.')))
        }
        RecordData::Txt(text) => Some(format!("{name}. TXT \"{text}\"\n")),
        RecordData::Cname(_) | RecordData::Ptr(_) | RecordData::ServFail => None,
    });
    Zone::new("example", Signing::Unsigned, &lines.collect::<String>())
}

impl World {
    /// Signs the zones that `zones` makes for the lab's keys.
    pub fn new(config: &LabConfig, zones: impl FnOnce(&Lab) -> Vec<Zone>) -> Self {
        let lab = Lab::start_with(config).unwrap();
        let directory = tempfile::tempdir().unwrap();
        // The node's unprivileged programs pass through here.
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(directory.path().join("ca.pem"), lab.authority_pem()).unwrap();
        let home = directory.path().join("named");
        std::fs::create_dir(&home).unwrap();
        let package = warren_lab::mta::cache().unwrap().join("bind9");
        assert!(package.exists(), "run tests/lab/packages");
        let mut all = vec![Zone::new("", Signing::Right, ""), Zone::new("test", Signing::Right, ""), unsigned(config)];
        all.extend(zones(&lab));
        let signed = inside(&lab.namespace("client").unwrap(), || {
            Signed::start(&package, &home, SocketAddrV4::new(map::CLIENT, 53), &all, &[]).unwrap()
        });
        Self { lab, signed, directory }
    }

    /// The certificate of the lab's authority.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Waits for a message for bob there.
    pub fn arrived(&self, domain: &str, subject: &str) {
        let fits = |m: &warren_lab::Message| m.header("Subject").as_deref() == Some(subject);
        self.lab.mailbox(domain, "bob").wait_for(fits, PATIENCE).unwrap();
    }

    /// What this persona saw and heard.
    pub fn log(&self, persona: &str) -> Vec<Event> {
        self.lab.persona_log(persona).unwrap().into_iter().map(|entry| entry.event).collect()
    }

    /// How often somebody came to this persona.
    pub fn sessions(&self, persona: &str) -> usize {
        self.log(persona).iter().filter(|event| **event == Event::Connected).count()
    }

    /// This persona knows of nobody whose mail was kept back, and has none of it.
    pub fn heard_of_no_recipient(&self, persona: &str) {
        let log = self.log(persona);
        let recipient = |event: &Event| match event {
            Event::Command(line) => line.to_ascii_uppercase().starts_with("RCPT"),
            Event::Content(_) => true,
            _ => false,
        };
        assert!(!log.iter().any(recipient), "{persona}: {log:?}");
        assert!(self.lab.mailbox(persona, "bob").messages().unwrap().is_empty(), "{persona}");
    }
}
