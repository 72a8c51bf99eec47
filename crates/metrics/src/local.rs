//! A page over a unix socket, from a program that scrapers cannot reach to the one that answers them.
//!
//! ```text
//!   asker ── connects ──▶ program      root, the program's own user and the owner of the socket; others are shown the door
//!         ◀── page, end ──
//! ```
//!
//! There is nothing to be asked, so there is nothing to be read: whatever a peer sends is left unread.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use warren_daemon::{Accepting, InheritError, Inherited};

use crate::http::Source;
use crate::{Format, Malformed, Page, parse};

/// Name of the inherited socket.
const NAME: &str = "metrics";
/// Connections at once: the platform has one, and an operator another.
const CONNECTIONS: usize = 4;
/// How long a page may take, at either end.
const WITHIN: Duration = Duration::from_secs(5);
/// The longest page that is read.
const LONGEST: u64 = 4 << 20;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// Nobody is there, or not for us.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It takes too long.
    #[error("there is no page within {} seconds", WITHIN.as_secs())]
    Late,
    /// It goes on and on.
    #[error("its page has no end")]
    Endless,
    /// It is no page.
    #[error("its page: {0}")]
    Malformed(#[from] Malformed),
}

/// The inherited socket, or one of our own at `path` when the program was started without. None if that cannot be made, which is said; mail needs none.
///
/// # Errors
/// Something else was inherited under its name.
pub fn listen(inherited: &mut Inherited, path: &Path) -> Result<Option<UnixListener>, InheritError> {
    if let Some(listener) = inherited.take_unix_stream(NAME)? {
        return Ok(Some(listener));
    }
    let own = || {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    Ok(own().inspect_err(|error| tracing::warn!(path = %path.display(), %error, "nobody can ask for metrics")).ok())
}

/// Answers until dropped.
pub async fn serve<S: Source>(listener: UnixListener, source: S) {
    let (source, places) = (Arc::new(source), Arc::new(Semaphore::new(CONNECTIONS)));
    let may = [0, rustix::process::geteuid().as_raw(), owner(&listener).unwrap_or(0)];
    let accepting = Accepting::default();
    loop {
        // Whoever finds no place waits in the kernel's queue, which is bounded as well.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                accepting.failed(&error, NAME).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if may.contains(&peer.uid()) => {}
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), pid = peer.pid(), "a stranger asks for metrics");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "somebody who asks for metrics cannot be told");
                continue;
            }
        }
        let source = Arc::clone(&source);
        tokio::spawn(async move {
            // Who does not take the page goes without.
            let _ = timeout(WITHIN, tell(stream, &*source)).await;
            drop(place);
        });
    }
}

async fn tell(mut stream: UnixStream, source: &impl Source) -> io::Result<()> {
    let page = source.page().await.render(Format::Prometheus);
    stream.write_all(page.as_bytes()).await?;
    stream.shutdown().await
}

/// The user whom the socket's file belongs to.
fn owner(listener: &UnixListener) -> Option<u32> {
    let address = listener.local_addr().ok()?;
    std::fs::metadata(address.as_pathname()?).ok().map(|file| file.uid())
}

/// The page of the program that answers at `path`.
///
/// # Errors
/// See [`Unread`].
pub async fn ask(path: &Path) -> Result<Page, Unread> {
    let asked = async {
        let stream = UnixStream::connect(path).await?;
        let mut text = String::new();
        stream.take(LONGEST + 1).read_to_string(&mut text).await?;
        Ok::<_, io::Error>(text)
    };
    let text = timeout(WITHIN, asked).await.map_err(|_| Unread::Late)??;
    if text.len() as u64 > LONGEST {
        return Err(Unread::Endless);
    }
    Ok(parse(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known(usize);

    impl Source for Known {
        async fn page(&self) -> Page {
            let mut page = Page::default();
            let family = page.gauge("warren_known", "Known.");
            (0..self.0).for_each(|n| _ = family.add(&[("n", &n.to_string())], 1));
            page
        }
    }

    fn served(known: usize) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.sock");
        std::fs::write(&path, "left by an earlier one").unwrap();
        let listener = listen(&mut Inherited::default(), &path).unwrap().unwrap();
        tokio::spawn(serve(listener, Known(known)));
        directory
    }

    #[tokio::test]
    async fn whoever_owns_the_socket_reads_the_page() {
        let directory = served(1_000);
        let path = directory.path().join("metrics.sock");
        for _ in 0..2 * CONNECTIONS {
            let page = ask(&path).await.unwrap();
            assert_eq!(page.value("warren_known", &[("n", "999")]), Some(1.0));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn what_has_no_end_or_is_no_page_is_an_error() {
        let directory = served(LONGEST as usize / 16);
        let endless = ask(&directory.path().join("metrics.sock")).await;
        assert!(matches!(endless, Err(Unread::Endless)), "{endless:?}");
        let nonsense = directory.path().join("nonsense.sock");
        let listener = UnixListener::bind(&nonsense).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"220 hello\r\n").await;
            }
        });
        assert!(matches!(ask(&nonsense).await, Err(Unread::Malformed(_))));
        assert!(matches!(ask(&directory.path().join("nobody")).await, Err(Unread::Io(_))));
    }

    #[tokio::test]
    async fn the_silent_and_those_who_do_not_read_keep_nobody_out_for_long() {
        tokio::time::pause();
        let directory = served(100_000);
        let path = directory.path().join("metrics.sock");
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(UnixStream::connect(&path).await.unwrap());
        }
        let page = loop {
            // The clock moves when nothing else does.
            match ask(&path).await {
                Ok(page) => break page,
                Err(error) => assert!(matches!(error, Unread::Late), "{error}"),
            }
        };
        assert_eq!(page.value("warren_known", &[("n", "99999")]), Some(1.0));
        drop(idle);
    }
}
