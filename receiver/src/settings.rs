//! What of the node's configuration the receiver uses, and its key.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use warren_config::Node;
use warren_smtp::Extensions;
use warren_smtp::server::ServerConfig;

use crate::srs::Srs;

/// What a connection costs at most: itself, its message in the spool, the ways to the platform and to the MSA, and a file that is read meanwhile.
const DESCRIPTORS_OF_A_CONNECTION: usize = 5;
/// What the receiver itself has open, at most a quarter of all.
const OWN_DESCRIPTORS: usize = 128;

/// Room for our own Received field within the SIZE that the MSA takes.
const TRACE_HEADROOM: u64 = 4_096;

/// Why the settings are not usable.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The configuration.
    #[error("{0}")]
    Config(#[from] warren_config::Problems),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] warren_wire::server::ServerTlsError),
    /// A directory that cannot be made.
    #[error("directory {}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The key of rewritten senders.
    #[error("SRS key {}: {source}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
}

/// How many remote MTAs are let in: as many as configured, if there are descriptors for them. The next one is told 421, which nobody could say for lack of
/// a descriptor.
fn connections(configured: u32, descriptors: usize) -> usize {
    let own = OWN_DESCRIPTORS.min(descriptors / 4);
    let most = ((descriptors - own) / DESCRIPTORS_OF_A_CONNECTION).max(1);
    usize::try_from(configured).unwrap_or(usize::MAX).min(most)
}

/// Everything a session needs to know; replaced as a whole at reload.
#[derive(Debug)]
pub struct Settings {
    /// Our name.
    pub hostname: String,
    /// What the server machine keeps to.
    pub server: ServerConfig,
    /// Our certificate.
    pub tls: Arc<rustls::ServerConfig>,
    /// The key of rewritten senders.
    pub srs: Srs,
    /// Received fields beyond which a message loops.
    pub hop_limit: u32,
    /// Most forward-paths handed over in one transaction.
    pub max_targets: usize,
    /// Sessions at once.
    pub connections: usize,
    /// Sessions at once of one address (IPv6: of one /64).
    pub connections_per_address: usize,
    /// Addresses of this node. Tenants that write to each other come from these, all of them together, so the limit of one address is
    /// not for them.
    pub own_addresses: Vec<IpAddr>,
    /// Where unlinked spool files live.
    pub spool: PathBuf,
}

impl Settings {
    /// Of a loaded configuration. Makes the receiver's directories, key and certificate if they are missing.
    pub fn of(node: &Node) -> Result<Self, SettingsError> {
        let own = node.paths.own("receiver");
        make_directory(&own)?;
        let tls = match &node.tls {
            Some(files) => warren_wire::server::from_files(&files.certificate, &files.key)?,
            None => {
                let directory = node.paths.tls_directory("receiver");
                make_directory(&directory)?;
                warren_wire::server::self_signed(&directory, &node.hostname, None)?
            }
        };
        let key = node.paths.srs_key();
        let srs = load_key(&key).map_err(|source| SettingsError::Key { path: key, source })?;
        let recipients = usize::try_from(node.limits.recipients).unwrap_or(usize::MAX);
        let extensions = Extensions {
            pipelining: true,
            size: Some(node.limits.message_size.saturating_sub(TRACE_HEADROOM).max(1)),
            eight_bit_mime: true,
            smtputf8: true,
            dsn: true,
            enhanced_status_codes: true,
            chunking: true,
            starttls: true,
            ..Extensions::default()
        };
        Ok(Self {
            hostname: node.hostname.clone(),
            server: ServerConfig { max_recipients: recipients, ..ServerConfig::new(node.hostname.clone(), extensions) },
            tls,
            srs,
            hop_limit: node.limits.hops,
            max_targets: recipients,
            connections: connections(node.limits.connections, warren_daemon::descriptors()),
            connections_per_address: usize::try_from(node.limits.connections_per_address).unwrap_or(usize::MAX),
            own_addresses: node.egress.addresses.clone(),
            spool: own,
        })
    }
}

fn make_directory(path: &Path) -> Result<(), SettingsError> {
    fs::create_dir_all(path).map_err(|source| SettingsError::Directory { path: path.to_owned(), source })
}

/// Reads the secrets, one a line, newest first; makes one if the file is missing.
fn load_key(path: &Path) -> io::Result<Srs> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_key(path)?;
            fs::read_to_string(path)?
        }
        other => other?,
    };
    // Shorter ones are a mistake: an address could be forged by trying.
    let secrets: Vec<&[u8]> = text.lines().map(str::trim).filter(|line| line.len() >= 32).map(str::as_bytes).collect();
    Srs::new(secrets)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "expected lines of at least 32 characters"))
}

/// Whole or not at all: a key that changes makes every rewritten address worthless.
fn make_key(path: &Path) -> io::Result<()> {
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            // Another process was first; its key is everybody's.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    })();
    // Absent if it could not even be made.
    let _ = fs::remove_file(&draft);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_let_in_for_whom_there_are_no_descriptors() {
        assert_eq!(connections(1_000, 20_000), 1_000);
        assert_eq!(connections(1_000, 1_024), 179);
        assert_eq!(connections(1_000, 0), 1);
    }

    #[test]
    fn the_key_is_made_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("srs.key");
        load_key(&path).unwrap();
        let first = fs::read_to_string(&path).unwrap();
        load_key(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
        assert_eq!(first.len(), 65);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no draft is left");
        fs::write(&path, "short\n").unwrap();
        assert!(load_key(&path).is_err());
    }
}
