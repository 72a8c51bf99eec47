//! `warren tenant …`: one tenant.
//!
//! ```text
//!   wake, sleep, suspend, resume   ask the running platform        life.rs
//!   exec                           has its PID 1 run a program     exec.rs
//!   logs                           what the node said of it        logs.rs
//!   add, remove, passwd            edit its file                   edit.rs, file.rs
//! ```

mod edit;
mod exec;
mod file;
mod life;
mod logs;

use clap::Subcommand;

#[derive(Subcommand)]
pub enum Action {
    /// Wake a tenant
    Wake(life::Arguments),
    /// Let a tenant finish its work and sleep
    Sleep(life::Arguments),
    /// Put a tenant to sleep and shut it out until it is resumed: AUTH gets 525 5.7.13, mail to forward 450 4.2.1
    Suspend(life::Arguments),
    /// Undo a suspension
    Resume(life::Arguments),
    /// Show what the node logged of a tenant lately: its sessions at the front door, its starts, what its MSA said
    Logs(logs::Arguments),
    /// Run a program of a tenant's image in its container, which is woken for it: `warren tenant exec acme postqueue -p`
    Exec(exec::Arguments),
    /// Add a tenant: write its file and have the node read it
    Add(edit::AddArguments),
    /// Remove a tenant: move its file away and have the node read that; its volume stays
    Remove(edit::RemoveArguments),
    /// Set, add or take away the password of a tenant's account
    Passwd(edit::PasswdArguments),
}

pub fn run(action: &Action) -> anyhow::Result<()> {
    match action {
        Action::Wake(arguments) => life::wake(arguments),
        Action::Sleep(arguments) => life::sleep(arguments),
        Action::Suspend(arguments) => life::suspend(arguments),
        Action::Resume(arguments) => life::resume(arguments),
        Action::Logs(arguments) => logs::run(arguments),
        Action::Exec(arguments) => exec::run(arguments),
        Action::Add(arguments) => edit::add(arguments),
        Action::Remove(arguments) => edit::remove(arguments),
        Action::Passwd(arguments) => edit::passwd(arguments),
    }
}
