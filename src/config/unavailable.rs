//! Settings of the contract whose feature this version does not have.
//!
//! Set to its default such a setting is accepted (the operator's file says what would be so
//! anyway) with a warning; set to anything else it prevents the start. It is never read and
//! ignored: whoever sets `TLS_CERT_FILE` must not find plain HTTP behind it.

use super::values::{boolean, duration, whole};

/// One such setting.
pub(super) struct Unavailable {
    pub(super) name: &'static str,
    /// Empty: not set.
    pub(super) default: &'static str,
    /// What does not exist yet.
    pub(super) feature: &'static str,
}

impl Unavailable {
    /// Whether `value` means the default, in whatever spelling (`60m` is `1h`).
    pub(super) fn is_default(&self, value: &str) -> bool {
        fn same<T: PartialEq>(read: fn(&str) -> Option<T>, one: &str, other: &str) -> bool {
            read(one).is_some_and(|one| Some(one) == read(other))
        }
        value.is_empty()
            || value == self.default
            || same(whole, value, self.default)
            || same(duration, value, self.default)
            // `0` and `1` are also numbers; as a bool they count only beside a default in words.
            || (whole(self.default).is_none() && same(boolean, value, self.default))
    }
}

const fn row(name: &'static str, default: &'static str, feature: &'static str) -> Unavailable {
    Unavailable {
        name,
        default,
        feature,
    }
}

const RETENTION: &str = "retention";
const AUDIT: &str = "the audit log";
const TLS: &str = "TLS";

/// Every one, by feature.
pub(super) const UNAVAILABLE: &[Unavailable] = &[
    row("REGISTRY_RETENTION_TOOLS_KEEP", "0", RETENTION),
    row("REGISTRY_ENABLE_AUDIT_LOG", "true", AUDIT),
    row("REGISTRY_AUDIT_LOG_PATH", "stdout", AUDIT),
    row("ENABLE_TLS", "false", TLS),
    row("TLS_CERT_FILE", "", TLS),
    row("TLS_KEY_FILE", "", TLS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_is_recognised_in_any_spelling_and_nothing_else_is() {
        let interval = row("X", "1h", RETENTION);
        assert!(interval.is_default("1h"));
        assert!(interval.is_default("60m"));
        assert!(interval.is_default(""));
        assert!(!interval.is_default("0"));
        assert!(!interval.is_default("rubbish"));
        let keep = row("X", "0", RETENTION);
        assert!(keep.is_default("00"));
        assert!(!keep.is_default("false"));
        assert!(!keep.is_default("5"));
        let audit = row("X", "true", AUDIT);
        assert!(audit.is_default("1"));
        assert!(!audit.is_default("false"));
        let file = row("X", "", TLS);
        assert!(!file.is_default("/etc/cert.pem"));
        assert!(!file.is_default("0"));
    }
}
