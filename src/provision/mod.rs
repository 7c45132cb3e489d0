//! The provisioning module: what turns a job into files that a machine can read.
//!
//! It stands beside the registry and shares nothing with it but the words of `oci`. Its one room is
//! pure: [`recipe`] judges what is asked for.
//!
//! Note: design/0012-recipes.md.

pub mod recipe;
