//! warren-msa.
