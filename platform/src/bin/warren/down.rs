//! `warren down`: cleaning up after a `warren up` that was killed.

use crate::up;

pub fn run(arguments: &up::Arguments) -> anyhow::Result<()> {
    up::clean(arguments)
}
