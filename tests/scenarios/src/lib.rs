//! warren-scenarios.
