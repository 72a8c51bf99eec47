//! The recipients of a message, until it has a verdict: whoever names ten thousand that an accomplice takes makes the proxy remember them.

/// Most bytes of their paths: some thousands of recipients, as many as any MX takes of one message.
const MOST: usize = 256 * 1_024;

/// Forward-paths, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Paths {
    text: String,
    /// Where each ends.
    ends: Vec<u32>,
}

impl Paths {
    /// One more. Its number, counted from 1; none if it is not remembered.
    pub(super) fn push(&mut self, path: String) -> Option<u32> {
        let end = u32::try_from(self.text.len() + path.len()).ok()?;
        if self.text.len() + path.len() > MOST {
            return None;
        }
        if self.text.is_empty() {
            self.text = path;
        } else {
            self.text.push_str(&path);
        }
        self.ends.push(end);
        u32::try_from(self.ends.len()).ok()
    }

    /// The one with this number.
    pub(super) fn get(&self, n: u32) -> Option<&str> {
        let place = usize::try_from(n).ok()?.checked_sub(1)?;
        let end = usize::try_from(*self.ends.get(place)?).ok()?;
        let start = place.checked_sub(1).map_or(Some(0), |before| usize::try_from(self.ends[before]).ok())?;
        self.text.get(start..end)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_number() {
        let (mut paths, all) = (Paths::default(), ["a@b.example", "", "postmaster", "ü@x.example"]);
        let numbers = all.map(|path| paths.push(path.to_owned()));
        assert_eq!(numbers, [1, 2, 3, 4].map(Some));
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(|n| paths.get(n)),
            [None, Some(all[0]), Some(""), Some(all[2]), Some(all[3]), None]
        );
    }

    #[test]
    fn few_thousands_are_remembered_and_no_more() {
        let mut paths = Paths::default();
        let taken = (0..100_000).filter(|n| paths.push(format!("{n:0>250}@x")).is_some()).count();
        assert_eq!((taken, paths.len()), (MOST / 252, MOST / 252));
        assert!(paths.text.capacity() <= 2 * MOST);
    }
}
