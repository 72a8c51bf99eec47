//! The folder with a file for each day, and beside it which reports of that day were sent.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::day::Day;

/// Days that are kept: reports are sent the day after, and some are asked about weeks later.
pub const KEEP_DAYS: i64 = 31;

/// The folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// A report that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Where to.
    pub to: Vec<String>,
    /// When.
    pub at: Timestamp,
}

impl Folder {
    /// The folder at `path`, whether it exists or not.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes it, if there is none.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(&self.0)
    }

    /// The days that there are files of, the oldest first.
    pub fn days(&self) -> io::Result<Vec<Date>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut days: Vec<Date> =
            entries.filter_map(|entry| day_of(entry.ok()?.file_name().to_str()?.strip_suffix(".json")?)).collect();
        days.sort_unstable();
        Ok(days)
    }

    /// A day's findings; none if there is no file of it.
    pub fn load(&self, day: Date) -> io::Result<Option<Day>> {
        Ok(read::<Day>(&self.file(day))?.map(Day::counted))
    }

    /// Writes a day: the file is the old one or the new one at every moment.
    pub fn store(&self, day: &Day) -> io::Result<()> {
        write(&self.file(day.day), day)
    }

    /// Removes what is older than [`KEEP_DAYS`].
    pub fn sweep(&self, today: Date) -> io::Result<()> {
        let Ok(oldest) = today.checked_sub(Span::new().days(KEEP_DAYS)) else { return Ok(()) };
        for day in self.days()?.into_iter().filter(|day| *day < oldest) {
            fs::remove_file(self.file(day))?;
            match fs::remove_file(self.sent_file(day)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Which reports of a day were sent, by domain.
    pub fn sent(&self, day: Date) -> io::Result<BTreeMap<String, Sent>> {
        Ok(read(&self.sent_file(day))?.unwrap_or_default())
    }

    /// What was sent on one day, about whichever: domains and addresses.
    pub fn sent_on(&self, date: Date) -> io::Result<Vec<(String, String)>> {
        let mut all = Vec::new();
        for day in self.days()? {
            let sent = self.sent(day)?.into_iter().filter(|(_, sent)| Day::of(sent.at) == date);
            all.extend(sent.flat_map(|(domain, sent)| sent.to.into_iter().map(move |to| (domain.clone(), to))));
        }
        Ok(all)
    }

    /// Notes that a report was sent.
    pub fn note_sent(&self, day: Date, domain: &str, sent: Sent) -> io::Result<()> {
        let mut all = self.sent(day)?;
        all.insert(domain.to_owned(), sent);
        write(&self.sent_file(day), &all)
    }

    fn file(&self, day: Date) -> PathBuf {
        self.0.join(format!("{day}.json"))
    }

    fn sent_file(&self, day: Date) -> PathBuf {
        self.0.join(format!("{day}.sent"))
    }
}

/// Only the one way to write a day is a file of ours.
fn day_of(name: &str) -> Option<Date> {
    name.parse::<Date>().ok().filter(|day| day.to_string() == name)
}

fn read<T: for<'a> Deserialize<'a>>(file: &Path) -> io::Result<Option<T>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write<T: Serialize>(file: &Path, content: &T) -> io::Result<()> {
    let temporary = temporary(file);
    // The folder is the proxy's, and it may be root that notes what was sent: never through a link that stands there.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = File::create_new(&temporary)?;
    new.write_all(&serde_json::to_vec(content)?)?;
    new.sync_data()?;
    fs::rename(&temporary, file)
}

fn temporary(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn days_are_kept_a_month() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path().join("tlsrpt"));
        assert_eq!(folder.days().unwrap(), []);
        folder.create().unwrap();
        for day in [date(2026, 11, 22), date(2026, 10, 22), date(2026, 10, 21), date(2025, 1, 1)] {
            folder.store(&Day::new(day)).unwrap();
            folder.note_sent(day, "a.example", Sent { to: Vec::new(), at: Timestamp::UNIX_EPOCH }).unwrap();
        }
        fs::write(directory.path().join("tlsrpt/2026-1-1.json"), "not ours").unwrap();
        folder.sweep(date(2026, 11, 22)).unwrap();
        assert_eq!(folder.days().unwrap(), [date(2026, 10, 22), date(2026, 11, 22)]);
        assert!(folder.sent(date(2026, 10, 22)).unwrap().contains_key("a.example"));
        assert!(folder.sent(date(2025, 1, 1)).unwrap().is_empty());
        assert_eq!(folder.load(date(2025, 1, 1)).unwrap(), None);
        assert_eq!(folder.load(date(2026, 11, 22)).unwrap().unwrap().domains.len(), 0);
    }

    #[test]
    fn what_was_sent_is_counted_by_the_day_of_sending() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path());
        for (day, domain, at) in [
            (date(2026, 11, 20), "a.example", "2026-11-22T00:00:00Z"),
            (date(2026, 11, 21), "b.example", "2026-11-22T23:59:59Z"),
            (date(2026, 11, 21), "c.example", "2026-11-23T00:00:00Z"),
        ] {
            folder.store(&Day::new(day)).unwrap();
            let to = vec![format!("r@{domain}")];
            folder.note_sent(day, domain, Sent { to, at: at.parse().unwrap() }).unwrap();
        }
        let pair = |domain: &str| (domain.to_owned(), format!("r@{domain}"));
        assert_eq!(folder.sent_on(date(2026, 11, 22)).unwrap(), [pair("a.example"), pair("b.example")]);
    }

    #[test]
    fn what_a_killed_writer_left_is_no_day_and_in_nobodys_way() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path());
        let (today, mut day) = (date(2026, 11, 22), Day::new(date(2026, 11, 22)));
        folder.store(&day).unwrap();
        let torn = temporary(&folder.file(today));
        fs::write(&torn, "{\"day\":\"2026").unwrap();
        assert_eq!((folder.days().unwrap(), folder.load(today).unwrap()), (vec![today], Some(day.clone())));
        day.lost(7);
        folder.store(&day).unwrap();
        assert_eq!(folder.load(today).unwrap().unwrap().left_out, 7);
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &torn).unwrap();
        folder.store(&day).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "mine");
    }
}
