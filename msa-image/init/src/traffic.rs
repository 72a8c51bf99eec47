//! Who is connected, as the kernel tells it: no mail program has to be asked.

use std::io;
use std::path::Path;

use warren_control::Entrance;

/// The world, through the exit door.
const SMTP: u16 = 25;

/// States of a TCP socket, as `/proc/net/tcp` numbers them.
const ESTABLISHED: u8 = 1;
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

/// What goes on in the cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Entrances that are listened at.
    pub entrances: usize,
    /// Connections at the entrances, those included that nobody has accepted yet.
    pub connected: usize,
    /// Of these, those that were accepted.
    pub sessions: usize,
    /// Connections to port 25 of the world.
    pub deliveries: usize,
}

impl Traffic {
    /// What goes on now.
    pub fn now() -> io::Result<Traffic> {
        let mut traffic = Traffic::default();
        for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
            match std::fs::read_to_string(Path::new(table)) {
                Ok(text) => traffic.add(&text),
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("{table}: {error}"))),
            }
        }
        Ok(traffic)
    }

    /// Whether somebody is served, or waits to be.
    pub fn is_quiet(&self) -> bool {
        self.connected == 0 && self.deliveries == 0
    }

    fn add(&mut self, table: &str) {
        for line in table.lines().skip(1) {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let local = fields.next().and_then(port);
            let remote = fields.next().and_then(port);
            let state = fields.next().and_then(|state| u8::from_str_radix(state, 16).ok());
            // An unaccepted socket has no file yet, so no inode.
            let accepted = fields.nth(5).is_some_and(|inode| inode != "0");
            let (Some(local), Some(remote), Some(state)) = (local, remote, state) else { continue };
            let entrance = [Entrance::Submission, Entrance::Relay].iter().any(|entrance| entrance.port() == local);
            match state {
                LISTEN => self.entrances += usize::from(entrance),
                TIME_WAIT | CLOSE => {}
                _ if entrance => {
                    // In every other state but this the client has gone already or is not there yet.
                    self.connected += usize::from(accepted || state == ESTABLISHED);
                    self.sessions += usize::from(accepted);
                }
                _ => self.deliveries += usize::from(remote == SMTP && accepted),
            }
        }
    }
}

/// The port of `0100007F:024B`.
fn port(address: &str) -> Option<u16> {
    u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:024B 00000000:0000 0A 00000000:00000001 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0100007F:0018 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0 100 0 0 10 0
   2: 0100007F:024B 0100007F:D02A 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0 20 4 30 10 -1
   3: 0100007F:024B 0100007F:D02C 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
   4: 0100007F:D02A 0100007F:024B 01 00000000:00000000 00:00000000 00000000     0        0 14 1 0 20 4 30 10 -1
   5: 0A3364C6:9C40 0A3364C6:0019 01 00000000:00000000 00:00000000 00000000   101        0 15 1 0 20 4 30 10 -1
   6: 0A3364C6:0019 0A3364C6:9C40 01 00000000:00000000 00:00000000 00000000     0        0 16 1 0 20 4 30 10 -1
   7: 0100007F:024B 0100007F:D030 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0 100 0 0 10 0
";

    #[test]
    fn the_kernels_table_is_understood() {
        let mut traffic = Traffic::default();
        traffic.add(TABLE);
        assert_eq!(traffic, Traffic { entrances: 2, connected: 2, sessions: 1, deliveries: 1 });
        let mut nothing = Traffic::default();
        nothing.add("header\nnonsense\n0: x y z\n");
        assert!(nothing.is_quiet());
    }

    #[test]
    fn this_kernel_has_such_tables() {
        Traffic::now().unwrap();
    }
}
