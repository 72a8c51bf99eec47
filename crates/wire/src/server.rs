//! The server's side of TLS: whose certificate, and how it comes to be.
//!
//! A node that was given no certificate makes one for itself, once, so that passwords never travel in the clear while
//! the operator has not yet got one from an authority. Each program has its own (they run as different users and share
//! no key).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// File with the self-signed certificate and its key, mode 0600.
const SELF_SIGNED: &str = "self-signed.pem";

/// File with the certificate alone, for clients that want to trust it.
const CERTIFICATE: &str = "certificate.pem";

/// Why there is no usable certificate.
#[derive(Debug, Error)]
pub enum ServerTlsError {
    /// A file could not be read.
    #[error("{file}: {source}", file = file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else than was expected.
    #[error("{file}: {problem}", file = file.display())]
    Content {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key are not a pair, or of a kind that cannot be used.
    #[error("certificate {certificate} with key {key}: {source}", certificate = certificate.display(), key = key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// The self-signed certificate could not be made.
    #[error("making a self-signed certificate for {name}: {problem}")]
    Make {
        /// The name it would be for.
        name: String,
        /// What went wrong.
        problem: String,
    },
    /// The self-signed certificate could not be stored.
    #[error("storing a self-signed certificate at {file}: {source}", file = file.display())]
    Store {
        /// Where it should be.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Server configuration from a PEM chain (own certificate first) and its PEM key: TLS 1.2 and later, with session
/// tickets, no client certificates.
pub fn from_files(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, ServerTlsError> {
    let chain = read_chain(certificate)?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| content(key, "a private key in PEM form", &error))?;
    let pair = |source| ServerTlsError::Pair { certificate: certificate.into(), key: key.into(), source };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)?;
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(pair)?;
    Ok(Arc::new(config))
}

/// Server configuration with a self-signed certificate for `hostname`, kept in `directory` (which exists) and made
/// there if it is not there yet. With `owner` (uid, gid) the files are given to that user; otherwise they belong to the
/// caller.
///
/// Safe to call from several processes at once: the first one's certificate is everybody's.
pub fn self_signed(
    directory: &Path,
    hostname: &str,
    owner: Option<(u32, u32)>,
) -> Result<Arc<ServerConfig>, ServerTlsError> {
    let pair = directory.join(SELF_SIGNED);
    if !pair.exists() {
        make(&pair, hostname, owner)?;
    }
    let certificate = directory.join(CERTIFICATE);
    if !certificate.exists() {
        store(&certificate, &certificate_part(&pair)?, 0o644, owner)
            .map_err(|source| ServerTlsError::Store { file: certificate, source })?;
    }
    from_files(&pair, &pair)
}

fn make(pair: &Path, hostname: &str, owner: Option<(u32, u32)>) -> Result<(), ServerTlsError> {
    let made = rcgen::generate_simple_self_signed([hostname.to_owned()])
        .map_err(|error| ServerTlsError::Make { name: hostname.into(), problem: error.to_string() })?;
    let pem = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
    store(pair, pem.as_bytes(), 0o600, owner).map_err(|source| ServerTlsError::Store { file: pair.into(), source })
}

/// Puts a whole file in place unless one is there already, through a name that only this process uses.
fn store(file: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let draft = file.with_extension(format!("{}.tmp", std::process::id()));
    let written = write_draft(&draft, bytes, mode, owner).and_then(|()| match fs::hard_link(&draft, file) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    // Absent when it could not even be made.
    let _ = fs::remove_file(&draft);
    written
}

fn write_draft(draft: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    // A draft of a process that died with our pid.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(draft)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    if let Some((uid, gid)) = owner {
        chown(draft, Some(uid), Some(gid))?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

fn read(file: &Path) -> Result<Vec<u8>, ServerTlsError> {
    fs::read(file).map_err(|source| ServerTlsError::Read { file: file.into(), source })
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, ServerTlsError> {
    let expected = "a chain of certificates in PEM form, the server's own first";
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(content(file, expected, &pem::Error::NoItemsFound)),
        Ok(chain) => Ok(chain),
        Err(error) => Err(content(file, expected, &error)),
    }
}

/// What stands before the key.
fn certificate_part(pair: &Path) -> Result<Vec<u8>, ServerTlsError> {
    let mut pem = read(pair)?;
    let expected = "a certificate and then its key, as this program wrote it";
    let key = memchr::memmem::find(&pem, b"-----BEGIN PRIVATE KEY")
        .ok_or_else(|| content(pair, expected, &pem::Error::NoItemsFound))?;
    pem.truncate(key);
    Ok(pem)
}

fn content(file: &Path, expected: &str, error: &pem::Error) -> ServerTlsError {
    let found = match error {
        pem::Error::NoItemsFound => "none is there".into(),
        other => other.to_string(),
    };
    ServerTlsError::Content { file: file.into(), problem: format!("expected {expected}: {found}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let pair = directory.path().join(SELF_SIGNED);
        self_signed(directory.path(), "mail.example.net", None).unwrap();
        let first = fs::read(&pair).unwrap();
        self_signed(directory.path(), "mail.example.net", None).unwrap();
        assert_eq!(fs::read(&pair).unwrap(), first);
        assert_eq!((mode(&pair), mode(&directory.path().join(CERTIFICATE))), (0o600, 0o644));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no draft is left");
        let public = fs::read_to_string(directory.path().join(CERTIFICATE)).unwrap();
        assert!(!public.contains("PRIVATE") && read_chain(&directory.path().join(CERTIFICATE)).unwrap().len() == 1);
    }

    #[test]
    fn the_first_of_two_makers_wins() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.pem");
        store(&file, b"first", 0o600, None).unwrap();
        store(&file, b"second", 0o600, None).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"first");
    }

    #[test]
    fn errors_name_the_file_and_what_it_should_hold() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
        let told = |c: &Path, k: &Path| {
            let text = from_files(c, k).unwrap_err().to_string();
            text.replace(&format!("{}/", directory.path().display()), "")
        };
        assert_eq!(told(&certificate, &key), "c.pem: No such file or directory (os error 2)");
        fs::write(&certificate, "hello").unwrap();
        assert_eq!(
            told(&certificate, &key),
            "c.pem: expected a chain of certificates in PEM form, the server's own first: none is there"
        );
        let one = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["b.example".to_owned()]).unwrap();
        fs::write(&certificate, one.cert.pem()).unwrap();
        fs::write(&key, one.cert.pem()).unwrap();
        assert_eq!(told(&certificate, &key), "k.pem: expected a private key in PEM form: none is there");
        fs::write(&key, other.signing_key.serialize_pem()).unwrap();
        assert!(
            told(&certificate, &key).starts_with("certificate c.pem with key k.pem: "),
            "{}",
            told(&certificate, &key)
        );
    }
}
