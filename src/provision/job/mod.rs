//! A job: what it is ([`machine`]), how an effect of it is carried out ([`perform`]), where it is
//! kept ([`store`]), and who carries it along ([`worker`]).

pub mod machine;
pub mod one_slot;
pub mod perform;
pub mod store;
pub mod worker;
