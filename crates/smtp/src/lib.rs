//! warren-smtp.
