//! warren-launcher.
