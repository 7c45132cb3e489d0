//! A job: what it is ([`machine`]) and how an effect of it is carried out ([`perform`]).

pub mod machine;
pub mod perform;
