//! warren-proxy.
