//! The registry that machines are born from.
//!
//! The modules; arrows never turn back (`tests/tidy.rs` holds the table):
//!
//! ```text
//! main ─▶ server ─▶ registry ─▶ store ─▶ hash ─▶ oci
//!            ├────▶ admin          └───▶ io
//!            ├────▶ access ─▶ http1
//!            ├────▶ service ─▶ http1, io
//!            └────▶ provision ─▶ access, service, io
//! main ─▶ pull ─▶ oci, hash, http1
//! ```
#![deny(unsafe_code)]

pub mod access;
pub mod admin;
pub mod config;
pub mod gc;
pub mod hash;
pub mod http1;
pub mod io;
pub mod limits;
pub mod oci;
pub mod provision;
pub mod pull;
pub mod registry;
pub mod server;
pub mod service;
pub mod store;
pub mod telemetry;
