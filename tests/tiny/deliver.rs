//! Out: MX lookup at the resolver door, SMTP to port 25, bounces.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::control::Settings;
use crate::queue::Message;
use crate::session::date;
use crate::{Msa, now_ms};

const RESOLVER: &str = "127.0.0.53:53";

/// What became of a recipient.
enum Fate {
    Delivered,
    Later,
    Never(String),
}

/// Tries all that is due. Answers whether there was anything.
pub fn due_messages(msa: &Msa, settings: &Settings) -> bool {
    let due: Vec<Message> = msa.queue.all(true).into_iter().filter(|message| message.due <= now_ms()).collect();
    for message in &due {
        attempt(msa, settings, message.clone());
    }
    !due.is_empty()
}

fn attempt(msa: &Msa, settings: &Settings, mut message: Message) {
    let mut domains: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for to in &message.to {
        let domain = to.rsplit_once('@').map_or("", |(_, domain)| domain).to_ascii_lowercase();
        domains.entry(domain).or_default().push(to.clone());
    }
    let expired = now_ms() >= message.born + settings.expire_ms;
    let (mut later, mut never) = (Vec::new(), Vec::new());
    for (domain, recipients) in domains {
        let fates = to_domain(settings, &domain, &message, &recipients);
        for (recipient, fate) in recipients.into_iter().zip(fates) {
            match fate {
                Fate::Delivered => {}
                Fate::Later if expired => never.push((recipient, "it could not be delivered in time".to_owned())),
                Fate::Later => later.push(recipient),
                Fate::Never(why) => never.push((recipient, why)),
            }
        }
    }
    if !never.is_empty() && !message.from.is_empty() && bounce(msa, settings, &message, &never).is_err() {
        // Nobody would hear of it: it stays.
        later.extend(never.into_iter().map(|(recipient, _)| recipient));
    }
    if later.is_empty() {
        return msa.queue.remove(&message.id);
    }
    let wait =
        (0..message.attempts).fold(settings.first_ms, |wait, _| wait.saturating_mul(settings.factor_percent) / 100);
    message.attempts = message.attempts.saturating_add(1);
    message.due = now_ms() + wait.min(settings.max_ms);
    message.to = later;
    // As it was is as good: it is tried again.
    let _ = msa.queue.write(&message);
}

fn bounce(msa: &Msa, settings: &Settings, message: &Message, never: &[(String, String)]) -> io::Result<String> {
    let why: String = never.iter().map(|(recipient, why)| format!("{recipient}: {why}\r\n")).collect();
    let text = format!(
        "From: Mail Delivery System <postmaster@{}>\r\nTo: <{}>\r\nSubject: Undelivered mail\r\nDate: {}\r\nAuto-Submitted: auto-replied\r\n\r\n{why}",
        settings.hostname,
        message.from,
        date(now_ms() / 1000)
    );
    msa.queue.add(String::new(), vec![message.from.clone()], text.into_bytes())
}

fn to_domain(settings: &Settings, domain: &str, message: &Message, recipients: &[String]) -> Vec<Fate> {
    for host in mx_hosts(domain) {
        for address in addresses(&host) {
            if let Ok(fates) = to_host(settings, address, message, recipients) {
                return fates;
            }
        }
    }
    recipients.iter().map(|_| Fate::Later).collect()
}

/// An error means: the next host.
fn to_host(settings: &Settings, address: IpAddr, message: &Message, recipients: &[String]) -> io::Result<Vec<Fate>> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(address, 25), Duration::from_secs(60))?;
    stream.set_read_timeout(Some(Duration::from_secs(300)))?;
    let mut smtp = BufReader::new(stream);
    let good = |code: u16| if code < 400 { Ok(()) } else { Err(io::Error::other("refused")) };
    good(reply(&mut smtp)?.0)?;
    good(command(&mut smtp, &format!("EHLO {}", settings.hostname))?.0)?;
    let mail = command(&mut smtp, &format!("MAIL FROM:<{}>", message.from))?;
    let fate = |(code, text): &(u16, String)| match code / 100 {
        2 => Fate::Delivered,
        5 => Fate::Never(text.clone()),
        _ => Fate::Later,
    };
    if mail.0 >= 400 {
        return Ok(recipients.iter().map(|_| fate(&mail)).collect());
    }
    let mut fates = Vec::new();
    for recipient in recipients {
        fates.push(fate(&command(&mut smtp, &format!("RCPT TO:<{recipient}>"))?));
    }
    if fates.iter().any(|fate| matches!(fate, Fate::Delivered)) {
        let mut end = command(&mut smtp, "DATA")?;
        if end.0 == 354 {
            let mut content = Vec::with_capacity(message.content.len() + 5);
            for line in message.content.split_inclusive(|byte| *byte == b'\n') {
                content.extend(line.starts_with(b".").then_some(b'.'));
                content.extend_from_slice(line);
            }
            content.extend_from_slice(if content.ends_with(b"\r\n") { b".\r\n" } else { b"\r\n.\r\n" });
            smtp.get_mut().write_all(&content)?;
            // Lost from here on: tried again, perhaps twice delivered, never lost.
            end = reply(&mut smtp)?;
        }
        fates.iter_mut().filter(|f| matches!(f, Fate::Delivered)).for_each(|f| *f = fate(&end));
    }
    let _ = command(&mut smtp, "QUIT");
    Ok(fates)
}

fn command(smtp: &mut BufReader<TcpStream>, line: &str) -> io::Result<(u16, String)> {
    smtp.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
    reply(smtp)
}

fn reply(smtp: &mut BufReader<TcpStream>) -> io::Result<(u16, String)> {
    let mut text = String::new();
    for _ in 0..100 {
        let mut line = Vec::new();
        smtp.by_ref().take(2048).read_until(b'\n', &mut line)?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let code = line.get(..3).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        text.push_str(&line);
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok((code, text));
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Names of MX hosts in their order; the domain itself when it has none (RFC 5321 §5.1).
fn mx_hosts(domain: &str) -> Vec<String> {
    let mut found: Vec<(u16, String)> = ask(domain, 15)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(packet, at, _)| {
            Some((u16::from_be_bytes([packet[at], packet[at + 1]]), name(&packet, at + 2)?.0))
        })
        .collect();
    found.sort();
    if found.is_empty() { vec![domain.to_owned()] } else { found.into_iter().map(|(_, host)| host).collect() }
}

fn addresses(host: &str) -> Vec<IpAddr> {
    let records = ask(host, 1).unwrap_or_default();
    let v4 = records.into_iter().filter(|(_, _, length)| *length == 4);
    v4.map(|(packet, at, _)| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]).into()).collect()
}

/// Records of the type asked for: the whole packet, where their data begins, and its length.
fn ask(host: &str, kind: u16) -> io::Result<Vec<(Vec<u8>, usize, usize)>> {
    let mut query = vec![0x77, 0x07, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in host.trim_end_matches('.').split('.') {
        query.push(u8::try_from(label.len()).map_err(|_| io::ErrorKind::InvalidInput)?);
        query.extend(label.bytes());
    }
    query.push(0);
    query.extend([kind.to_be_bytes(), [0, 1]].concat());
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(RESOLVER)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.send(&query)?;
    let mut packet = vec![0; 4096];
    let length = socket.recv(&mut packet)?;
    packet.truncate(length);
    // Room behind, so that a record that lies about its length is not looked for past the end.
    packet.resize(length + 512, 0);
    let answers = u16::from_be_bytes([packet[6], packet[7]]);
    let (mut at, mut found) = (query.len(), Vec::new());
    for _ in 0..answers {
        let (_, after) = name(&packet, at).ok_or(io::ErrorKind::InvalidData)?;
        let field = |at: usize| packet.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        let (record, size) = (field(after), usize::from(field(after + 8)));
        at = after + 10 + size;
        if at > length {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if record == kind {
            found.push((packet.clone(), after + 10, size));
        }
    }
    Ok(found)
}

/// A name, and where it ends.
fn name(packet: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut name, mut end) = (String::new(), None);
    for _ in 0..128 {
        match usize::from(*packet.get(at)?) {
            0 => return Some((name, end.unwrap_or(at + 1))),
            length @ 1..64 => {
                name.push_str(std::str::from_utf8(packet.get(at + 1..at + 1 + length)?).ok()?);
                name.push('.');
                at += 1 + length;
            }
            length => {
                end.get_or_insert(at + 2);
                at = (length & 0x3f) << 8 | usize::from(*packet.get(at + 1)?);
            }
        }
    }
    None
}
