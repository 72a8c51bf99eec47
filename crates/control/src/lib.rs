//! warren-control.
