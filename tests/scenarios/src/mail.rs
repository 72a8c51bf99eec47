//! Sending as ordinary programs do, by lettre: a mail user at the front door, another MTA at the receiver.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use lettre::address::Envelope;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use lettre::{Address, SmtpTransport, Transport};
use warren_lab::{Lab, map};

use crate::on;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The two front doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 587: STARTTLS, then AUTH.
    Submission,
    /// 465: TLS from the first byte.
    Submissions,
}

impl Port {
    /// Its number.
    pub fn number(self) -> u16 {
        match self {
            Port::Submission => 587,
            Port::Submissions => 465,
        }
    }
}

/// Submits a message from the lab's client through the node's front door. `raw` must end in CRLF.
pub fn submit(
    lab: &Lab,
    port: Port,
    (login, password): (&str, &str),
    from: &str,
    to: &[&str],
    raw: &[u8],
) -> anyhow::Result<Response> {
    let tls = parameters()?;
    let transport = SmtpTransport::builder_dangerous(map::NODE[0].to_string())
        .port(port.number())
        .tls(if port == Port::Submission { Tls::Required(tls) } else { Tls::Wrapper(tls) })
        .credentials(Credentials::new(login.to_owned(), password.to_owned()))
        .authentication(vec![Mechanism::Plain]);
    send(lab, transport, from, to, raw)
}

/// Delivers a message to the node's receiver as another MTA would, from the lab's client. An empty `from` is the null reverse-path.
pub fn inject(lab: &Lab, from: &str, to: &[&str], raw: &[u8]) -> anyhow::Result<Response> {
    let receiver = SocketAddr::from((map::NODE[0], 25));
    let transport = SmtpTransport::builder_dangerous(receiver.ip().to_string())
        .port(receiver.port())
        .tls(Tls::Opportunistic(parameters()?));
    send(lab, transport, from, to, raw)
}

fn send(
    lab: &Lab,
    transport: lettre::transport::smtp::SmtpTransportBuilder,
    from: &str,
    to: &[&str],
    raw: &[u8],
) -> anyhow::Result<Response> {
    let recipients = to.iter().map(|to| address(to)).collect::<anyhow::Result<Vec<_>>>()?;
    let sender = if from.is_empty() { None } else { Some(address(from)?) };
    let envelope = Envelope::new(sender, recipients).context("make the envelope")?;
    // lettre puts CRLF before the final dot, whatever the content ends with.
    let content = raw.strip_suffix(b"\r\n").context("the message does not end in CRLF")?;
    ensure!(!content.is_empty(), "an empty message");
    let transport = transport
        .hello_name(ClientId::Domain("client.lab.example".to_owned()))
        .timeout(Some(PATIENCE))
        .pool_config(lettre::transport::smtp::PoolConfig::new().max_size(1))
        .build();
    on(lab, "client", || transport.send_raw(&envelope, content).context("send"))
}

fn address(text: &str) -> anyhow::Result<Address> {
    let (user, domain) = text.rsplit_once('@').with_context(|| format!("{text:?} is no address"))?;
    Address::new(user, domain).with_context(|| format!("{text:?} is no address"))
}

/// The node signs its own certificate; what scenarios check is that mail goes over TLS at all.
fn parameters() -> anyhow::Result<TlsParameters> {
    let name = IpAddr::from(map::NODE[0]).to_string();
    let parameters = TlsParameters::builder(name)
        .dangerous_accept_invalid_certs(true)
        .dangerous_accept_invalid_hostnames(true)
        .build_rustls();
    parameters.context("set up TLS")
}
