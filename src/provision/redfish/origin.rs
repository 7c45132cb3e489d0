//! Where a BMC is, and the links it gives: one origin, which no link leaves.

use std::fmt;

use http::Uri;
use http::uri::PathAndQuery;

/// A link longer than this is no link of a BMC.
const LINK_BYTES_MAX: usize = 1024;

/// Scheme, host and port of a BMC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    https: bool,
    /// Lower case, without the scheme's own port.
    authority: String,
}

/// A path at the BMC that it named itself or the standard fixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link(String);

/// Why an address of a BMC is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginError {
    NotAUrl,
    Scheme,
    UserInfo,
    Path,
}

/// Why a link is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkError {
    Unreadable,
    /// It leads to another host, port or scheme.
    Foreign {
        to: String,
    },
}

impl Origin {
    /// `https://host[:port]`, with nothing or the service root behind it.
    pub fn parse(text: &str) -> Result<Origin, OriginError> {
        let uri: Uri = text.trim().parse().map_err(|_| OriginError::NotAUrl)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(OriginError::Scheme),
        };
        let authority = uri.authority().ok_or(OriginError::NotAUrl)?;
        if authority.as_str().contains('@') {
            return Err(OriginError::UserInfo);
        }
        if !matches!(uri.path(), "" | "/" | "/redfish/v1" | "/redfish/v1/") || uri.query().is_some()
        {
            return Err(OriginError::Path);
        }
        Ok(Origin {
            https,
            authority: plain_authority(https, authority.as_str()),
        })
    }

    pub fn is_https(&self) -> bool {
        self.https
    }

    /// The path that `text` leads to, a path itself or a whole URL.
    pub fn link(&self, text: &str) -> Result<Link, LinkError> {
        if text.len() > LINK_BYTES_MAX {
            return Err(LinkError::Unreadable);
        }
        // `//host/path` is a URL without its scheme.
        if text.starts_with('/') && !text.starts_with("//") {
            let path: PathAndQuery = text.parse().map_err(|_| LinkError::Unreadable)?;
            return Ok(Link(path.as_str().to_owned()));
        }
        let uri: Uri = text.parse().map_err(|_| LinkError::Unreadable)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(LinkError::Unreadable);
        };
        let https = scheme == "https";
        let same = (https || scheme == "http")
            && https == self.https
            && plain_authority(https, authority.as_str()) == self.authority;
        if !same {
            return Err(LinkError::Foreign {
                to: format!("{scheme}://{}", host_and_port(authority.as_str())),
            });
        }
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        Ok(Link(path.to_owned()))
    }

    pub fn url(&self, link: &Link) -> String {
        format!("{self}{}", link.0)
    }
}

impl Link {
    /// Where the standard begins.
    pub fn service_root() -> Link {
        Link("/redfish/v1/".to_owned())
    }

    /// The member `name` of this collection.
    pub fn below(&self, name: &str) -> Link {
        Link(format!("{}/{name}", self.0.trim_end_matches('/')))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn plain_authority(https: bool, authority: &str) -> String {
    let own_port = if https { ":443" } else { ":80" };
    let lower = authority.to_ascii_lowercase();
    lower.strip_suffix(own_port).unwrap_or(&lower).to_owned()
}

fn host_and_port(authority: &str) -> &str {
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(out, "{scheme}://{}", self.authority)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Display for OriginError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            OriginError::NotAUrl => "expected a URL such as https://10.0.0.7",
            OriginError::Scheme => "expected a URL that begins with https:// or http://",
            OriginError::UserInfo => "a user does not belong into the URL",
            OriginError::Path => "expected the host alone, such as https://10.0.0.7",
        })
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Unreadable => out.write_str("a link that cannot be read"),
            LinkError::Foreign { to } => write!(
                out,
                "it leads away to {to}; if that is the BMC, give that address"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_scheme_and_a_host() {
        for (text, shown) in [
            ("https://BMC.lan", "https://bmc.lan"),
            ("https://bmc.lan:443/redfish/v1/", "https://bmc.lan"),
            ("http://10.0.0.7:8000/", "http://10.0.0.7:8000"),
            ("https://[fe80::1]:444", "https://[fe80::1]:444"),
        ] {
            let origin = Origin::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(origin.to_string(), shown);
        }
        for (text, error) in [
            ("", OriginError::NotAUrl),
            ("10.0.0.7", OriginError::Scheme),
            ("ftp://10.0.0.7", OriginError::Scheme),
            ("https://root:calvin@10.0.0.7", OriginError::UserInfo),
            ("https://10.0.0.7/ui", OriginError::Path),
            ("https://10.0.0.7/?a=b", OriginError::Path),
        ] {
            assert_eq!(Origin::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn no_link_leaves_the_origin() {
        let origin = Origin::parse("https://bmc.lan").unwrap();
        let path = |text: &str| origin.link(text).map(|link| link.as_str().to_owned());
        assert_eq!(
            path("/redfish/v1/Systems"),
            Ok("/redfish/v1/Systems".into())
        );
        assert_eq!(path("https://BMC.lan:443/a?b"), Ok("/a?b".into()));
        for text in [
            "https://evil.lan/redfish/v1/Systems",
            "http://bmc.lan/redfish/v1/Systems",
            "https://bmc.lan:444/x",
            "https://bmc.lan@evil.lan/x",
        ] {
            assert!(
                matches!(path(text), Err(LinkError::Foreign { .. })),
                "{text}"
            );
        }
        let long = format!("/{}", "a".repeat(LINK_BYTES_MAX));
        for text in ["", "Systems", "//evil.lan/x", "/a b", "/a\r\nb", &long] {
            assert_eq!(path(text), Err(LinkError::Unreadable), "{text:?}");
        }
    }
}
