//! The provisioning module: what turns a job into an installed machine.
//!
//! It stands beside the registry and shares port, access and telemetry with it, nothing else.
//! [`recipe`] judges what is asked for, [`iso`] writes a CD image, [`task_iso`] says which files of a
//! recipe stand on it, [`bmc`] is what a job asks of a machine's controller, [`job`] is the job
//! itself, [`media`] signs URLs, [`sealed`] keeps passwords.
//!
//! Notes: design/0010-provisioning.md, design/0012-recipes.md, design/0013-task-iso.md.

pub mod bmc;
pub mod iso;
pub mod job;
pub mod media;
pub mod recipe;
pub mod sealed;
pub mod task_iso;
