//! A session to record, always the same.
#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;
use warren_launcher_api::{CellId, TenantName};

use warren_session::{
    Dialled, Dir, Door, Exchange, Mail, Message, Outcome, Record, Recorder, RecorderSettings, SessionEnd, SessionId,
    SessionLog, SessionStart, Stats, TlsFacts,
};

/// Longer than anything here takes.
pub const LONG: Duration = Duration::from_secs(30);

/// 2026-11-21T22:14:54.123456Z and so many seconds.
pub fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_299_294_123_456) + Duration::from_secs(seconds)
}

pub fn start(id: SessionId, tenant: &str) -> SessionStart {
    SessionStart {
        id,
        tenant: TenantName::new(tenant).unwrap(),
        cell: Some(CellId(7)),
        door: Door::Cell,
        mx: "198.51.100.10:25".parse().unwrap(),
        mx_name: Some("mx1.postfix.example".into()),
        mx_operator: None,
        at: id.time(),
    }
}

pub fn dialled(at_us: u64) -> Dialled<'static> {
    Dialled {
        at_us,
        egress: "203.0.113.11".parse().unwrap(),
        ehlo_name: "out1.warren.example",
        decision: r#"{"reason":"round robin"}"#,
    }
}

pub fn tls() -> TlsFacts {
    TlsFacts {
        version: "TLSv1.3".into(),
        cipher: "TLS13_AES_256_GCM_SHA384".into(),
        group: Some("X25519".into()),
        sni: Some("mx1.postfix.example".into()),
        resumed: false,
        handshake_us: 1_900,
        trusted: false,
        objection: Some("self-signed".into()),
        certificate: None,
        chain_sha256: vec!["00".repeat(32)],
        policies: Vec::new(),
    }
}

/// A dial that succeeds, with TLS.
pub fn dial(log: &mut SessionLog) {
    log.dialled(1, dialled(150));
    log.connected(1, 900);
    log.secured(1, &tls());
    log.offered(1, &["PIPELINING".into(), "SIZE 10240000".into()]);
}

/// One mail over TLS, as the proxy would tell it.
pub fn tell(recorder: &Recorder, id: SessionId, tenant: &str) {
    let mut log = recorder.session(start(id, tenant));
    dial(&mut log);
    log.reply(1, 2_000, Dir::ReplyPassed, 220, "mx1.postfix.example ESMTP Postfix");
    log.command(0, 2_400, Dir::CommandEnded, b"EHLO mail.acme.example");
    log.command(1, 2_450, Dir::SentByProxy, b"EHLO out1.warren.example");
    log.reply(1, 2_900, Dir::ReplyEnded, 250, "mx1.postfix.example\nPIPELINING\nSTARTTLS");
    log.command(1, 2_950, Dir::SentByProxy, b"STARTTLS");
    log.reply(1, 3_300, Dir::ReplyEnded, 220, "2.0.0 Ready to start TLS");
    log.reply(1, 6_000, Dir::AnsweredByProxy, 250, "mx1.postfix.example\nPIPELINING");
    log.command(1, 6_400, Dir::CommandPassed, b"MAIL FROM:<alice@acme.example>");
    log.command(1, 6_405, Dir::CommandPassed, b"RCPT TO:<bob@postfix.example>");
    log.command(1, 6_410, Dir::CommandPassed, b"DATA");
    log.reply(1, 7_000, Dir::ReplyPassed, 250, "2.1.0 Ok");
    log.reply(1, 7_200, Dir::ReplyPassed, 250, "2.1.5 Ok");
    log.reply(1, 7_210, Dir::ReplyPassed, 354, "End data with <CR><LF>.<CR><LF>");
    log.command(1, 9_000, Dir::CommandPassed, b".");
    log.reply(1, 1_019_000, Dir::ReplyPassed, 250, "2.0.0 Ok: queued as 4Xq8k01xwz");
    let mut message = Message::begun(1, 1, "alice@acme.example".into(), 6_400);
    message.size = 5_123;
    message.message_id = Some("<1@acme.example>".into());
    message.reply_us = Some(1_019_000);
    let reply = (250, Some("2.0.0"), "2.0.0 Ok: queued as 4Xq8k01xwz");
    log.mail(Mail::of(&message, reply, &[(1, "bob@postfix.example")]));
    log.end(1_020_000, Outcome::Delivered, 5_123);
}

/// A record of little consequence.
pub fn exchange(seq: u32) -> Record<'static> {
    Record::Exchange(Exchange {
        seq,
        leg: 1,
        at_us: u64::from(seq),
        dir: Dir::ReplyPassed,
        verb: "NOOP",
        code: Some(250),
        text: "2.0.0 Ok",
        took_us: Some(u64::from(seq)),
    })
}

pub fn end() -> Record<'static> {
    Record::End(SessionEnd { at_us: 9, outcome: Outcome::Unused, bytes: 0 })
}

/// Settings that show in milliseconds what usually takes seconds.
pub fn hasty(dir: &Path) -> RecorderSettings {
    RecorderSettings {
        linger: Duration::from_millis(5),
        nice: 0,
        patience: Duration::from_millis(250),
        retry_first: Duration::from_millis(10),
        retry_max: Duration::from_millis(50),
        ..RecorderSettings::new(dir)
    }
}

/// Waits until recording has come so far.
pub async fn until(recorder: &Recorder, reached: impl FnMut(&Stats) -> bool) -> Stats {
    let mut stats: watch::Receiver<Stats> = recorder.stats();
    *tokio::time::timeout(LONG, stats.wait_for(reached)).await.expect("in time").expect("recording")
}
