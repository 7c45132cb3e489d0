//! Typed values of settings and how their text is read. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// A value that must not be shown: its `Debug` says only that it exists.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// The value itself, for the one place that checks it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(not shown)")
    }
}

/// Where to listen. `:8080` means every address of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    host: Option<IpAddr>,
    port: u16,
}

impl ListenAddress {
    /// Every address of the machine.
    pub const fn any(port: u16) -> Self {
        ListenAddress { host: None, port }
    }

    pub const fn port(self) -> u16 {
        self.port
    }

    /// The addresses to try, the first that can be had being the one: for `:8080` the dual-stack
    /// `[::]:8080`, and `0.0.0.0:8080` where the kernel has no IPv6.
    pub fn candidates(self) -> Vec<SocketAddr> {
        match self.host {
            Some(host) => vec![SocketAddr::new(host, self.port)],
            None => vec![
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.port),
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.port),
            ],
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = digits(port)?.parse().ok()?;
        let host = match host {
            "" => None,
            // The one name that needs no resolver. Another would make the start depend on DNS.
            "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
            _ => Some(match host.strip_prefix('[') {
                Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into(),
                None => host.parse::<Ipv4Addr>().ok()?.into(),
            }),
        };
        Some(ListenAddress { host, port })
    }

    /// Whether both cannot listen at once. Port 0 is a new one each time.
    pub(super) fn collides_with(self, other: ListenAddress) -> bool {
        let all = |address: ListenAddress| address.host.is_none_or(|host| host.is_unspecified());
        self.port != 0
            && self.port == other.port
            && (self.host == other.host || all(self) || all(other))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(host) => SocketAddr::new(host, self.port).fmt(out),
            None => write!(out, ":{}", self.port),
        }
    }
}

/// Which repositories keep a tag on the first digest it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImmutableTags {
    None,
    All,
    /// Repositories with one of these names, and those below them.
    Below(Vec<String>),
}

impl ImmutableTags {
    /// Whether a tag of `repository` may not move. A prefix ends at a `/`: `os` is not `os-images`.
    pub fn covers(&self, repository: &str) -> bool {
        match self {
            ImmutableTags::None => false,
            ImmutableTags::All => true,
            ImmutableTags::Below(prefixes) => prefixes.iter().any(|prefix| {
                repository
                    .strip_prefix(prefix.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        match boolean(text) {
            Some(true) => return Some(ImmutableTags::All),
            Some(false) => return Some(ImmutableTags::None),
            None => {}
        }
        let prefix = |part: &str| {
            let part = part.trim();
            let name = part.strip_suffix('/').unwrap_or(part);
            let legal = |byte: u8| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
            };
            // `on`, `yes` and `no` would be legal names, and are never meant as one.
            let meant = !["on", "off", "yes", "no"].contains(&name);
            let components = name.split('/').all(|one| {
                !one.is_empty()
                    && one.bytes().all(legal)
                    && !one.starts_with(['.', '_', '-'])
                    && !one.ends_with(['.', '_', '-'])
            });
            (meant && components).then(|| name.to_owned())
        };
        let prefixes: Option<Vec<String>> = text.split(',').map(prefix).collect();
        prefixes.map(ImmutableTags::Below)
    }
}

impl fmt::Display for ImmutableTags {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImmutableTags::None => out.write_str("false"),
            ImmutableTags::All => out.write_str("true"),
            ImmutableTags::Below(prefixes) => out.write_str(&prefixes.join(",")),
        }
    }
}

/// A bool in the spellings of Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A whole number: digits alone, where the standard library would also take `+5`.
pub(super) fn whole(text: &str) -> Option<u64> {
    digits(text)?.parse().ok()
}

fn digits(text: &str) -> Option<&str> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then_some(text)
}

/// A duration in Go's form, not negative: `1h30m`, `1.5h`, `.5s`, `250ms`, and a bare `0`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanos: u128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_bytes = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_bytes);
        let (unit_nanos, after) = unit(after)?;
        nanos = nanos.checked_add(scaled(number, unit_nanos)?)?;
        rest = after;
    }
    // Go's durations end at 2^63 nanoseconds, 292 years.
    let nanos = i64::try_from(nanos).ok()?;
    Some(Duration::from_nanos(nanos.unsigned_abs()))
}

/// The unit that `text` begins with, in nanoseconds, and what follows it.
fn unit(text: &str) -> Option<(u128, &str)> {
    // Longer units first: `ms` is not `m`.
    const UNITS: [(&str, u128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    UNITS
        .iter()
        .find_map(|(name, nanos)| Some((*nanos, text.strip_prefix(name)?)))
}

/// `number` (digits with at most one point, and a digit somewhere) times `unit_nanos`, cut to
/// whole nanoseconds.
fn scaled(number: &str, unit_nanos: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut nanos = whole.checked_mul(unit_nanos)?;
    let mut place_nanos = unit_nanos;
    // Beyond 20 places nothing reaches a nanosecond, even of an hour.
    for digit in fraction.bytes().take(20) {
        // Places of 10^-k of a unit are exact until they fall below a nanosecond.
        let tenths = place_nanos * u128::from(digit - b'0');
        nanos = nanos.checked_add(tenths / 10)?;
        place_nanos /= 10;
    }
    Some(nanos)
}

/// A duration in its shortest Go form: `1h30m`, `10s`, `250ms`, `0`.
pub(super) fn duration_text(duration: Duration) -> String {
    if duration.is_zero() {
        return "0".to_owned();
    }
    let mut text = String::new();
    let seconds = duration.as_secs();
    for (amount, unit) in [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(duration.subsec_millis()), "ms"),
        (u64::from(duration.subsec_nanos() % 1_000_000), "ns"),
    ] {
        if amount > 0 {
            text.push_str(&format!("{amount}{unit}"));
        }
    }
    text
}

/// Whether `text` has the form of a bcrypt hash: `$2b$`, a cost of two digits, 22 + 31 characters
/// of its alphabet. By bytes: the library once panicked on a multi-byte character in there.
pub(super) fn is_bcrypt(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphabet = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    bytes.len() == 60
        && [&b"$2a$"[..], b"$2b$", b"$2y$"].contains(&&bytes[..4])
        && bytes[4..6].iter().all(u8::is_ascii_digit)
        && bytes[6] == b'$'
        && bytes[7..].iter().all(alphabet)
}

/// Whether `text` looks like an argon2id hash; what it costs is judged by who compares.
pub(super) fn is_argon2id(text: &str) -> bool {
    text.starts_with("$argon2id$") && text.is_ascii() && text.matches('$').count() == 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_as_go_reads_it() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("1.s", 1_000),
            ("+10s", 10_000),
            ("250ms", 250),
            ("1h1h", 7_200_000),
            ("2m0.25s", 120_250),
            ("1500us", 1),
        ] {
            let read = duration(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(read.as_millis(), millis, "{text}");
        }
        assert_eq!(duration("3\u{b5}s"), Some(Duration::from_micros(3)));
        assert_eq!(duration("0.000000001s"), Some(Duration::from_nanos(1)));
        for text in [
            "", "+", "-1s", "30", "1", "s", ".s", "1..5s", "1 h", "1d", "h1", "1h30", "9999999h",
            "1e3s", " 1s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_shown_duration_is_read_back_as_itself() {
        for text in ["0", "10s", "1h", "1h30m", "24h", "250ms", "1m1s1ms1ns"] {
            let read = duration(text).unwrap();
            assert_eq!(duration_text(read), text);
        }
    }

    #[test]
    fn a_port_alone_means_every_address_ipv6_first() {
        let address = ListenAddress::parse(":8080").unwrap();
        let candidates: Vec<String> = address
            .candidates()
            .iter()
            .map(SocketAddr::to_string)
            .collect();
        assert_eq!(candidates, ["[::]:8080", "0.0.0.0:8080"]);
        assert_eq!(address.to_string(), ":8080");
    }

    #[test]
    fn an_address_is_literal_or_localhost() {
        for (text, shown) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:9090", "[::1]:9090"),
            ("localhost:80", "127.0.0.1:80"),
        ] {
            let address = ListenAddress::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.candidates().len(), 1);
        }
        for text in [
            "",
            "8080",
            ":",
            ":65536",
            ":+80",
            ":-1",
            "::1:80",
            "host:80",
            "[::1:80",
            "http://a:80",
        ] {
            assert_eq!(ListenAddress::parse(text), None, "{text}");
        }
    }

    #[test]
    fn two_listeners_collide_on_one_port_of_common_addresses() {
        let at = |text| ListenAddress::parse(text).unwrap();
        assert!(at(":80").collides_with(at("127.0.0.1:80")));
        assert!(at("127.0.0.1:80").collides_with(at("0.0.0.0:80")));
        assert!(!at("127.0.0.1:80").collides_with(at("127.0.0.2:80")));
        assert!(!at(":0").collides_with(at(":0")));
        assert!(!at(":80").collides_with(at(":81")));
    }

    #[test]
    fn an_immutable_prefix_ends_at_a_slash() {
        let tags = ImmutableTags::parse("os-images, tools/base/").unwrap();
        assert!(tags.covers("os-images"));
        assert!(tags.covers("os-images/ubuntu"));
        assert!(tags.covers("tools/base/alpine"));
        assert!(!tags.covers("os-images-old/ubuntu"));
        assert!(!tags.covers("tools"));
        assert_eq!(tags.to_string(), "os-images,tools/base");
        assert_eq!(ImmutableTags::parse("T"), Some(ImmutableTags::All));
        assert_eq!(ImmutableTags::parse("0"), Some(ImmutableTags::None));
        for text in ["yes", "a,,b", "A", "/a", "a/../b", "a b", ","] {
            assert_eq!(ImmutableTags::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_whole_number_has_digits_only() {
        assert_eq!(whole("007"), Some(7));
        for text in [
            "",
            "+5",
            "-5",
            "5 ",
            "1_000",
            "0x10",
            "18446744073709551616",
        ] {
            assert_eq!(whole(text), None, "{text}");
        }
    }

    #[test]
    fn a_hash_of_sixty_bytes_that_is_not_ascii_is_no_bcrypt() {
        let good = format!("$2y$05${}", "a".repeat(53));
        assert!(is_bcrypt(&good));
        let multi_byte = format!("$2y$05${}\u{e9}", "a".repeat(51));
        assert_eq!(multi_byte.len(), 60);
        assert!(!is_bcrypt(&multi_byte));
        assert!(!is_bcrypt(&good.replace("$2y$", "$2x$")));
        assert!(!is_bcrypt(&good[..59]));
        assert!(!is_bcrypt("\u{20ac}$2y"));
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert!(!format!("{:?}", Secret::new("hunter2")).contains("hunter2"));
    }
}
