//! warren-wire.
