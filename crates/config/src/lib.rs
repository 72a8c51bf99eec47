//! warren-config.
