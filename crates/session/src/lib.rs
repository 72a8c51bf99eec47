//! warren-session.
