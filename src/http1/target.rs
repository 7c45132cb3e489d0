//! The request target: decoded once when the head is parsed, borrowed ever after.
//!
//! A path is never normalised. `//`, `.` and `..` stay what they are and match no route, so there is
//! no second spelling of a resource. An encoded slash is refused for the same reason: decoded it
//! would make a separator that the client did not write.
//!
//! Spec: RFC 9112 section 3.2, RFC 3986 section 2.1.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use http::Method;

/// Why a target is refused. Always 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// None of origin-form, absolute-form with http or https, or `*` for OPTIONS.
    UnknownForm,
    /// An absolute-form whose authority is empty or names a user.
    BadAuthority,
    /// A byte that no URI holds unescaped (RFC 3986 appendix A), or `#`.
    ForbiddenByte,
    /// `%` without two hex digits behind it.
    BadEscape,
    /// `%2F` in the path.
    EscapedSlash,
    /// An escape for a control byte, NUL included.
    EscapedControl,
    /// The escapes of a segment, key or value decode to something that is not UTF-8.
    NotText,
}

/// Which of the forms of RFC 9112 section 3.2 the client used. For logs; both name a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetForm {
    /// `/v2/`
    Origin,
    /// `http://host/v2/`; the authority is ignored, since one server answers for all.
    Absolute,
    /// `*`, with OPTIONS only.
    Asterisk,
}

/// A path and a query that hold only what can be decoded.
#[derive(Clone)]
pub struct Target {
    /// The head, or whatever text the target was found in.
    text: Arc<str>,
    form: TargetForm,
    path: Range<u16>,
    query: Option<Range<u16>>,
    /// Only when the raw path holds an escape.
    decoded_path: Option<Box<str>>,
}

impl Target {
    /// Parses a target that stands alone.
    pub fn parse(method: &Method, target: &str) -> Result<Target, TargetError> {
        if u16::try_from(target.len()).is_err() {
            return Err(TargetError::UnknownForm);
        }
        Target::parse_within(method, Arc::from(target), 0..target.len())
    }

    /// Parses the part `span` of `text`, of which a reference is kept. `text` is at most
    /// `u16::MAX` bytes long.
    pub(super) fn parse_within(
        method: &Method,
        text: Arc<str>,
        span: Range<usize>,
    ) -> Result<Target, TargetError> {
        let target = &text[span.clone()];
        if !target.bytes().all(is_target_byte) {
            return Err(TargetError::ForbiddenByte);
        }
        let (form, path_offset) = match target.as_bytes().first() {
            Some(b'/') => (TargetForm::Origin, 0),
            Some(b'*') if target == "*" && method == Method::OPTIONS => (TargetForm::Asterisk, 0),
            _ => (TargetForm::Absolute, authority_end(target)?),
        };
        let path_and_query = &target[path_offset..];
        let path_bytes = path_and_query.find('?').unwrap_or(path_and_query.len());
        let (raw_path, after_path) = path_and_query.split_at(path_bytes);
        let raw_query = after_path.strip_prefix('?');

        // RFC 9112 section 3.2.4: OPTIONS with an authority alone means the server itself.
        let form = if method == Method::OPTIONS && path_and_query.is_empty() {
            TargetForm::Asterisk
        } else {
            form
        };
        let decoded_path = if raw_path.contains('%') {
            Some(decode_path(raw_path)?)
        } else {
            None
        };
        if let Some(query) = raw_query.filter(|query| query.contains('%')) {
            for piece in query.split(['&', '=']) {
                decode(piece)?;
            }
        }

        let path_start = span.start + path_offset;
        let path_end = path_start + path_bytes;
        let query = raw_query.map(|query| span_of(path_end + 1, query.len()));
        let path = span_of(path_start, path_bytes);
        Ok(Target {
            text,
            form,
            path,
            query,
            decoded_path,
        })
    }

    pub fn form(&self) -> TargetForm {
        self.form
    }

    /// The path, percent-decoded once. It begins with `/`, except for `*`.
    pub fn path(&self) -> &str {
        self.decoded_path
            .as_deref()
            .unwrap_or_else(|| self.raw_path())
    }

    /// The path as it was sent.
    pub fn raw_path(&self) -> &str {
        match (self.form, self.slice(&self.path)) {
            (TargetForm::Asterisk, _) => "*",
            (_, "") => "/",
            (_, path) => path,
        }
    }

    /// The decoded segments between the slashes of the path: `/v2/a/` gives `v2`, `a` and an empty
    /// one. None for `*`.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        let within = self.path().strip_prefix('/');
        within.into_iter().flat_map(|within| within.split('/'))
    }

    /// What stands behind the `?`, as it was sent.
    pub fn raw_query(&self) -> Option<&str> {
        self.query.as_ref().map(|query| self.slice(query))
    }

    /// The decoded keys and values of the query, in order. A key without `=` has an empty value.
    ///
    /// `+` stays `+`: it is a space only in HTML forms, and a digest algorithm may contain one.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        let pairs = self
            .raw_query()
            .unwrap_or("")
            .split('&')
            .filter(|pair| !pair.is_empty());
        pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_checked(key), decode_checked(value))
        })
    }

    /// The first value of `key`.
    pub fn query(&self, key: &str) -> Option<Cow<'_, str>> {
        self.query_pairs()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    /// Every value of `key`, in order.
    pub fn query_all<'a>(&'a self, key: &str) -> impl Iterator<Item = Cow<'a, str>> {
        self.query_pairs()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value)
    }

    fn slice(&self, span: &Range<u16>) -> &str {
        &self.text[usize::from(span.start)..usize::from(span.end)]
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Target")
            .field("form", &self.form)
            .field("raw_path", &self.raw_path())
            .field("raw_query", &self.raw_query())
            .finish()
    }
}

fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte)
}

fn span_of(start: usize, bytes: usize) -> Range<u16> {
    let narrow =
        |offset: usize| u16::try_from(offset).expect("a head is at most u16::MAX bytes long");
    narrow(start)..narrow(start + bytes)
}

/// Where the path begins in an absolute-form target.
fn authority_end(target: &str) -> Result<usize, TargetError> {
    let scheme_bytes = ["http://", "https://"]
        .into_iter()
        .find(|scheme| {
            target
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
        .map(str::len)
        .ok_or(TargetError::UnknownForm)?;
    let rest = &target[scheme_bytes..];
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    if !is_host(authority) {
        return Err(TargetError::BadAuthority);
    }
    Ok(scheme_bytes + authority.len())
}

/// Whether `text` is `uri-host [ ":" port ]` with a host. A user name in it is refused, as RFC 9110
/// section 4.2.4 asks, and so is an escape: no name that resolves holds one.
pub(super) fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, after)) => {
            let is_address = !address.is_empty()
                && address
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
            if !is_address || !(after.is_empty() || after.starts_with(':')) {
                return false;
            }
            return after.bytes().skip(1).all(|byte| byte.is_ascii_digit());
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let is_name_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte);
    !host.is_empty()
        && host.bytes().all(is_name_byte)
        && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// `text` as the value of a query's key: everything escaped that is not unreserved (RFC 3986).
pub fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            byte => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

fn decode_path(raw: &str) -> Result<Box<str>, TargetError> {
    let escaped_slash = raw
        .as_bytes()
        .windows(3)
        .any(|window| window.eq_ignore_ascii_case(b"%2f"));
    if escaped_slash {
        return Err(TargetError::EscapedSlash);
    }
    decode(raw).map(|decoded| decoded.into_owned().into_boxed_str())
}

/// Decodes what `parse_within` has found to be decodable.
fn decode_checked(raw: &str) -> Cow<'_, str> {
    decode(raw).expect("escapes were checked when the target was parsed")
}

fn decode(raw: &str) -> Result<Cow<'_, str>, TargetError> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => decode_escape(bytes.next(), bytes.next())?,
            byte => byte,
        };
        decoded.push(byte);
    }
    String::from_utf8(decoded)
        .map(Cow::Owned)
        .map_err(|_| TargetError::NotText)
}

fn decode_escape(high: Option<u8>, low: Option<u8>) -> Result<u8, TargetError> {
    let digit = |byte: Option<u8>| {
        byte.and_then(|byte| char::from(byte).to_digit(16))
            .ok_or(TargetError::BadEscape)
    };
    let byte = (digit(high)? << 4 | digit(low)?) as u8;
    if byte.is_ascii_control() {
        Err(TargetError::EscapedControl)
    } else {
        Ok(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Result<Target, TargetError> {
        Target::parse(&Method::GET, target)
    }

    #[test]
    fn an_origin_form_gives_path_and_query() {
        let target =
            get("/v2/a/b/blobs/uploads/?mount=sha256:ab&from=team%2Fapp&flag&=x&&mount=two")
                .unwrap();
        assert_eq!(target.path(), "/v2/a/b/blobs/uploads/");
        assert_eq!(
            target.segments().collect::<Vec<_>>(),
            ["v2", "a", "b", "blobs", "uploads", ""]
        );
        assert_eq!(target.query("from").as_deref(), Some("team/app"));
        assert_eq!(target.query("flag").as_deref(), Some(""));
        assert_eq!(target.query("absent"), None);
        assert_eq!(
            target.query_all("mount").collect::<Vec<_>>(),
            ["sha256:ab", "two"]
        );
        assert_eq!(target.query_pairs().count(), 5);
    }

    #[test]
    fn escapes_are_decoded_exactly_once() {
        let target =
            get("/v2/a/blobs/sha256%3Aab%2525?digest=sha256%3aab%2526&k%3Dy=a%3Db").unwrap();
        assert_eq!(target.path(), "/v2/a/blobs/sha256:ab%25");
        assert_eq!(target.raw_path(), "/v2/a/blobs/sha256%3Aab%2525");
        assert_eq!(target.query("digest").as_deref(), Some("sha256:ab%26"));
        assert_eq!(target.query("k=y").as_deref(), Some("a=b"));
    }

    #[test]
    fn a_plus_in_a_query_stays_a_plus() {
        assert_eq!(
            get("/?digest=a+b:c").unwrap().query("digest").as_deref(),
            Some("a+b:c")
        );
    }

    #[test]
    fn an_absolute_form_is_its_path() {
        for (text, path) in [
            ("http://registry:8080/v2/", "/v2/"),
            ("HTTPS://[::1]:8080/v2/?a=b", "/v2/"),
            ("http://registry", "/"),
            ("http://registry?a=b", "/"),
        ] {
            let target = get(text).unwrap();
            assert_eq!(
                (target.path(), target.form()),
                (path, TargetForm::Absolute),
                "{text}"
            );
        }
        assert_eq!(
            get("http://registry?a=b").unwrap().query("a").as_deref(),
            Some("b")
        );
    }

    #[test]
    fn an_asterisk_is_for_options_alone() {
        let target = Target::parse(&Method::OPTIONS, "*").unwrap();
        assert_eq!((target.path(), target.segments().count()), ("*", 0));
        assert_eq!(
            Target::parse(&Method::OPTIONS, "http://registry")
                .unwrap()
                .path(),
            "*"
        );
        assert_eq!(get("*").unwrap_err(), TargetError::UnknownForm);
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        let text = "application/x+json; a=\"\u{e4}\"&b%";
        let target = get(&format!(
            "/v2/?last=1&artifactType={}",
            percent_encoded(text)
        ))
        .unwrap();
        assert_eq!(target.query("artifactType").as_deref(), Some(text));
        assert_eq!(target.query("last").as_deref(), Some("1"));
    }

    #[test]
    fn a_path_is_never_normalised() {
        for text in ["//v2//", "/v2/../x", "/v2/./x", "/v2/%2e%2e/x"] {
            let target = get(text).unwrap();
            assert_eq!(target.path(), text.replace("%2e", "."));
        }
    }

    #[test]
    fn targets_that_cannot_be_decoded_are_refused() {
        use TargetError::*;
        for (text, error) in [
            ("", UnknownForm),
            ("v2/", UnknownForm),
            ("registry:443", UnknownForm),
            ("ftp://registry/", UnknownForm),
            ("http:/v2/", UnknownForm),
            ("http://", BadAuthority),
            ("http:///v2/", BadAuthority),
            ("http://user@registry/", BadAuthority),
            ("http://registry:8x/", BadAuthority),
            ("http://r%65gistry/", BadAuthority),
            ("http://[::1/", BadAuthority),
            ("http://[::1]8/", BadAuthority),
            ("http://[]/", BadAuthority),
            ("/a b", ForbiddenByte),
            ("/a#b", ForbiddenByte),
            ("/a\\b", ForbiddenByte),
            ("/<a>", ForbiddenByte),
            ("/?a={b}", ForbiddenByte),
            ("/ä", ForbiddenByte),
            ("/a\tb", ForbiddenByte),
            ("/%", BadEscape),
            ("/%4", BadEscape),
            ("/%4g", BadEscape),
            ("/%+1", BadEscape),
            ("/?a=%", BadEscape),
            ("/?%zz", BadEscape),
            ("/?a=%4&b=1", BadEscape),
            ("/a%2Fb", EscapedSlash),
            ("/a%2fb", EscapedSlash),
            ("/a%00", EscapedControl),
            ("/a%0d%0aX:y", EscapedControl),
            ("/?a=%00", EscapedControl),
            ("/?a=%7F", EscapedControl),
            ("/%ff", NotText),
            ("/?a=%c3", NotText),
        ] {
            assert_eq!(
                get(text).map(|target| target.path().to_owned()),
                Err(error),
                "{text:?}"
            );
        }
    }
}
