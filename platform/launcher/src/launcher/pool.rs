//! How many slots to keep ready, and of which images. Pure: time comes in as an argument.
//!
//! ```text
//! standing image   usual, always; more after a burst ┐ together never more than `most`:
//! other images     none; as many as were woken lately┘ the greediest gives way first
//! ```
//! Demand is who was woken and lived. A crash takes back what its wake had asked for.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use warren_launcher_api::ImageName;

/// A wake counts as demand for so long.
const WINDOW: Duration = Duration::from_secs(30);
/// The pools together grow to this multiple of the usual size at most.
const GROWTH: usize = 8;
/// And by this many at most.
const GROWTH_MOST: usize = 64;
/// Images whose demand is remembered. A node has two or three.
const MAX_IMAGES: usize = 16;

/// The demand for slots, image by image.
#[derive(Debug)]
pub struct Pools {
    standing: ImageName,
    usual: usize,
    most: usize,
    wakes: BTreeMap<ImageName, VecDeque<Instant>>,
}

impl Pools {
    /// `usual` slots of the `standing` image are wanted when nothing happens; 0 means never any of any image.
    pub fn new(standing: ImageName, usual: usize) -> Pools {
        let most = (usual * GROWTH).min(usual + GROWTH_MOST);
        Pools { standing, usual, most, wakes: BTreeMap::new() }
    }

    /// A tenant with this image was woken, from a slot or not.
    pub fn woken(&mut self, image: &ImageName, now: Instant) {
        if !self.wakes.contains_key(image) && self.wakes.len() >= MAX_IMAGES {
            return;
        }
        let wakes = self.wakes.entry(image.clone()).or_default();
        wakes.push_back(now);
        if wakes.len() > self.most {
            wakes.pop_front();
        }
    }

    /// The wake of that moment came to nothing: the program was not to be had, or ended as if it could not run. Who crashes and is wanted again
    /// and again needs no slot sooner.
    pub fn in_vain(&mut self, image: &ImageName, at: Instant) {
        if let Some(wakes) = self.wakes.get_mut(image)
            && let Some(at) = wakes.iter().rposition(|wake| *wake == at)
        {
            wakes.remove(at);
        }
    }

    /// Demand for an image that cannot be had is no demand.
    pub fn forget(&mut self, image: &ImageName) {
        self.wakes.remove(image);
    }

    /// How many slots of which images to have ready now: as many as were taken lately.
    pub fn wanted(&mut self, now: Instant) -> Vec<(ImageName, usize)> {
        self.wakes.retain(|_, wakes| {
            while wakes.front().is_some_and(|wake| now.duration_since(*wake) > WINDOW) {
                wakes.pop_front();
            }
            !wakes.is_empty()
        });
        // The usual few serve the usual few.
        let standing = self.wakes.get(&self.standing).map_or(0, VecDeque::len).max(self.usual).min(self.most);
        let others = self.wakes.iter().filter(|(image, _)| **image != self.standing);
        let others = others.map(|(image, wakes)| (image.clone(), wakes.len().min(self.most)));
        let mut wanted: Vec<_> = [(self.standing.clone(), standing)].into_iter().chain(others).collect();
        let mut surplus = wanted.iter().map(|(_, count)| count).sum::<usize>().saturating_sub(self.most);
        while surplus > 0 {
            let spare =
                |(at, (_, count)): &(usize, &mut (ImageName, usize))| count - if *at == 0 { self.usual } else { 0 };
            match wanted.iter_mut().enumerate().max_by_key(spare) {
                Some((_, (_, count))) => *count -= 1,
                None => break,
            }
            surplus -= 1;
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> ImageName {
        ImageName::new(name).unwrap()
    }

    fn counts(pools: &mut Pools, now: Instant) -> Vec<usize> {
        pools.wanted(now).into_iter().map(|(_, count)| count).collect()
    }

    #[test]
    fn it_grows_with_a_burst_within_bounds_and_falls_back() {
        let start = Instant::now();
        let mut pools = Pools::new(image("msa"), 4);
        assert_eq!(counts(&mut pools, start), [4]);
        for n in 0..10 {
            pools.woken(&image("msa"), start + Duration::from_millis(n));
        }
        assert_eq!(counts(&mut pools, start), [10]);
        for n in 0..1000 {
            pools.woken(&image("msa"), start + Duration::from_millis(n));
        }
        assert_eq!(counts(&mut pools, start + Duration::from_secs(1)), [32]);
        assert_eq!(counts(&mut pools, start + Duration::from_secs(40)), [4]);
    }

    #[test]
    fn another_image_has_slots_while_it_is_asked_for() {
        let start = Instant::now();
        let mut pools = Pools::new(image("msa"), 4);
        pools.woken(&image("postfix"), start);
        pools.woken(&image("postfix"), start);
        assert_eq!(pools.wanted(start), [(image("msa"), 4), (image("postfix"), 2)]);
        assert_eq!(counts(&mut pools, start + Duration::from_secs(31)), [4]);
        pools.woken(&image("postfix"), start + Duration::from_secs(32));
        pools.forget(&image("postfix"));
        assert_eq!(counts(&mut pools, start + Duration::from_secs(32)), [4]);
    }

    #[test]
    fn a_wake_in_vain_is_no_demand() {
        let start = Instant::now();
        let mut pools = Pools::new(image("msa"), 1);
        let at = |n| start + Duration::from_millis(n);
        (0..3).for_each(|n| pools.woken(&image("msa"), at(n)));
        assert_eq!(counts(&mut pools, start), [3]);
        pools.in_vain(&image("msa"), at(1));
        pools.in_vain(&image("msa"), at(1));
        pools.in_vain(&image("postfix"), at(0));
        assert_eq!(counts(&mut pools, start), [2]);
        for n in 10..100 {
            pools.woken(&image("postfix"), at(n));
            pools.in_vain(&image("postfix"), at(n));
        }
        assert_eq!(pools.wanted(start), [(image("msa"), 2)]);
    }

    #[test]
    fn all_images_share_one_bound_and_the_usual_few_are_safe() {
        let now = Instant::now();
        let mut pools = Pools::new(image("msa"), 4);
        for _ in 0..100 {
            for name in ["postfix", "exim"] {
                pools.woken(&image(name), now);
            }
        }
        assert_eq!(counts(&mut pools, now), [4, 14, 14]);
        for _ in 0..100 {
            pools.woken(&image("msa"), now);
        }
        let shared = counts(&mut pools, now);
        assert_eq!(shared.iter().sum::<usize>(), 32);
        assert!(shared.iter().all(|count| *count >= 9), "{shared:?}");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut pools = Pools::new(image("msa"), 1);
        for n in 0..1000 {
            pools.woken(&image(&format!("i{n}")), now);
        }
        assert!(pools.wanted(now).len() <= MAX_IMAGES + 1);
    }

    #[test]
    fn none_stays_none() {
        let now = Instant::now();
        let mut pools = Pools::new(image("msa"), 0);
        pools.woken(&image("msa"), now);
        pools.woken(&image("postfix"), now);
        assert!(counts(&mut pools, now).iter().all(|count| *count == 0));
    }
}
