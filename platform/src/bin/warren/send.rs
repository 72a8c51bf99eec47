//! `warren send`: submits a message file as a mail user's program would, by lettre.
//!
//! The message goes out as it is in the file, with two exceptions that SMTP forces: lines end with CRLF, and the last
//! one too. Exit status: 0 accepted, 1 refused for good, 75 (EX_TEMPFAIL) worth another try.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use lettre::Transport;
use lettre::address::{Address, Envelope};
use lettre::transport::smtp::SmtpTransport;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use warren_daemon::escape;

use crate::tell;

#[derive(clap::Args)]
pub struct Arguments {
    /// The front door
    #[arg(long, value_name = "HOST:PORT")]
    server: String,
    #[command(flatten)]
    way: Way,
    /// Envelope sender; empty for the null reverse-path
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// Envelope recipient; may be given more than once
    #[arg(long, value_name = "ADDRESS", required = true)]
    to: Vec<String>,
    /// The message, headers and body
    file: PathBuf,
}

/// How a server is spoken to.
#[derive(clap::Args)]
pub struct Way {
    /// How TLS begins [default: implicit on port 465, else starttls]
    #[arg(long, value_enum)]
    tls: Option<Security>,
    /// The name that the certificate must have [default: the server's]
    #[arg(long, value_name = "NAME")]
    tls_name: Option<String>,
    /// Take any certificate: passwords may be read by whoever sits between
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// Trust the certificates in this PEM file, and no others
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Login; without it nothing is authenticated
    #[arg(long, value_name = "LOGIN")]
    user: Option<String>,
    /// File whose first line is the password [default: the variable WARREN_PASSWORD]
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// How long to wait for the server at each step
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = warren_config::parse_duration)]
    timeout: Duration,
}

/// How a session becomes encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Security {
    /// By the STARTTLS command
    Starttls,
    /// From the first byte
    Implicit,
    /// Not at all; passwords are not sent then
    None,
}

/// EX_TEMPFAIL of sysexits.h.
const TEMPORARY: u8 = 75;

/// Why a message was not accepted, by what the caller can do.
#[derive(Debug)]
pub enum Failure {
    Permanent(anyhow::Error),
    Temporary(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Permanent(error)
    }
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let (error, status) = match send(arguments) {
        Ok(response) => match tell::line(&escape(&reply(&response))) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (error, ExitCode::FAILURE),
        },
        Err(Failure::Permanent(error)) => (error, ExitCode::FAILURE),
        Err(Failure::Temporary(error)) => (error, ExitCode::from(TEMPORARY)),
    };
    tell::error(&error);
    status
}

fn send(arguments: &Arguments) -> Result<Response, Failure> {
    let message = message(&arguments.file)?;
    let envelope = envelope(&arguments.from, &arguments.to)?;
    submit(&arguments.way.transport(&arguments.server)?, &arguments.server, &envelope, &message)
}

/// Submits a message whose lines end in CRLF.
pub fn submit(
    transport: &SmtpTransport,
    server: &str,
    envelope: &Envelope,
    message: &[u8],
) -> Result<Response, Failure> {
    transport.send_raw(envelope, without_last_line_end(message)).map_err(|error| failure(server, &error))
}

impl Way {
    /// The login, if there is one.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Gives the certificate's name where the command line does not.
    pub fn expect_name(&mut self, name: &str) {
        self.tls_name.get_or_insert_with(|| name.to_owned());
    }

    /// The way to a server, `HOST:PORT`.
    pub fn transport(&self, server: &str) -> anyhow::Result<SmtpTransport> {
        let (host, port) = self::server(server)?;
        let security = self.tls.unwrap_or(if port == 465 { Security::Implicit } else { Security::Starttls });
        let mut transport = SmtpTransport::builder_dangerous(host.as_str())
            .port(port)
            .timeout(Some(self.timeout))
            .hello_name(hello_name())
            .tls(tls(self, &host, security)?);
        if let Some(user) = &self.user {
            if security == Security::None {
                bail!("a password does not travel in the clear: use --tls starttls or --tls implicit");
            }
            transport = transport.credentials(Credentials::new(user.clone(), password(self.password_file.as_deref())?));
        }
        Ok(transport.build())
    }
}

/// lettre ends the data with CRLF, dot, CRLF whatever stands before: with its own line end, a message would grow by an
/// empty line.
fn without_last_line_end(message: &[u8]) -> &[u8] {
    message.strip_suffix(b"\r\n").unwrap_or(message)
}

/// The message as SMTP carries it. Files have lines that end in LF or CRLF; a CR alone cannot be carried.
fn message(file: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    if bytes.is_empty() {
        bail!("{}: empty, expected a message", file.display());
    }
    canonical(&bytes).map_err(|line| anyhow!("{}:{line}: a CR without LF, which SMTP cannot carry", file.display()))
}

/// Lines ended by CRLF, the last one too; or the number of a line that holds a CR of its own.
fn canonical(bytes: &[u8]) -> Result<Vec<u8>, usize> {
    let mut message = Vec::with_capacity(bytes.len() + bytes.len() / 32 + 2);
    for (index, line) in bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.contains(&b'\r') {
            return Err(index + 1);
        }
        message.extend_from_slice(line);
        message.extend_from_slice(b"\r\n");
    }
    Ok(message)
}

pub fn envelope(from: &str, to: &[String]) -> anyhow::Result<Envelope> {
    let address = |option: &str, text: &str| -> anyhow::Result<Address> {
        text.parse().map_err(|error| anyhow!("{option} {text:?} is not an address: {error}"))
    };
    let from = if from.is_empty() || from == "<>" { None } else { Some(address("--from", from)?) };
    let to = to.iter().map(|text| address("--to", text)).collect::<Result<_, _>>()?;
    Envelope::new(from, to).context("envelope")
}

/// Host and port; an IPv6 address stands in brackets.
fn server(text: &str) -> anyhow::Result<(String, u16)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), address.port()));
    }
    let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    match parsed {
        Some((host, port)) if !host.is_empty() && !host.contains(':') => Ok((host, port)),
        _ => bail!("--server {text:?}: expected HOST:PORT, such as mail.example.net:587"),
    }
}

fn tls(way: &Way, host: &str, security: Security) -> anyhow::Result<Tls> {
    if security == Security::None {
        return Ok(Tls::None);
    }
    let mut parameters = TlsParameters::builder(way.tls_name.clone().unwrap_or_else(|| host.to_owned()));
    if way.insecure {
        parameters = parameters.dangerous_accept_invalid_certs(true).dangerous_accept_invalid_hostnames(true);
    }
    if let Some(file) = &way.ca {
        let pem = fs::read(file).with_context(|| format!("--ca {}", file.display()))?;
        let certificate = Certificate::from_pem(&pem)
            .with_context(|| format!("--ca {}: expected certificates in PEM form", file.display()))?;
        parameters = parameters.certificate_store(CertificateStore::None).add_root_certificate(certificate);
    }
    let parameters = parameters.build().context("TLS settings")?;
    Ok(if security == Security::Implicit { Tls::Wrapper(parameters) } else { Tls::Required(parameters) })
}

/// What a mail program says in EHLO: its address is more than the server needs to know.
fn hello_name() -> ClientId {
    ClientId::Domain("localhost".into())
}

fn password(file: Option<&Path>) -> anyhow::Result<String> {
    let text = match file {
        Some(file) => fs::read_to_string(file).with_context(|| format!("--password-file {}", file.display()))?,
        None => std::env::var("WARREN_PASSWORD")
            .map_err(|_| anyhow!("--user needs a password: give --password-file FILE, or set WARREN_PASSWORD"))?,
    };
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.into()),
        _ => bail!("the password is empty"),
    }
}

/// The reply as one line: `250 2.0.0 queued as …`.
fn reply(response: &Response) -> String {
    format!("{} {}", response.code(), response.message().collect::<Vec<_>>().join(" "))
}

fn failure(server: &str, error: &lettre::transport::smtp::Error) -> Failure {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let cause = cause.lines().collect::<Vec<_>>().join(" ");
    match error.status() {
        Some(code) if error.is_permanent() => Failure::Permanent(anyhow!("refused: {code} {cause}")),
        Some(code) => Failure::Temporary(anyhow!("not accepted now: {code} {cause}")),
        None if error.is_tls() => Failure::Permanent(anyhow!("TLS with {server}: {cause}")),
        None if error.is_client() || error.is_response() => Failure::Permanent(anyhow!("{server}: {error}")),
        None if certificate_refused(error) => Failure::Permanent(anyhow!(
            "TLS with {server}: {cause}; trust its certificate by --ca FILE, or take any by --insecure"
        )),
        None => Failure::Temporary(anyhow!("{server}: {cause}")),
    }
}

/// rustls reports a certificate that does not verify as an I/O error of this kind.
fn certificate_refused(error: &lettre::transport::smtp::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_in_crlf_and_nothing_else_changes() {
        assert_eq!(canonical(b"A: b\n\n.x\n").unwrap(), b"A: b\r\n\r\n.x\r\n");
        assert_eq!(canonical(b"A: b\r\n\r\nx").unwrap(), b"A: b\r\n\r\nx\r\n");
        assert_eq!(canonical(b"A: b\r\n\n\n").unwrap(), b"A: b\r\n\r\n\r\n");
        assert_eq!(canonical("\u{85}\0\u{2028}é\n".as_bytes()).unwrap(), "\u{85}\0\u{2028}é\r\n".as_bytes());
        assert_eq!(canonical(b"A: b\n\nx\ry\n"), Err(3));
    }

    #[test]
    fn servers_are_host_and_port() {
        assert_eq!(server("mail.example.net:587").unwrap(), ("mail.example.net".into(), 587));
        assert_eq!(server("[2001:db8::1]:465").unwrap(), ("2001:db8::1".into(), 465));
        for text in ["mail.example.net", ":25", "2001:db8::1", "host:99999"] {
            assert!(server(text).is_err(), "{text}");
        }
    }
}
