//! HTTP/1.1 as a value: bytes in, events out.
//!
//! Nothing here awaits, and nothing here knows a socket, a file or a clock: the caller brings bytes
//! and, where a time is needed, the time. So every rule that is easy to get wrong (framing, limits,
//! keep-alive, refuse-and-drain) can be tested without a connection, and gives the same events
//! however the input is cut.
//!
//! - [`Exchange`] takes the turns of one connection; its module documents the loop around it.
//! - [`RequestHead`] and [`Target`] are what a service reads of a request.
//! - [`ResponseHead`] is what it answers; [`ByteRange`], [`ChunkRange`] and [`conditional`] are the
//!   header values it has to understand on the way.
//!
//! Spec: RFC 9110 (semantics), RFC 9112 (messages). Where the RFC lets a server choose between
//! repairing a message and refusing it, we refuse: a repaired message is one that two programs on
//! the path can read differently.

pub mod body;
pub mod conditional;
pub mod date;
pub mod exchange;
pub mod exercise;
pub mod head;
pub mod range;
pub mod response;
pub mod target;

pub use body::{BodyDecoder, BodyError, BodyFraming, Decoded};
pub use conditional::{etag_matches, if_range_matches, wanted_range};
pub use date::{http_date, parse_http_date, rfc3339};
pub use exchange::{After, Exchange, Linger};
pub use head::{HeadError, HeadScanner, RequestHead, Version};
pub use range::{ByteRange, ChunkRange, ChunkRangeError, Multipart, RangeOutcome};
pub use response::{Persistence, ResponseHead};
pub use target::{Target, TargetError, TargetForm, percent_encoded};
