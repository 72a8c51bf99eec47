//! The whole MSA over loopback sockets.

mod attacks;
mod delivery;
mod entrance;
mod harness;
mod life;
mod real_mail;
