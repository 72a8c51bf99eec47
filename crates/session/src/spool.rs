//! Where records wait while the store is away: one file, one JSON record a line, appended and read in order.
//!
//! Not synced: it outlives a killed process, not a power cut. A line torn by a kill is skipped when read. Once all
//! is read the file is emptied; until then what was read stays in it and would be read again after a restart, which the
//! store takes without harm.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use crate::Record;

/// Longest line taken for a record. A record's own bounds keep it far below.
const LINE_LIMIT: u64 = 1 << 20;

/// The spool file.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: Option<File>,
    limit: u64,
    size: u64,
    read: u64,
    /// The file does not end with a line end.
    torn: bool,
}

/// Why records could not be spooled.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// It has reached its bound.
    #[error("the spool file {path} holds its {limit} bytes")]
    Full {
        /// The file.
        path: PathBuf,
        /// Its bound.
        limit: u64,
    },
    /// The file system refuses.
    #[error("cannot {action} the spool file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Records read back.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In the order in which they were spooled.
    pub records: Vec<Record>,
    /// Lines that are no records.
    pub damaged: u64,
    /// Where the next read begins.
    end: u64,
}

impl Spool {
    /// A spool at `path`, of at most `limit` bytes. What an earlier process left there is found and counts.
    #[must_use]
    pub fn new(path: PathBuf, limit: u64) -> Self {
        let size = std::fs::metadata(&path).map(|meta| meta.len()).unwrap_or(0);
        // Unknown how the last line ended: an empty line more does no harm.
        Self { path, file: None, limit, size, read: 0, torn: size > 0 }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.read >= self.size
    }

    /// Appends all of `records`, or none.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) -> Result<(), SpoolError> {
        let mut lines = Vec::new();
        if self.torn {
            lines.push(b'\n');
        }
        for record in records {
            if let Err(error) = serde_json::to_writer(&mut lines, record) {
                // Nothing in a record fails to serialize; if it did, one record less is the lesser evil.
                tracing::error!(%error, "a session record cannot be spooled");
                continue;
            }
            lines.push(b'\n');
        }
        if self.size + lines.len() as u64 > self.limit {
            return Err(SpoolError::Full { path: self.path.clone(), limit: self.limit });
        }
        let size = self.size;
        let file = self.file()?;
        let written = file.seek(SeekFrom::Start(size)).and_then(|_| file.write_all(&lines));
        match written {
            Ok(()) => {
                self.size += lines.len() as u64;
                self.torn = false;
                Ok(())
            }
            Err(source) => {
                // A disk that filled up in the middle: take back the half.
                self.torn = file.set_len(size).is_err();
                // It may have been replaced meanwhile; the next attempt looks.
                self.file = None;
                Err(self.error("append to", source))
            }
        }
    }

    /// The next `count` records at most. [`Spool::done`] moves on; without it the same come again.
    pub fn next(&mut self, count: usize) -> Result<Loaded, SpoolError> {
        let read = self.read;
        let (size, mut loaded) = (self.size, Loaded { end: read, ..Loaded::default() });
        let file = self.file()?;
        let result = (|| {
            file.seek(SeekFrom::Start(read))?;
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            while loaded.records.len() < count && loaded.end < size {
                line.clear();
                let length = io::Read::take(&mut reader, LINE_LIMIT).read_until(b'\n', &mut line)?;
                if length == 0 {
                    loaded.end = size;
                    break;
                }
                loaded.end += length as u64;
                match serde_json::from_slice(&line) {
                    Ok(record) => loaded.records.push(record),
                    Err(_) if line == b"\n" => {}
                    Err(_) => loaded.damaged += 1,
                }
            }
            Ok(())
        })();
        result.map_err(|source| self.error("read", source))?;
        Ok(loaded)
    }

    /// What `loaded` holds is in the store now.
    pub fn done(&mut self, loaded: &Loaded) {
        self.read = loaded.end;
        if self.is_empty() {
            match self.file().map(|file| file.set_len(0)) {
                Ok(Ok(())) => (self.size, self.read, self.torn) = (0, 0, false),
                Ok(Err(error)) => {
                    tracing::warn!(path = %self.path.display(), %error, "loaded session records stay in the spool file")
                }
                Err(error) => tracing::warn!(%error, "loaded session records stay in the spool file"),
            }
        }
    }

    fn file(&mut self) -> Result<&mut File, SpoolError> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o640);
            let file = options.open(&self.path).map_err(|source| self.error("open", source))?;
            self.file = Some(file);
        }
        Ok(self.file.as_mut().expect("opened above"))
    }

    fn error(&self, action: &'static str, source: io::Error) -> SpoolError {
        SpoolError::Io { path: self.path.clone(), action, source }
    }
}
