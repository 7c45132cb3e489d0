//! The words of the OCI specifications as types.
//!
//! A value that exists is valid: text from a client is parsed once, here, and never again.
//! Nothing in this folder awaits, and nothing knows a socket, a file or a clock.

mod descriptor;
mod digest;
mod error_code;
mod image_index;
mod manifest;
mod reference;
mod repository_name;

pub use descriptor::{
    Annotations, Descriptor, DescriptorError, FieldProblem, MediaType, MediaTypeError,
};
pub use digest::{Algorithm, Digest, DigestError};
pub use error_code::{ErrorBody, ErrorCode};
pub use image_index::{ImageIndex, REF_NAME_ANNOTATION};
pub use manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError};
pub use reference::{Reference, ReferenceError, Tag, TagError};
pub use repository_name::{REPOSITORY_NAME_BYTES_MAX, RepositoryName, RepositoryNameError};
