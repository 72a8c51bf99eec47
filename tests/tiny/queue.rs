//! Messages on the volume: a file each, with the envelope in front of the content.
//!
//! ```text
//!   queue/ID       born, attempts, due, reverse-path, forward-paths, empty line, content
//!   queue/.ID.tmp  not yet acknowledged, or about to replace ID
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::now_ms;

const VOLUME: &str = "/var/spool/warren";

pub struct Queue {
    folder: PathBuf,
    count: AtomicU64,
}

#[derive(Clone)]
pub struct Message {
    pub id: String,
    pub born: u64,
    pub attempts: u32,
    pub due: u64,
    pub from: String,
    pub to: Vec<String>,
    pub content: Vec<u8>,
}

impl Queue {
    pub fn open() -> Queue {
        let folder = Path::new(VOLUME).join("queue");
        let _ = fs::create_dir_all(&folder);
        Queue { folder, count: AtomicU64::new(0) }
    }

    /// A message that is due now. On stable storage when this returns.
    pub fn add(&self, from: String, to: Vec<String>, content: Vec<u8>) -> io::Result<String> {
        let now = now_ms();
        let id = format!("{now:x}-{:x}", self.count.fetch_add(1, Ordering::SeqCst));
        self.write(&Message { id: id.clone(), born: now, attempts: 0, due: now, from, to, content })?;
        Ok(id)
    }

    pub fn write(&self, message: &Message) -> io::Result<()> {
        let new = self.folder.join(format!(".{}.tmp", message.id));
        let write = || {
            let mut file = File::create(&new)?;
            let Message { born, attempts, due, from, to, content, .. } = message;
            write!(file, "{born} {attempts} {due}\n{from}\n{}\n\n", to.join("\n"))?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&new, self.folder.join(&message.id))?;
            File::open(&self.folder)?.sync_all()
        };
        write().inspect_err(|_| drop(fs::remove_file(&new)))
    }

    pub fn remove(&self, id: &str) {
        let _ = fs::remove_file(self.folder.join(id));
    }

    /// All messages, with their content only if asked for.
    pub fn all(&self, content: bool) -> Vec<Message> {
        let names =
            fs::read_dir(&self.folder).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
        names.filter(|name| !name.starts_with('.')).filter_map(|name| self.read(name, content)).collect()
    }

    fn read(&self, id: String, content: bool) -> Option<Message> {
        let bytes = fs::read(self.folder.join(&id)).ok()?;
        let end = bytes.windows(2).position(|pair| pair == b"\n\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let numbers: Vec<u64> = lines.next()?.split(' ').filter_map(|n| n.parse().ok()).collect();
        let [born, attempts, due] = numbers[..] else { return None };
        let from = lines.next()?.to_owned();
        let content = if content { bytes[end + 2..].to_vec() } else { Vec::new() };
        let attempts = u32::try_from(attempts).ok()?;
        Some(Message { id, born, attempts, due, from, to: lines.map(str::to_owned).collect(), content })
    }

    pub fn next_due(&self) -> Option<u64> {
        self.all(false).iter().map(|message| message.due).min()
    }

    pub fn bytes(&self) -> u64 {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }
}

/// `next-due` of the contract.
pub fn write_next_due(due: Option<u64>) {
    let (file, new) = (Path::new(VOLUME).join("next-due"), Path::new(VOLUME).join(".next-due.tmp"));
    let written = match due {
        Some(due) if fs::read_to_string(&file).is_ok_and(|old| old == format!("{due}\n")) => Ok(()),
        Some(due) => fs::write(&new, format!("{due}\n")).and_then(|()| fs::rename(&new, &file)),
        None => fs::remove_file(&file),
    };
    // Absent already, or a volume without room: the platform has heard it over control.
    let _ = written;
}
