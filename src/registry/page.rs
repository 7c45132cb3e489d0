//! Lists that come in pages: `n`, `last`, and the `Link` that leads on.

use http::StatusCode;

use super::error::RegistryError;
use crate::http1::{ResponseHead, Target};

/// The page that a request asks for.
pub(super) struct PageWanted {
    count: Option<usize>,
    /// The page begins strictly after it; it need not exist.
    pub last: Option<String>,
}

impl PageWanted {
    pub fn of(target: &Target) -> Result<Self, RegistryError> {
        let count = match target.query("n") {
            None => None,
            Some(text) => Some(parse_count(&text)?),
        };
        let last = target.query("last").map(|last| last.into_owned());
        Ok(Self { count, last })
    }

    /// Without `n` the page is the whole rest.
    pub fn count_max(&self) -> usize {
        self.count.unwrap_or(usize::MAX)
    }

    /// The head of a page of the list at `path` that ends with `ends_with`. With `n=0` there is no
    /// such name, and so nothing leads on.
    pub fn head(&self, path: &str, ends_with: Option<&str>, more: bool) -> ResponseHead {
        let head = ResponseHead::new(StatusCode::OK).with("Content-Type", "application/json");
        match (self.count, ends_with) {
            (Some(count), Some(last)) if more => {
                let next = format!("<{path}?n={count}&last={last}>; rel=\"next\"");
                head.with("Link", next)
            }
            _ => head,
        }
    }
}

/// Any number of digits is a number; one too large for us asks for everything.
fn parse_count(text: &str) -> Result<usize, RegistryError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RegistryError::PageSizeInvalid {
            value: text.to_owned(),
        });
    }
    Ok(text.parse().unwrap_or(usize::MAX))
}
