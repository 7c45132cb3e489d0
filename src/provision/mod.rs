//! The provisioning module: what turns a job into files that a machine can read.
//!
//! It stands beside the registry and shares nothing with it but the words of `oci`. Its rooms are
//! pure so far: [`recipe`] judges what is asked for, [`iso`] writes a CD image, [`task_iso`] says
//! which files of a recipe stand on it. There is no API yet; `check-recipe` reaches all of it.
//!
//! Notes: design/0012-recipes.md, design/0013-task-iso.md.

pub mod iso;
pub mod recipe;
pub mod task_iso;
