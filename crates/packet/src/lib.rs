//! warren-packet.
