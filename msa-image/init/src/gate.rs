//! Rules that a foreign program does not have of its own, at both entrances: who may be named as author, and how much the queue may hold.
//!
//! ```text
//!   program ── milter ──▶ /tmp/warren/submission   authors, room
//!           ── milter ──▶ /tmp/warren/relay        room
//! ```
//!
//! They are judged by the very code of Warren's own MSA, and the program only has to be able to ask a milter, as Postfix and Sendmail do. One that
//! cannot be asked must refuse for the time being (`milter_default_action = tempfail`).

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use warren_control::{Level, Settings};
use warren_msa::control::Control;
use warren_msa::mail::fixup::{OwnAddresses, check_authors};
use warren_msa::store::VOLUME;

use crate::milter::{Event, Milter};
use crate::room::Measurer;

/// Where the program finds the sockets; `/tmp` is the container's own.
const FOLDER: &str = "/tmp/warren";
/// Sessions of the program at a time.
const MOST: usize = 200;

const NO_ROOM: &str = "452 4.3.1 no room at present";
const NOT_YOURS: &str = "550 5.7.1 From, Sender and Resent-From must be addresses of this account";
const NOBODY: &str = "550 5.7.1 this account may not send";
const UNKNOWN: &str = "451 4.3.0 the queue cannot be measured at present";

/// Which rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    Submission,
    Relay,
}

/// What the rules go by.
struct Gate {
    control: Control,
    room: Measurer,
}

/// Makes the sockets, and judges from now on.
///
/// # Errors
/// When they cannot be made, or no thread to measure with.
pub fn open(control: &Control) -> io::Result<()> {
    let folder = Path::new(FOLDER);
    // Left by nobody: /tmp is new with each container.
    std::fs::DirBuilder::new().mode(0o755).create(folder)?;
    let gate = Arc::new(Gate { control: control.clone(), room: Measurer::of(VOLUME.into())? });
    for (name, road) in [("submission", Road::Submission), ("relay", Road::Relay)] {
        let path = folder.join(name);
        let listener = UnixListener::bind(&path)?;
        // The program's processes have users of their own.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666))?;
        tokio::spawn(serve(listener, road, Arc::clone(&gate)));
    }
    Ok(())
}

async fn serve(listener: UnixListener, road: Road, gate: Arc<Gate>) {
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    if let Err(error) = gate.converse(stream, road).await {
                        gate.control.log(Level::Warn, format!("the gate: {error}"));
                    }
                    drop(place);
                });
            }
            Err(error) => {
                gate.control.log(Level::Warn, format!("the gate cannot accept: {error}"));
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

impl Gate {
    /// One connection, to its end. An error closes it: what the program asked then stays unanswered, and it refuses for the time being.
    async fn converse(&self, mut stream: UnixStream, road: Road) -> io::Result<()> {
        let (mut milter, mut chunk) = (Milter::default(), vec![0; 8 * 1024]);
        loop {
            while let Some(event) = milter.next_event().map_err(io::Error::other)? {
                let refusal = self.judge(&milter, event, road).await;
                milter.answer(refusal);
            }
            stream.write_all(&milter.take_output()).await?;
            if milter.is_over() {
                return Ok(());
            }
            match stream.read(&mut chunk).await? {
                0 => return Ok(()),
                length => milter.receive(&chunk[..length]),
            }
        }
    }

    /// Why not.
    async fn judge(&self, milter: &Milter, event: Event, road: Road) -> Option<&'static str> {
        let settings = self.control.settings().borrow().clone();
        let Some(settings) = settings else { return Some(UNKNOWN) };
        if event == Event::Content
            && road == Road::Submission
            && let Err(why) = rights(milter, &settings)
        {
            self.control.log(Level::Warn, format!("{}: refused: {}", milter.login().unwrap_or("nobody"), why.1));
            return Some(why.0);
        }
        let coming = match event {
            Event::Mail { size } => Some(size),
            Event::Content => None,
        };
        match self.room.lacks(coming, settings.max_queue_bytes).await {
            Ok(None) => None,
            Ok(Some(why)) => {
                self.control.log(Level::Warn, format!("refused: {why}"));
                Some(NO_ROOM)
            }
            Err(error) => {
                self.control.log(Level::Error, format!("the volume cannot be measured: {error}"));
                Some(UNKNOWN)
            }
        }
    }
}

/// Whether everybody whom the message names as author is its sender: the reply if not, and what is logged.
fn rights(milter: &Milter, settings: &Settings) -> Result<(), (&'static str, String)> {
    let login = milter.login().ok_or((NOBODY, "no login".to_owned()))?;
    let accounts = &settings.accounts;
    let own = accounts.get(login).or_else(|| accounts.get(&login.to_lowercase()));
    let own = OwnAddresses::new(own.ok_or((NOBODY, "no such account".to_owned()))?);
    let header = milter.authors().map_err(|error| (NOT_YOURS, error.to_string()))?;
    check_authors(&header, &own).map_err(|error| (NOT_YOURS, error.to_string()))
}
