//! warren-launcher-api.
