//! Listening: who may come in, what a reload changes, how it ends.

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use warren_daemon::{Accepting, Draining};
use warren_smtp::Reply;

use crate::counts::{Counts as Counted, Welcome};
use crate::platform::Platform;
use crate::session::{self, House, Patience};
use crate::settings::Settings;
use crate::spool::Room;

/// How long open sessions may take to finish once draining began.
const DRAIN: Duration = Duration::from_secs(30);

/// Everything that accepting needs.
#[derive(Debug, Clone)]
pub struct Door {
    settings: watch::Receiver<Arc<Settings>>,
    house: House,
    guests: Arc<Guests>,
    accepting: Arc<Accepting>,
    draining: Draining,
}

/// So many of the largest messages fit into the spool at a time: of usual ones, ten thousands.
const LARGEST_AT_ONCE: u64 = 50;

impl Door {
    /// A door whose sessions use the settings that are current when they begin.
    pub fn new(
        settings: watch::Receiver<Arc<Settings>>,
        platform: Arc<Platform>,
        patience: Patience,
        draining: Draining,
    ) -> Self {
        let largest = settings.borrow().server.extensions.size.unwrap_or(0);
        let room = Room::of(largest.saturating_mul(LARGEST_AT_ONCE));
        let house = House { platform, patience, room, counts: Arc::default() };
        Self { settings, house, guests: Arc::default(), accepting: Arc::default(), draining }
    }

    /// What comes of those who come in.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counted> {
        &self.house.counts
    }

    /// Accepts on all listeners until draining begins, then waits for open sessions, for at most half a minute.
    pub async fn serve(self, listeners: Vec<TcpListener>) {
        let (open, mut all_closed) = mpsc::channel::<()>(1);
        for listener in listeners {
            tokio::spawn(self.clone().accept(listener, open.clone()));
        }
        let mut draining = self.draining.clone();
        drop(open);
        draining.wait().await;
        // Every session holds a sender: the channel ends with the last of them.
        if tokio::time::timeout(DRAIN, all_closed.recv()).await.is_err() {
            tracing::warn!("sessions are still open, ending without them");
        }
    }

    async fn accept(self, listener: TcpListener, open: mpsc::Sender<()>) {
        let mut draining = self.draining.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = draining.wait() => return,
            };
            match accepted {
                Ok((stream, client)) => self.enter(stream, client, open.clone()),
                // Out of descriptors, most likely: those that are open must end first.
                Err(error) => self.accepting.failed(&error, "smtp").await,
            }
        }
    }

    fn enter(&self, stream: TcpStream, client: SocketAddr, open: mpsc::Sender<()>) {
        let settings = Arc::clone(&self.settings.borrow());
        let ours = settings.own_addresses.contains(&client.ip().to_canonical());
        let most_of_one = if ours { usize::MAX } else { settings.connections_per_address };
        match Guests::enter(&self.guests, client.ip(), settings.connections, most_of_one) {
            Ok(place) => {
                self.house.counts.connection(Welcome::Taken);
                let counted = self.house.counts.session();
                let session = session::serve(stream, client, settings, self.house.clone(), self.draining.clone());
                tokio::spawn(async move {
                    session.await;
                    drop((counted, place, open));
                });
            }
            Err((how, reply)) => {
                self.house.counts.connection(how);
                tracing::info!(%client, "{reply}");
                // A fresh socket has room for one line; whoever is flooding us gets no more of our time. Not by tokio, which
                // would first wait to learn that there is room.
                let _ = stream.into_std().and_then(|mut stream| stream.write(&reply.to_bytes()));
            }
        }
    }
}

/// Who is inside.
#[derive(Debug, Default)]
struct Guests(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

impl Guests {
    fn enter(guests: &Arc<Self>, address: IpAddr, most: usize, most_of_one: usize) -> Result<Place, (Welcome, Reply)> {
        let who = origin(address);
        let mut counts = guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= most {
            return Err((Welcome::TooMany, Reply::new(421, (4, 3, 2), "too many connections, try again later")));
        }
        if counts.of.get(&who).is_some_and(|count| *count >= most_of_one) {
            let reply = Reply::new(421, (4, 7, 0), "too many connections from your address");
            return Err((Welcome::TooManyOfAddress, reply));
        }
        counts.all += 1;
        *counts.of.entry(who).or_default() += 1;
        Ok(Place { guests: Arc::clone(guests), who })
    }
}

/// One guest; leaves when dropped.
#[derive(Debug)]
struct Place {
    guests: Arc<Guests>,
    who: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(count) = counts.of.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                counts.of.remove(&self.who);
            }
        }
    }
}

/// Whoever has one IPv6 address has the /64 around it.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let guests = Arc::new(Guests::default());
        let enter = |text: &str| Guests::enter(&guests, text.parse().unwrap(), 3, 2);
        let first = enter("2001:db8::1").unwrap();
        let second = enter("2001:db8::2").unwrap();
        let refused = |text| {
            let (how, reply) = enter(text).unwrap_err();
            (how, reply.status().unwrap().to_string())
        };
        assert_eq!(refused("2001:db8::3"), (Welcome::TooManyOfAddress, "4.7.0".into()));
        let third = enter("::ffff:192.0.2.1").unwrap();
        assert_eq!(refused("192.0.2.2"), (Welcome::TooMany, "4.3.2".into()));
        assert_eq!(guests.0.lock().unwrap().all, 3);
        drop((first, second, third));
        let counts = guests.0.lock().unwrap();
        assert_eq!((counts.all, counts.of.len()), (0, 0));
    }
}
