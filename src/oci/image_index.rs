//! `ImageIndex`: writes an OCI image index, for referrers answers and for `index.json`.
//!
//! Entries are written as they come, so a hundred thousand of them need only the text itself, and
//! a page can be closed before it grows too long.
//!
//! Spec: image-spec 1.1.1, "Image Index".

use super::descriptor::{Descriptor, MediaType};

/// The annotation of an entry of `index.json` that gives it its name.
pub const REF_NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

const END: &[u8] = b"]}";

/// An index being written.
#[derive(Clone, Debug)]
pub struct ImageIndex {
    /// The document but for its end.
    text: Vec<u8>,
    is_empty: bool,
}

impl ImageIndex {
    pub fn new() -> ImageIndex {
        let head = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":["#,
            MediaType::OCI_INDEX
        );
        ImageIndex {
            text: head.into_bytes(),
            is_empty: true,
        }
    }

    /// An index of these entries, in this order.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Descriptor>) -> ImageIndex {
        let mut index = ImageIndex::new();
        for entry in entries {
            index.push(entry);
        }
        index
    }

    pub fn push(&mut self, entry: &Descriptor) {
        if !self.is_empty {
            self.text.push(b',');
        }
        self.is_empty = false;
        serde_json::to_writer(&mut self.text, entry)
            .expect("writing a descriptor into memory cannot fail");
    }

    /// Adds the entry unless the document would then be longer than `bytes_max`; says whether
    /// it did. The first entry always fits, so that paging moves on.
    pub fn push_within(&mut self, entry: &Descriptor, bytes_max: usize) -> bool {
        let (before, was_empty) = (self.text.len(), self.is_empty);
        self.push(entry);
        let fits = was_empty || self.len_bytes() <= bytes_max;
        if !fits {
            self.text.truncate(before);
        }
        fits
    }

    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Length of the finished document.
    pub fn len_bytes(&self) -> usize {
        self.text.len() + END.len()
    }

    /// The document.
    pub fn finish(mut self) -> Vec<u8> {
        self.text.extend_from_slice(END);
        self.text
    }
}

impl Default for ImageIndex {
    fn default() -> ImageIndex {
        ImageIndex::new()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::oci::{Algorithm, Digest, Manifest};

    fn entry(content: &str) -> Descriptor {
        Descriptor::new(
            MediaType::parse(MediaType::OCI_MANIFEST).unwrap(),
            Digest::of(Algorithm::Sha256, content.as_bytes()),
            content.len() as u64,
        )
        .with_annotation(REF_NAME_ANNOTATION, format!("team/app:{content}"))
    }

    #[test]
    fn an_empty_index_has_an_empty_list_not_null() {
        assert_eq!(
            ImageIndex::new().finish(),
            br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#
        );
    }

    #[test]
    fn what_is_written_is_an_index_with_the_entries_in_order() {
        let entries = [entry("a"), entry("b\"\u{e4}"), entry("c")];
        let index = ImageIndex::of(&entries);
        let length = index.len_bytes();
        let bytes = index.finish();
        assert_eq!(bytes.len(), length);
        let manifest = Manifest::parse(Bytes::from(bytes), Some(MediaType::OCI_INDEX)).unwrap();
        assert_eq!(manifest.children(), entries);
    }

    #[test]
    fn a_page_ends_before_it_grows_too_long_but_always_holds_one_entry() {
        let mut index = ImageIndex::new();
        assert!(index.push_within(&entry("a"), 0));
        assert!(!index.push_within(&entry("b"), index.len_bytes() + 1));
        let bytes = index.finish();
        assert_eq!(
            Manifest::parse(bytes.into(), None).unwrap().children(),
            [entry("a")]
        );
    }
}
