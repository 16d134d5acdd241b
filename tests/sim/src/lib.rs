//! x
pub mod http;
pub mod pbs;
pub mod tls;
