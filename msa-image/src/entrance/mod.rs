//! The two entrances: where mail comes in.
//!
//! ```text
//!   accept ─▶ settings known? ─▶ banner ─▶ commands (session) ─▶ content (incoming) ─▶ queue ─▶ 250 queued as ID
//! ```
//!
//! Only the platform and the receiver can connect here, so both entrances announce XCLIENT. A connection counts as activity
//! from the moment it is accepted: whoever has connected is served before the MSA sleeps.

mod incoming;
mod session;

use crate::Msa;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use warren_control::{Level, Settings};
use warren_smtp::Reply;
use warren_smtp::server::{Server, ServerConfig};

/// Which entrance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// For the tenant's users: RFC 6409.
    Submission,
    /// For mail forwarded to the tenant: nothing but trace is added.
    Relay,
}

/// How long a greeting may wait for the platform's settings.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may be silent (RFC 5321 §4.5.3.2.7).
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a client may not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Accepts until told to stop, then gives the listener back: whoever has connected by then has been accepted.
pub async fn serve(
    listener: TcpListener,
    entrance: Entrance,
    msa: Arc<Msa>,
    mut stop: watch::Receiver<bool>,
) -> TcpListener {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return listener,
        };
        match accepted {
            Ok((stream, _)) => {
                let busy = msa.activity.begin();
                let msa = Arc::clone(&msa);
                tokio::spawn(async move {
                    let _busy = busy;
                    session(stream, entrance, &msa).await;
                });
            }
            Err(error) => {
                msa.control.log(Level::Warn, format!("an entrance cannot accept: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection, from banner to close. Whatever goes wrong ends this connection only.
async fn session(stream: TcpStream, entrance: Entrance, msa: &Msa) {
    let _ = stream.set_nodelay(true);
    let mut settings = msa.control.settings();
    let settings = match timeout(SETTINGS_TIMEOUT, settings.wait_for(Option::is_some)).await {
        Ok(Ok(settings)) => settings.clone(),
        _ => None,
    };
    let Some(settings) = settings else {
        msa.control.log(Level::Warn, "no settings came, a connection was turned away");
        return turn_away(stream, "not configured yet").await;
    };
    if msa.activity.busy() > msa.places.all {
        return turn_away(stream, "too many connections").await;
    }
    let server = Server::new(config(&settings));
    let mut session = session::Session::new(entrance, settings, msa);
    let _ = converse(stream, server, &mut session, msa).await;
}

fn config(settings: &Settings) -> ServerConfig {
    let extensions = warren_smtp::Extensions {
        pipelining: true,
        size: Some(settings.max_message_bytes),
        eight_bit_mime: true,
        smtputf8: true,
        dsn: true,
        enhanced_status_codes: true,
        chunking: true,
        xclient: warren_smtp::command::Xclient::ATTRIBUTES.map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let mut config = ServerConfig::new(settings.hostname.clone(), extensions);
    config.max_recipients = settings.max_recipients as usize;
    config.max_idle_commands = settings.max_recipients.saturating_add(200);
    config
}

async fn turn_away(mut stream: TcpStream, why: &str) {
    let reply = Reply::new(421, (4, 3, 2), why).to_bytes();
    let _ = timeout(WRITE_TIMEOUT, stream.write_all(&reply)).await;
}

/// Moves bytes between the socket and the machine, events between the machine and the session.
async fn converse(
    mut stream: TcpStream,
    mut server: Server,
    session: &mut session::Session<'_>,
    msa: &Msa,
) -> std::io::Result<()> {
    let mut draining = msa.control.draining();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        while let Some(event) = server.next_event() {
            let answer_wanted = event.wants_answer();
            match session.event(event).await {
                Some(reply) => server.reply(reply),
                None if answer_wanted => server.accept(),
                None => {}
            }
        }
        let output = server.take_output();
        if !output.is_empty() {
            timeout(WRITE_TIMEOUT, stream.write_all(&output)).await??;
            msa.first_banner.notify_one();
        }
        if server.is_closed() {
            return stream.shutdown().await;
        }
        if *draining.borrow() && server.is_idle() {
            server.close(&Reply::new(421, (4, 3, 2), "going to sleep, come again"));
            continue;
        }
        let read = tokio::select! {
            read = timeout(READ_TIMEOUT, stream.read(&mut buffer)) => read,
            _ = draining.changed() => continue,
        };
        match read {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(length)) => server.receive(&buffer[..length]),
            Ok(Err(error)) => return Err(error),
            Err(_) => server.close(&Reply::new(421, (4, 4, 2), "idle for too long")),
        }
    }
}
