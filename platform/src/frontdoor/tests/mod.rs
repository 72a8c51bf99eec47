//! The front door over loopback, with real TLS and an MSA of the tests'.

mod dialogues;
mod limits;
mod rig;
