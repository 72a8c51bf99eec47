//! warren-receiver.
