//! warren-platform.
