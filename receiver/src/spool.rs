//! A message while its remote host waits: a file without a name, gone with its descriptor. It is no queue; nothing is promised before the
//! tenant's MSA has the message. All of them together may only take so much room: strangers fill them, and the disk is everybody's.

use std::io::{self, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// How much is read at once.
const BLOCK: usize = 64 << 10;

/// The room that all spool files share.
#[derive(Debug)]
pub struct Room {
    left: AtomicU64,
}

impl Room {
    /// For so many bytes.
    pub fn of(bytes: u64) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(bytes) })
    }

    fn take(&self, bytes: u64) -> io::Result<()> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.map(drop).map_err(|_| io::Error::new(io::ErrorKind::StorageFull, "all spool files together are full"))
    }
}

/// One message.
#[derive(Debug)]
pub struct Spool {
    file: File,
    size: u64,
    room: Arc<Room>,
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.room.left.fetch_add(self.size, Ordering::Relaxed);
    }
}

impl Spool {
    /// An empty one on the file system of `directory`.
    pub async fn create(directory: &Path, room: &Arc<Room>) -> io::Result<Self> {
        let directory = directory.to_owned();
        let file =
            tokio::task::spawn_blocking(move || tempfile::tempfile_in(directory)).await.map_err(io::Error::other)??;
        Ok(Self { file: File::from_std(file), size: 0, room: Arc::clone(room) })
    }

    /// Appends content.
    pub async fn append(&mut self, content: &[u8]) -> io::Result<()> {
        let length = content.len() as u64;
        self.room.take(length)?;
        // Given back by the size, whether they were written or not.
        self.size += length;
        self.file.write_all(content).await
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Ends writing and goes back to the start.
    pub async fn rewind(&mut self) -> io::Result<()> {
        // tokio's file reports a failed write only at the next operation.
        self.file.flush().await?;
        self.file.seek(SeekFrom::Start(0)).await?;
        Ok(())
    }

    /// The next block; empty at the end.
    pub async fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut block = Vec::with_capacity(BLOCK);
        while block.len() < BLOCK && self.file.read_buf(&mut block).await? > 0 {}
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_goes_in_comes_out_and_no_name_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(directory.path(), &Room::of(100_000)).await.unwrap();
        for _ in 0..1_000 {
            spool.append(&[b'x'; 100]).await.unwrap();
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        spool.rewind().await.unwrap();
        let mut total = 0;
        loop {
            let block = spool.read().await.unwrap();
            if block.is_empty() {
                break;
            }
            total += block.len();
        }
        assert_eq!((total as u64, spool.size()), (100_000, 100_000));
    }

    #[tokio::test]
    async fn the_room_is_shared_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let room = Room::of(100);
        let mut first = Spool::create(directory.path(), &room).await.unwrap();
        let mut second = Spool::create(directory.path(), &room).await.unwrap();
        first.append(&[b'x'; 60]).await.unwrap();
        assert_eq!(second.append(&[b'x'; 41]).await.unwrap_err().kind(), io::ErrorKind::StorageFull);
        second.append(&[b'x'; 40]).await.unwrap();
        drop(first);
        second.append(&[b'x'; 60]).await.unwrap();
    }
}
