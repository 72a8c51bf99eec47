//! How the readings of the configuration went, for whoever changed a file and waits until that is in force.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use warren_control::api::Readings as Count;

/// Text kept of what was wrong at the last one. Whoever asks reads the files too.
const PROBLEMS: usize = 2000;

/// The readings since the start.
#[derive(Debug, Default)]
pub struct Readings(Mutex<Count>);

impl Readings {
    /// How they went.
    pub fn count(&self) -> Count {
        self.lock().clone()
    }

    /// One begins: what is changed from here on may be missed by it.
    pub fn begin(&self) {
        self.lock().begun += 1;
    }

    /// What was read is in force, or was broken and nothing has changed.
    pub fn end(&self, problems: Option<String>) {
        let mut count = self.lock();
        count.done = count.begun;
        count.problems = problems.map(|text| text[..text.floor_char_boundary(PROBLEMS)].to_owned());
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
