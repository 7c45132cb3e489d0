//! [`UrlPrefix`]: a place that may be fetched from, as an operator writes it.

use http::Uri;

use super::provisioning::registry_name;

/// `https://host[:port][/path]` for what lies below it, or `host[:port]` for all of that host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPrefix {
    text: String,
    /// `None`: both.
    scheme: Option<&'static str>,
    host: String,
    /// `None`: the scheme's own.
    port: Option<u16>,
    /// Without a slash at its end.
    path: String,
}

impl UrlPrefix {
    pub(super) fn parse(text: &str) -> Option<UrlPrefix> {
        let prefix = |scheme, place: Place| UrlPrefix {
            text: text.to_owned(),
            scheme,
            host: place.host,
            port: place.port,
            path: place.path.trim_end_matches('/').to_owned(),
        };
        if text.contains("://") {
            let uri: Uri = text.parse().ok()?;
            let place = Place::of(&uri)?;
            return uri
                .query()
                .is_none()
                .then(|| prefix(Some(place.scheme), place));
        }
        let uri: Uri = format!("http://{}", registry_name(text)?).parse().ok()?;
        Some(prefix(None, Place::of(&uri)?))
    }

    /// Whether `url` lies below it. A path with a dot segment, in whatever spelling, is nowhere: whoever
    /// serves it may read it as another.
    pub fn holds(&self, url: &Uri) -> bool {
        let Some(place) = Place::of(url) else {
            return false;
        };
        let own_port = if place.scheme == "https" { 443 } else { 80 };
        let below = place.path.strip_prefix(&self.path);
        self.scheme.is_none_or(|scheme| scheme == place.scheme)
            && self.host == place.host
            && self.port.unwrap_or(own_port) == place.port.unwrap_or(own_port)
            && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

/// What of a URL counts.
struct Place {
    scheme: &'static str,
    host: String,
    port: Option<u16>,
    path: String,
}

impl Place {
    fn of(url: &Uri) -> Option<Place> {
        let authority = url.authority()?;
        let scheme = match url.scheme_str()? {
            "http" => "http",
            "https" => "https",
            _ => return None,
        };
        let path = url.path();
        let is_dots = |segment: &str| {
            let plain = segment.to_ascii_lowercase().replace("%2e", ".");
            plain == "." || plain == ".."
        };
        let is_odd = path.split('/').any(is_dots)
            || path.contains('\\')
            || ["%2f", "%5c"]
                .iter()
                .any(|odd| path.to_ascii_lowercase().contains(odd));
        if authority.as_str().contains('@') || authority.host().is_empty() || is_odd {
            return None;
        }
        Some(Place {
            scheme,
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16(),
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(prefix: &str, url: &str) -> bool {
        let prefix = UrlPrefix::parse(prefix).unwrap_or_else(|| panic!("{prefix} is one"));
        url.parse().is_ok_and(|url| prefix.holds(&url))
    }

    #[test]
    fn a_prefix_holds_what_lies_below_it_and_nothing_beside() {
        for (prefix, url) in [
            ("files.test", "https://files.test/a"),
            ("files.test", "http://FILES.test:80/a?b=c"),
            ("files.test:8080", "http://files.test:8080/"),
            ("[::1]:8080", "http://[::1]:8080/a"),
            ("https://files.test", "https://files.test:443/a"),
            ("https://files.test/ks/", "https://files.test/ks/a/b"),
            ("https://files.test/ks", "https://files.test/ks"),
            ("https://files.test/ks", "https://files.test/ks?token=1"),
        ] {
            assert!(holds(prefix, url), "{prefix} {url}");
        }
        for (prefix, url) in [
            ("files.test", "http://files.test:8080/"),
            ("files.test", "http://files.test.evil.test/"),
            ("files.test", "http://evil.test/files.test"),
            ("files.test", "http://files.test@evil.test/"),
            ("files.test", "http://user@files.test/"),
            ("files.test", "ftp://files.test/"),
            ("https://files.test", "http://files.test/"),
            ("https://files.test/ks", "https://files.test/ksx"),
            ("https://files.test/ks", "https://files.test/ks/../secret"),
            (
                "https://files.test/ks",
                "https://files.test/ks/%2E%2e/secret",
            ),
            ("https://files.test/ks", "https://files.test/ks/..%2fsecret"),
            ("https://files.test/ks", "https://files.test/ks/./a"),
        ] {
            assert!(!holds(prefix, url), "{prefix} {url}");
        }
    }

    #[test]
    fn what_is_no_place_is_none() {
        for text in [
            "",
            "files test",
            "ftp://files.test",
            "https://",
            "https://user@files.test",
            "https://files.test/?a=b",
            "https://files.test/../a",
            "files.test/path",
            "*.files.test",
        ] {
            assert_eq!(UrlPrefix::parse(text), None, "{text}");
        }
    }
}
