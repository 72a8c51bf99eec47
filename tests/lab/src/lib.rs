//! warren-lab.
