//! One connection of the load generator or of the sink, in the clear or under TLS: never waits, copies nothing that need not be.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use rustls::Connection;

/// The connection. Its readiness is edge-triggered: whoever is told reads and writes until nothing goes.
pub struct Link {
    stream: TcpStream,
    tls: Option<Box<Connection>>,
}

impl Link {
    /// Takes a connection that does not block.
    pub fn new(stream: TcpStream) -> Self {
        Link { stream, tls: None }
    }

    /// From here on it is under TLS. What is written before the handshake is done goes out behind it.
    pub fn secure(&mut self, connection: impl Into<Connection>) {
        self.tls = Some(Box::new(connection.into()));
    }

    /// Whether it is under TLS.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads what is there: `None` if there is nothing, 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if self.tls.is_none() {
            return would_block(self.stream.read(buffer));
        }
        while let Some(tls) = &mut self.tls {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(0)),
                other => return other.map(Some),
            }
            match would_block(tls.read_tls(&mut self.stream))? {
                None => return Ok(None),
                Some(0) => return Ok(Some(0)),
                Some(_) => tls.process_new_packets().map_err(io::Error::other)?,
            };
            self.flush()?;
        }
        Ok(None)
    }

    /// Writes what goes: how much of it.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return Ok(would_block(self.stream.write(bytes))?.unwrap_or(0)) };
        let taken = tls.writer().write(bytes)?;
        self.flush()?;
        Ok(taken)
    }

    /// Pushes out what TLS holds.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            if would_block(tls.write_tls(&mut self.stream))?.is_none() {
                break;
            }
        }
        Ok(())
    }
}

fn would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
