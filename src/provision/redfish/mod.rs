//! The Redfish client: [`Redfish`] is a machine's [`Bmc`](super::bmc::Bmc) over HTTP.
//!
//! A BMC is slow, odd and not trusted: what it sends is bounded and read leniently, and no link of
//! it leaves its own address. What can be decided without asking is a function from values, in a
//! file of its own; `client` and `channel` ask, wait and decide nothing that is worth a test without a
//! socket. All of it blocks, on threads of the provisioning module.
//!
//! Note: design/0011-redfish.md. Clauses: design/contracts/redfish.md.

mod boot;
mod channel;
mod client;
mod discovery;
mod discretion;
mod document;
mod http;
mod media;
mod meter;
mod note;
mod origin;
mod power;
mod refusal;
mod retry;
mod session;
mod survey;
mod vendor;

pub use client::{Redfish, Target};
pub use meter::{Asked, Meter};
pub use origin::{Origin, OriginError};
pub use session::Login;
pub use survey::Survey;
