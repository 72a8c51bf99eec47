//! warren-daemon.
