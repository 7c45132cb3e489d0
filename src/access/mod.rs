//! Stub.
use crate::config::AccessConfig;
use bytes::Bytes;
use http::StatusCode;
use std::net::IpAddr;
pub struct Access;
#[derive(Clone, Copy)]
pub enum Permission { Ping, Pull, Push, Delete, Admin }
pub struct Grant;
pub enum Decision { Granted(Grant), Refused(Refusal), Pending(Pending) }
pub struct Refusal;
impl Refusal {
    pub fn status(&self) -> StatusCode { StatusCode::UNAUTHORIZED }
    pub fn headers(&self) -> Vec<(&'static str, String)> { vec![] }
    pub fn body(&self) -> Bytes { Bytes::new() }
}
pub struct Pending;
pub struct Verdict;
impl Pending { pub fn verify(self) -> Verdict { Verdict } }
impl Access {
    pub fn open(_: &AccessConfig) -> Result<Self, String> { Ok(Access) }
    pub fn authorize(&self, _: Option<&str>, _: Permission, _: IpAddr) -> Decision { Decision::Granted(Grant) }
    pub fn complete(&self, _: Verdict, _: Permission, _: IpAddr) -> Result<Grant, Refusal> { Ok(Grant) }
    pub fn reload_if_changed(&self) {}
}
