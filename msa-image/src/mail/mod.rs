//! Messages as text: what is read of them, what is added, what is written here. Pure.

pub mod author;
pub mod date;
pub mod fixup;
pub mod header;
pub mod report;
pub mod trace;
