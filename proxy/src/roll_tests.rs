use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

#[test]
fn a_late_word_of_an_old_door_changes_nothing_but_a_new_launcher_begins_anew() {
    let (mut roll, now) = (Roll::default(), Instant::now());
    let acme = tenant("acme");
    roll.welcome(now);
    assert_eq!(roll.door(CellId(1), 7, Some(&acme)), Step::Serve);
    assert_eq!(roll.door(CellId(1), 7, Some(&acme)), Step::Leave);
    assert_eq!(roll.door(CellId(1), 8, Some(&acme)), Step::Serve);
    roll.lost();
    roll.welcome(now);
    assert_eq!(
        roll.door(CellId(1), 1, Some(&acme)),
        Step::Serve,
        "it lost count, and the door is another all the same"
    );
    assert_eq!(roll.door(CellId(1), 1, Some(&acme)), Step::Leave);
}

#[test]
fn a_number_that_is_another_tenants_now_is_another_cell() {
    let (mut roll, now) = (Roll::default(), Instant::now());
    let (acme, globex) = (tenant("acme"), tenant("globex"));
    for (cell, first, next, step) in [
        (1, None, None, Step::Serve),
        (2, None, Some(&acme), Step::Serve),
        (3, Some(&acme), Some(&acme), Step::Serve),
        (4, Some(&acme), Some(&globex), Step::Reopen),
        (5, Some(&acme), None, Step::Reopen),
    ] {
        roll.welcome(now);
        roll.door(CellId(cell), 1, None);
        if let Some(first) = first {
            assert!(roll.bound(CellId(cell), first));
        }
        roll.welcome(now);
        assert_eq!(roll.door(CellId(cell), 2, next), step, "{first:?} {next:?}");
    }
    assert!(!roll.bound(CellId(6), &acme));
}

#[test]
fn a_launcher_that_does_not_come_to_an_end_is_waited_for_so_long() {
    let (mut roll, start) = (Roll::default(), Instant::now());
    let acme = tenant("acme");
    roll.welcome(start);
    for cell in 1..=3 {
        roll.door(CellId(cell), 1, Some(&acme));
    }
    roll.all_told();
    assert_eq!(roll.due(), None);
    // Gone in the middle of it: nothing is due while there is no launcher, and the next has all the time that the first had.
    roll.welcome(start);
    roll.lost();
    assert_eq!((roll.due(), roll.overdue(start + 10 * PATIENCE)), (None, vec![]));
    let again = start + 10 * PATIENCE;
    roll.welcome(again);
    roll.door(CellId(2), 2, Some(&acme));
    assert_eq!(roll.due(), Some(again + PATIENCE));
    assert_eq!(roll.overdue(again + PATIENCE - Duration::from_millis(1)), []);
    let mut closed = roll.overdue(again + PATIENCE);
    closed.sort();
    assert_eq!((closed, roll.count(), roll.due()), (vec![CellId(1), CellId(3)], 1, None));
}

/// What happens to a launcher and the cells behind it.
#[derive(Clone, Debug)]
enum Turn {
    /// A tenant gets a cell.
    Wake(u64),
    /// It ends, told of or not.
    End(u64),
    /// The launcher says the next word that is due.
    Say,
    /// It is killed, and another one connects at once. It knows the cells that run.
    Kill,
    /// So many seconds pass.
    Wait(u64),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        1 => (1..6_u64).prop_map(Turn::Wake),
        1 => (1..6_u64).prop_map(Turn::End),
        4 => Just(Turn::Say),
        1 => Just(Turn::Kill),
        1 => (1..200_u64).prop_map(Turn::Wait),
    ];
    proptest::collection::vec(turn, 1..60)
}

/// The launcher and the cells, as they are; and what the holder made of it.
#[derive(Default)]
struct World {
    roll: Roll,
    life: u32,
    cells: u64,
    /// Number of the cell that each tenant has.
    running: BTreeMap<u64, u64>,
    unsaid: Vec<u64>,
    all_told: bool,
    told: BTreeSet<u64>,
    /// Cells that run and were ever told of: whose dials come in.
    served: BTreeSet<u64>,
    /// By the steps that were answered.
    held: BTreeSet<u64>,
}

impl World {
    fn end(&mut self, who: u64) {
        let Some(cell) = self.running.remove(&who) else { return };
        self.unsaid.retain(|unsaid| *unsaid != who);
        self.served.remove(&cell);
        // What was not told of on this connection is not taken back on it either.
        if self.told.contains(&cell) {
            self.roll.gone(CellId(cell));
            self.held.remove(&cell);
        }
    }

    fn say(&mut self) -> Result<(), TestCaseError> {
        if let Some(who) = self.unsaid.pop() {
            let (cell, tenant) = (self.running[&who], tenant(&format!("tenant{who}")));
            prop_assert_eq!(self.roll.door(CellId(cell), self.life, Some(&tenant)), Step::Serve);
            self.told.insert(cell);
            self.served.insert(cell);
            self.held.insert(cell);
        } else if !self.all_told {
            self.all_told = true;
            for CellId(cell) in self.roll.all_told() {
                self.held.remove(&cell);
            }
            let running: BTreeSet<u64> = self.running.values().copied().collect();
            prop_assert_eq!(&self.held, &running, "held when all are told");
        }
        Ok(())
    }

    fn kill(&mut self, now: Instant) {
        self.roll.lost();
        self.roll.welcome(now);
        self.life += 1;
        self.unsaid = self.running.keys().copied().collect();
        self.all_told = false;
        self.told.clear();
    }

    fn wait(&mut self, now: Instant) -> Result<(), TestCaseError> {
        let due = self.roll.due();
        for CellId(cell) in self.roll.overdue(now) {
            prop_assert!(due.is_some_and(|due| due <= now), "not before its time");
            prop_assert!(!self.told.contains(&cell), "the launcher told of it");
            self.held.remove(&cell);
            self.served.remove(&cell);
        }
        prop_assert!(self.roll.due().is_none_or(|due| due > now), "nobody is held for ever");
        Ok(())
    }
}

proptest! {
    /// Who runs is never without a door for a launcher's sake, and who is gone is let go of.
    #[test]
    fn doors_of_cells_that_run_are_kept_and_others_are_not(turns in turns()) {
        let (mut world, mut now) = (World::default(), Instant::now());
        world.kill(now);
        for turn in turns {
            match turn {
                Turn::Wake(who) if !world.running.contains_key(&who) => {
                    world.cells += 1;
                    world.running.insert(who, world.cells);
                    world.unsaid.push(who);
                }
                Turn::Wake(_) => {}
                Turn::End(who) => world.end(who),
                Turn::Say => world.say()?,
                Turn::Kill => world.kill(now),
                Turn::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    world.wait(now)?;
                }
            }
            prop_assert!(world.held.is_superset(&world.served), "{:?} of {:?}", world.held, world.served);
            prop_assert_eq!(world.roll.count(), world.held.len());
        }
    }
}
