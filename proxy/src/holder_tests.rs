use std::os::fd::AsFd;

use tempfile::TempDir;
use tokio::sync::mpsc;
use warren_packet::PacketListener;
use warren_packet::aio::AsyncListener;

use super::*;

/// Says what it is told to do.
struct Doers(mpsc::UnboundedSender<String>);

impl Doers {
    fn say(&self, deed: String) {
        self.0.send(deed).unwrap();
    }
}

impl Holder<1> for Doers {
    const ROLE: Role = Role::Proxy;

    async fn serve(&mut self, cell: CellId, tenant: Option<TenantName>, _: [OwnedFd; 1]) -> io::Result<()> {
        self.say(format!("serve {cell} {}", tenant.map_or("-".into(), |tenant| tenant.to_string())));
        if cell == CellId(13) { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
    }

    fn bind(&mut self, cell: CellId, tenant: TenantName) {
        self.say(format!("bind {cell} {tenant}"));
    }

    async fn close(&mut self, cell: CellId) {
        self.say(format!("close {cell}"));
    }
}

/// The launcher's side of it, and what the holder did.
struct World {
    listener: AsyncListener,
    _directory: TempDir,
    deeds: mpsc::UnboundedReceiver<String>,
    connection: Option<AsyncPackets>,
    seq: u64,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("launcher.sock");
        let listener = AsyncListener::new(PacketListener::listen(&socket).unwrap()).unwrap();
        let (tell, deeds) = mpsc::unbounded_channel();
        tokio::spawn(async move { match hold(&mut Doers(tell), &socket).await {} });
        Self { listener, _directory: directory, deeds, connection: None, seq: 0 }
    }

    /// The launcher is killed, and another one welcomes the holder.
    async fn new_launcher(&mut self) {
        self.connection = None;
        let connection = self.listener.accept().await.unwrap();
        let (hello, _): (Request, _) = connection.recv().await.unwrap().unwrap();
        assert_eq!(hello, Request::Hello { role: Role::Proxy, version: VERSION });
        connection.send(&Event::Welcome { version: VERSION }, &[]).await.unwrap();
        (self.connection, self.seq) = (Some(connection), 0);
    }

    /// Says one thing and waits until the holder has dealt with it.
    async fn say(&mut self, event: impl FnOnce(u64) -> Event) {
        self.seq += 1;
        let event = event(self.seq);
        let connection = self.connection.as_ref().unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let door = matches!(event, Event::Door { .. }).then(|| socket.as_fd());
        connection.send(&event, door.as_slice()).await.unwrap();
        let (ack, _): (Request, _) = connection.recv().await.unwrap().unwrap();
        assert_eq!(ack, Request::Ack { through: self.seq });
    }

    async fn door(&mut self, cell: u64, tenant: Option<&str>) {
        let tenant = tenant.map(|tenant| TenantName::new(tenant).unwrap());
        self.say(|seq| Event::Door { seq, cell: CellId(cell), generation: 1, tenant }).await;
    }

    async fn all_told(&mut self) {
        self.say(|seq| Event::AllTold { seq }).await;
    }

    fn deeds(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.deeds.try_recv().ok()).collect()
    }
}

#[tokio::test]
async fn doors_are_kept_until_a_new_launcher_has_told_of_all() {
    let mut world = World::new();
    world.new_launcher().await;
    world.door(1, Some("acme")).await;
    world.door(2, None).await;
    world.all_told().await;
    let globex = TenantName::new("globex").unwrap();
    world.say(|seq| Event::Bound { seq, cell: CellId(2), tenant: globex.clone() }).await;
    // Nobody holds such a door.
    world.say(|seq| Event::Bound { seq, cell: CellId(3), tenant: globex.clone() }).await;
    assert_eq!(world.deeds(), ["serve 1 acme", "serve 2 -", "bind 2 globex"]);

    // Killed before it told of anything, and then in the middle of it.
    world.new_launcher().await;
    world.new_launcher().await;
    world.door(2, Some("globex")).await;
    world.new_launcher().await;
    assert_eq!(world.deeds(), ["serve 2 globex"]);
    world.door(2, Some("globex")).await;
    assert_eq!(world.deeds(), ["serve 2 globex"]);
    world.all_told().await;
    assert_eq!(world.deeds(), ["close 1"]);
    world.say(|seq| Event::Gone { seq, cell: CellId(2) }).await;
    assert_eq!(world.deeds(), ["close 2"]);
}

#[tokio::test]
async fn another_cell_of_the_same_number_gets_nothing_of_the_first() {
    let mut world = World::new();
    world.new_launcher().await;
    world.door(1, Some("acme")).await;
    world.new_launcher().await;
    world.door(1, Some("globex")).await;
    assert_eq!(world.deeds(), ["serve 1 acme", "close 1", "serve 1 globex"]);
}

#[tokio::test]
async fn a_door_that_cannot_be_served_is_not_held() {
    let mut world = World::new();
    world.new_launcher().await;
    world.door(13, Some("acme")).await;
    world.new_launcher().await;
    world.door(13, Some("globex")).await;
    assert_eq!(world.deeds(), ["serve 13 acme", "close 13", "serve 13 globex", "close 13"]);
}

#[tokio::test(start_paused = true)]
async fn a_launcher_that_never_has_told_of_all_is_not_waited_for_for_ever() {
    let mut world = World::new();
    world.new_launcher().await;
    world.door(1, Some("acme")).await;
    world.door(2, Some("globex")).await;
    world.new_launcher().await;
    let welcomed = Instant::now();
    world.door(2, Some("globex")).await;
    world.deeds();
    let closed = tokio::time::timeout(2 * PATIENCE, world.deeds.recv()).await;
    assert_eq!(closed.unwrap().unwrap(), "close 1");
    assert!(welcomed.elapsed() >= PATIENCE);
    // It may go on all the same.
    world.door(3, None).await;
    world.all_told().await;
    assert_eq!(world.deeds(), ["serve 3 -"]);
}
