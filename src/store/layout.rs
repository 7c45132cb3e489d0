//! Every path of the storage folder; pure, and the only place where paths are made.
//!
//! ```text
//! ROOT/oci-layout  ROOT/index.json         image layout 1.0.0
//! ROOT/blobs/<alg>/<hex>                   blobs and manifests: whole, verified, read-only
//! ROOT/repositories/<name>/refs/<tag>      a tag: the manifest's digest
//! ROOT/repositories/<name>/_members/<alg>/<hex>   what the repository serves
//! ROOT/repositories/<name>/_referrers/<alg>/<hex>/<alg>-<hex>   under its subject, what is about it
//! ROOT/_uploads/<id>/{session,data}        uploads in progress
//! ROOT/_uploads/.<id>                      small files on their way to a name
//! ROOT/_state/                             format, lock, quarantine
//! ```
//!
//! No text from a client reaches a path but through [`RepositoryName`], [`Tag`], [`Digest`] and
//! [`UploadId`], whose grammars know no `/`, no leading `.` and no leading `_` in a component.
//! A component that is exactly `refs` is written `_refs`, which no component can be, so that
//! every name has one path and every path one name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::oci::{Algorithm, Digest, RepositoryName, Tag};

/// The version of the tree this program writes; a newer one is refused by name.
pub const FORMAT: u32 = 1;
/// The content of `oci-layout`: readers take this version and no other.
pub const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The name of an upload session: 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(uuid::Uuid);

impl UploadId {
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    /// Reads the form that [`Display`](fmt::Display) writes, and no other.
    pub fn parse(text: &str) -> Option<Self> {
        let id = uuid::Uuid::try_parse(text).ok()?;
        (id.hyphenated().to_string() == text).then_some(Self(id))
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(formatter)
    }
}

/// The storage folder.
#[derive(Debug, Clone)]
pub struct Layout {
    root: Arc<Path>,
}

impl Layout {
    pub fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn oci_layout(&self) -> PathBuf {
        self.root.join("oci-layout")
    }

    pub fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub fn all_blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The folder of all blobs of one algorithm.
    pub fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.all_blobs().join(algorithm.name())
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    pub fn repositories(&self) -> PathBuf {
        self.root.join("repositories")
    }

    /// The folder of one repository; that of `a/b` lies in that of `a`.
    pub fn repository(&self, name: &RepositoryName) -> PathBuf {
        let mut path = self.repositories();
        for component in name.components() {
            path.push(if component == "refs" {
                "_refs"
            } else {
                component
            });
        }
        path
    }

    pub fn tags(&self, name: &RepositoryName) -> PathBuf {
        self.repository(name).join("refs")
    }

    pub fn tag(&self, name: &RepositoryName, tag: &Tag) -> PathBuf {
        self.tags(name).join(tag.as_str())
    }

    pub fn all_members(&self, name: &RepositoryName) -> PathBuf {
        self.repository(name).join("_members")
    }

    pub fn members(&self, name: &RepositoryName, algorithm: Algorithm) -> PathBuf {
        self.all_members(name).join(algorithm.name())
    }

    pub fn member(&self, name: &RepositoryName, digest: &Digest) -> PathBuf {
        self.members(name, digest.algorithm()).join(digest.hex())
    }

    pub fn all_referrers(&self, name: &RepositoryName) -> PathBuf {
        self.repository(name).join("_referrers")
    }

    /// The folder of all subjects of one algorithm.
    pub fn referrers_by(&self, name: &RepositoryName, algorithm: Algorithm) -> PathBuf {
        self.all_referrers(name).join(algorithm.name())
    }

    /// The folder of what is about `subject`.
    pub fn referrers(&self, name: &RepositoryName, subject: &Digest) -> PathBuf {
        self.referrers_by(name, subject.algorithm())
            .join(subject.hex())
    }

    pub fn referrer(&self, name: &RepositoryName, subject: &Digest, referrer: &Digest) -> PathBuf {
        let file = format!("{}-{}", referrer.algorithm().name(), referrer.hex());
        self.referrers(name, subject).join(file)
    }

    /// The manifest that a file among the [`referrers`](Self::referrers) of a subject stands for.
    pub fn referrer_of(file_name: &str) -> Option<Digest> {
        let (algorithm, hex) = file_name.split_once('-')?;
        Digest::parse(&format!("{algorithm}:{hex}")).ok()
    }

    pub fn uploads(&self) -> PathBuf {
        self.root.join("_uploads")
    }

    pub fn upload(&self, id: UploadId) -> PathBuf {
        self.uploads().join(id.to_string())
    }

    /// Offset and hash state of an upload: the truth about it.
    pub fn upload_session(&self, id: UploadId) -> PathBuf {
        self.upload(id).join("session")
    }

    pub fn upload_data(&self, id: UploadId) -> PathBuf {
        self.upload(id).join("data")
    }

    /// A small file before it has its name.
    pub fn unnamed(&self, id: UploadId) -> PathBuf {
        self.uploads().join(format!(".{id}"))
    }

    pub fn state(&self) -> PathBuf {
        self.root.join("_state")
    }

    pub fn format(&self) -> PathBuf {
        self.state().join("format")
    }

    /// What the collector has found unreachable so far.
    pub fn quarantine(&self) -> PathBuf {
        self.state().join("quarantine")
    }

    /// Is there once the referrers of all that was ever pushed are noted.
    pub fn referrers_noted(&self) -> PathBuf {
        self.state().join("referrers")
    }

    pub fn lock(&self) -> PathBuf {
        self.state().join("lock")
    }

    /// Whether a folder below a repository's says what it serves.
    pub fn is_members_folder(folder_name: &str) -> bool {
        folder_name == "_members"
    }

    /// Whether a folder below a repository's holds its tags.
    pub fn is_tags_folder(folder_name: &str) -> bool {
        folder_name == "refs"
    }

    /// The component of a repository's name that a folder stands for; `None` for a folder of ours.
    pub fn component_of(folder_name: &str) -> Option<&str> {
        match folder_name {
            "_refs" => Some("refs"),
            name if name.starts_with(['_', '.']) || Self::is_tags_folder(name) => None,
            name => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nest_and_collide_have_paths_of_their_own() {
        let layout = Layout::new(Path::new("/r"));
        let path = |name: &str| layout.repository(&RepositoryName::parse(name).expect("valid"));
        assert_eq!(path("a/b"), Path::new("/r/repositories/a/b"));
        assert_eq!(path("a/refs"), Path::new("/r/repositories/a/_refs"));
        let name = RepositoryName::parse("a").expect("valid");
        let tag = Tag::parse("latest").expect("valid");
        assert_eq!(
            layout.tag(&name, &tag),
            Path::new("/r/repositories/a/refs/latest")
        );
        assert_ne!(path("a/refs/latest"), layout.tag(&name, &tag));
        assert_eq!(Layout::component_of("_refs"), Some("refs"));
        assert_eq!(Layout::component_of("_members"), None);
        assert_eq!(Layout::component_of("_referrers"), None);
    }

    #[test]
    fn a_referrer_is_read_from_the_name_of_its_file() {
        let layout = Layout::new(Path::new("/r"));
        let name = RepositoryName::parse("a").expect("valid");
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"x");
            let path = layout.referrer(&name, &digest, &digest);
            let file = path.file_name().and_then(|name| name.to_str());
            assert_eq!(file.and_then(Layout::referrer_of), Some(digest));
        }
        assert_eq!(Layout::referrer_of(".x"), None);
        assert_eq!(Layout::referrer_of("sha256-x"), None);
    }

    #[test]
    fn an_upload_id_is_read_in_one_form_only() {
        let id = UploadId::from_random([0xab; 16]);
        let text = id.to_string();
        assert_eq!(UploadId::parse(&text), Some(id));
        assert_eq!(UploadId::parse(&text.to_uppercase()), None);
        assert_eq!(UploadId::parse(&text.replace('-', "")), None);
        assert_eq!(UploadId::parse("../x"), None);
    }
}
