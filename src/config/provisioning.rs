//! What the operator decides about provisioning: the types, and what is wrong between settings.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::values::{Secret, whole};
use super::{BasicLogin, BasicSecret, ConfigProblem, ConfigWarning, RedfishConfig, UrlPrefix};

/// Shorter keys are weaker than the hash (RFC 7518 3.2).
pub(super) const JWT_SECRET_BYTES_MIN: usize = 32;

/// Everything about provisioning; there is none without `CONTROLLER_DB`.
#[derive(Debug, Clone)]
pub struct ProvisionConfig {
    pub database: PathBuf,
    pub key_file: PathBuf,
    pub api: ApiConfig,
    pub webhook: WebhookConfig,
    pub media: MediaConfig,
    pub artifacts: ArtifactsConfig,
    /// From where files of recipes are fetched.
    pub payload_places: Vec<UrlPrefix>,
    pub jobs: JobsConfig,
    pub bmcs: BmcConfig,
}

/// How jobs speak to BMCs.
#[derive(Debug, Clone)]
pub enum BmcConfig {
    /// Not at all; calls are written to `record`.
    Noop {
        record: Option<PathBuf>,
    },
    Http(RedfishConfig),
}

/// Who may use the API.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    pub login: ApiLogin,
    pub failed_logins: FailedLogins,
    pub trusted_proxies: Vec<Network>,
}

#[derive(Debug, Clone)]
pub enum ApiLogin {
    Open,
    Basic(BasicLogin),
    Jwt(JwtConfig),
}

#[derive(Debug, Clone)]
pub struct JwtConfig {
    pub secret: Secret,
    pub issuer: Option<String>,
    pub audience: Option<String>,
}

/// What a client may get wrong before its logins are no longer looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedLogins {
    pub per_minute: u32,
    pub at_once: u32,
}

#[derive(Debug, Clone)]
pub struct WebhookConfig {
    pub secret: Option<Secret>,
    /// Good as well, while nodes with the former secret are on their way.
    pub former_secret: Option<Secret>,
    /// Without any secret: take reports from everybody.
    pub allow_unauthenticated: bool,
}

impl WebhookConfig {
    /// Whether a node can show who it is.
    pub fn has_secret(&self) -> bool {
        self.secret.is_some() || self.former_secret.is_some()
    }
}

#[derive(Debug, Clone)]
pub struct MediaConfig {
    /// Under which BMCs reach this program.
    pub base_url: String,
    pub signing_secret: Option<Secret>,
    /// How long a signed URL is good beyond its job.
    pub url_ttl: Duration,
    /// A signed address must be the client's.
    pub bind_address: bool,
    pub iso_folder: PathBuf,
    pub maintenance_url: String,
    pub esxi_url: Option<String>,
}

/// The images of jobs.
#[derive(Debug, Clone)]
pub struct ArtifactsConfig {
    /// `host[:port]` of this registry in recipes, in lower case.
    pub names: Vec<String>,
    pub warm_up: WarmUpBudget,
}

/// How much of images may be read into memory before anybody asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WarmUpBudget {
    /// Of the memory that is available.
    Percent(u8),
    Bytes(u64),
}

impl WarmUpBudget {
    pub(super) fn parse(text: &str) -> Option<WarmUpBudget> {
        match text.strip_suffix('%') {
            Some(share) => {
                let share = whole(share).filter(|share| *share <= 90)?;
                Some(WarmUpBudget::Percent(u8::try_from(share).ok()?))
            }
            None => whole(text).map(WarmUpBudget::Bytes),
        }
    }

    pub(super) fn show(self) -> String {
        match self {
            WarmUpBudget::Percent(share) => format!("{share}%"),
            WarmUpBudget::Bytes(bytes) => bytes.to_string(),
        }
    }

    pub fn bytes(self, available_bytes: u64) -> u64 {
        match self {
            WarmUpBudget::Percent(share) => {
                let share = u128::from(available_bytes) * u128::from(share) / 100;
                u64::try_from(share).unwrap_or(u64::MAX)
            }
            WarmUpBudget::Bytes(bytes) => bytes,
        }
    }
}

#[derive(Debug, Clone)]
pub struct JobsConfig {
    pub workers: NonZeroUsize,
    pub lease: Duration,
    /// How long a node may take to report.
    pub stuck_timeout: Duration,
    /// How long a pull may be silent before an event says so.
    pub stall_timeout: Duration,
    pub retention_days: u32,
}

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    pub(super) fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= bits_max)?,
            None => bits_max,
        };
        Some(Network { address, bits })
    }

    pub fn holds(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let host_bits = 32 - u32::from(self.bits);
                (u64::from(ours.to_bits()) >> host_bits)
                    == (u64::from(theirs.to_bits()) >> host_bits)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differing = (ours.to_bits() ^ theirs.to_bits()).leading_zeros();
                differing >= u32::from(self.bits)
            }
            _ => false,
        }
    }

    pub(super) fn show(&self) -> String {
        format!("{}/{}", self.address, self.bits)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BmcMode {
    Noop,
    Http,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApiMode {
    None,
    Basic,
    Jwt,
}

/// The values read so far.
pub(super) struct ProvisionValues {
    pub(super) database: String,
    pub(super) key_file: String,
    pub(super) mode: ApiMode,
    pub(super) jwt_secret: String,
    pub(super) jwt_issuer: String,
    pub(super) jwt_audience: String,
    pub(super) failed_logins: FailedLogins,
    pub(super) trusted_proxies: Vec<Network>,
    pub(super) media_base_url: String,
    pub(super) registry_names: Vec<String>,
    pub(super) signing_secret: String,
    pub(super) url_ttl: Duration,
    pub(super) payload_places: Vec<UrlPrefix>,
    pub(super) warm_up: WarmUpBudget,
    pub(super) bind_address: bool,
    pub(super) iso_folder: PathBuf,
    pub(super) maintenance_url: String,
    pub(super) esxi_url: String,
    pub(super) webhook_secret: String,
    pub(super) webhook_former_secret: String,
    pub(super) webhook_open: bool,
    pub(super) workers: NonZeroUsize,
    pub(super) lease: Duration,
    pub(super) stuck_timeout: Duration,
    pub(super) stall_timeout: Duration,
    pub(super) retention_days: u32,
    pub(super) bmc_mode: BmcMode,
    pub(super) noop_record: String,
}

impl ProvisionValues {
    pub(super) fn blank() -> Self {
        Self {
            database: String::new(),
            key_file: String::new(),
            mode: ApiMode::None,
            jwt_secret: String::new(),
            jwt_issuer: String::new(),
            jwt_audience: String::new(),
            failed_logins: FailedLogins {
                per_minute: 1,
                at_once: 1,
            },
            trusted_proxies: Vec::new(),
            media_base_url: String::new(),
            registry_names: Vec::new(),
            signing_secret: String::new(),
            url_ttl: Duration::ZERO,
            payload_places: Vec::new(),
            warm_up: WarmUpBudget::Bytes(0),
            bind_address: false,
            iso_folder: PathBuf::new(),
            maintenance_url: String::new(),
            esxi_url: String::new(),
            webhook_secret: String::new(),
            webhook_former_secret: String::new(),
            webhook_open: false,
            workers: NonZeroUsize::MIN,
            lease: Duration::ZERO,
            stuck_timeout: Duration::ZERO,
            stall_timeout: Duration::ZERO,
            retention_days: 0,
            bmc_mode: BmcMode::Noop,
            noop_record: String::new(),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        !self.database.is_empty()
    }

    pub(super) fn shown_payload_places(&self) -> String {
        let texts: Vec<&str> = self.payload_places.iter().map(UrlPrefix::text).collect();
        texts.join(",")
    }

    pub(super) fn wants_basic(&self) -> bool {
        self.is_on() && self.mode == ApiMode::Basic
    }

    pub(super) fn check(&self, has_login: bool, problems: &mut Vec<ConfigProblem>) {
        if !self.is_on() {
            return;
        }
        let mut missing =
            |because, wanted| problems.push(ConfigProblem::Missing { because, wanted });
        if self.maintenance_url.is_empty() {
            missing(
                "CONTROLLER_DB is set, and machines need something to boot",
                "MAINTENANCE_ISO_URL",
            );
        }
        if self.webhook_secret.is_empty() && !self.webhook_open {
            missing(
                "CONTROLLER_DB is set, and anybody could report for a node",
                "WEBHOOK_SECRET, or WEBHOOK_ALLOW_UNAUTHENTICATED=true",
            );
        }
        match self.mode {
            ApiMode::Basic if !has_login => {
                missing(
                    "AUTH_MODE=basic needs a login",
                    "BASIC_USER with BASIC_PASS or BASIC_PASS_HASH",
                );
            }
            ApiMode::Jwt if self.jwt_secret.is_empty() => {
                missing("AUTH_MODE=jwt needs a key", "JWT_SECRET");
            }
            ApiMode::None | ApiMode::Basic | ApiMode::Jwt => {}
        }
    }

    pub(super) fn without_effect(&self, warnings: &mut Vec<ConfigWarning>) {
        let because = if !self.is_on() {
            "CONTROLLER_DB is not set"
        } else if self.mode != ApiMode::Jwt {
            "AUTH_MODE is not jwt"
        } else {
            return;
        };
        let mut note = |value: &str, variable| {
            if !value.is_empty() {
                warnings.push(ConfigWarning::NoEffect { variable, because });
            }
        };
        note(&self.jwt_secret, "JWT_SECRET");
        note(&self.jwt_issuer, "JWT_ISSUER");
        note(&self.jwt_audience, "JWT_AUDIENCE");
        if !self.is_on() {
            note(&self.key_file, "CONTROLLER_SECRET_KEY_FILE");
            note(&self.maintenance_url, "MAINTENANCE_ISO_URL");
            note(&self.esxi_url, "ESXI_INSTALLER_URL");
            note(&self.media_base_url, "MEDIA_BASE_URL");
            note(&self.registry_names.join(","), "REGISTRY_NAMES");
            note(&self.shown_payload_places(), "PAYLOAD_URL_ALLOWLIST");
            note(&self.signing_secret, "MEDIA_SIGNING_SECRET");
            note(&self.webhook_secret, "WEBHOOK_SECRET");
            note(&self.webhook_former_secret, "WEBHOOK_SECRET_OLD");
            note(&self.noop_record, "REDFISH_NOOP_RECORD");
            if self.bmc_mode == BmcMode::Http {
                note("http", "REDFISH_MODE");
            }
        }
    }

    /// `None` where there is no provisioning.
    pub(super) fn into_config(
        self,
        basic_user: &str,
        basic_secret: Option<BasicSecret>,
        redfish: &RedfishConfig,
    ) -> Option<ProvisionConfig> {
        if !self.is_on() {
            return None;
        }
        let database = PathBuf::from(&self.database);
        let key_file = match self.key_file.as_str() {
            "" => PathBuf::from(format!("{}.key", self.database)),
            path => PathBuf::from(path),
        };
        let login = match (self.mode, basic_secret) {
            (ApiMode::Basic, Some(secret)) => ApiLogin::Basic(BasicLogin {
                user: basic_user.to_owned(),
                secret,
            }),
            (ApiMode::Jwt, _) => ApiLogin::Jwt(JwtConfig {
                secret: Secret::new(self.jwt_secret),
                issuer: given(self.jwt_issuer),
                audience: given(self.jwt_audience),
            }),
            (ApiMode::None | ApiMode::Basic, _) => ApiLogin::Open,
        };
        let base_url = given(self.media_base_url).unwrap_or_else(|| origin(&self.maintenance_url));
        let mut names = self.registry_names;
        names.extend(authorities(&base_url));
        Some(ProvisionConfig {
            database,
            key_file,
            api: ApiConfig {
                login,
                failed_logins: self.failed_logins,
                trusted_proxies: self.trusted_proxies,
            },
            webhook: WebhookConfig {
                secret: given(self.webhook_secret).map(Secret::new),
                former_secret: given(self.webhook_former_secret).map(Secret::new),
                allow_unauthenticated: self.webhook_open,
            },
            media: MediaConfig {
                base_url,
                signing_secret: given(self.signing_secret).map(Secret::new),
                url_ttl: self.url_ttl,
                bind_address: self.bind_address,
                iso_folder: self.iso_folder,
                maintenance_url: self.maintenance_url,
                esxi_url: given(self.esxi_url),
            },
            artifacts: ArtifactsConfig {
                names,
                warm_up: self.warm_up,
            },
            payload_places: self.payload_places,
            jobs: JobsConfig {
                workers: self.workers,
                lease: self.lease,
                stuck_timeout: self.stuck_timeout,
                stall_timeout: self.stall_timeout,
                retention_days: self.retention_days,
            },
            bmcs: match self.bmc_mode {
                BmcMode::Noop => BmcConfig::Noop {
                    record: given(self.noop_record).map(PathBuf::from),
                },
                BmcMode::Http => BmcConfig::Http(redfish.clone()),
            },
        })
    }
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Scheme and host of a URL.
fn origin(url: &str) -> String {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| host + at);
    url[..end].to_owned()
}

/// The authority of a URL, and the same with or without the scheme's own port.
fn authorities(url: &str) -> Vec<String> {
    let origin = origin(url).to_ascii_lowercase();
    let Some((scheme, authority)) = origin.split_once("://") else {
        return Vec::new();
    };
    let port = if scheme == "https" { ":443" } else { ":80" };
    let has_port = |authority: &str| {
        let port = authority.rsplit_once(':').map(|(_, port)| port);
        port.is_some_and(|port| !port.ends_with(']'))
    };
    let other = match authority.strip_suffix(port).filter(|rest| !has_port(rest)) {
        Some(rest) => Some(rest.to_owned()),
        None if has_port(authority) => None,
        None => Some(format!("{authority}{port}")),
    };
    std::iter::once(authority.to_owned()).chain(other).collect()
}

/// `host[:port]` as it stands in a recipe's `oci_url`, in lower case.
pub(super) fn registry_name(text: &str) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let is_host = match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let ends = |character: char| character.is_ascii_alphanumeric();
            host.starts_with(ends)
                && host.ends_with(ends)
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
        }
    };
    (is_host && port.is_none_or(is_port)).then(|| text.to_ascii_lowercase())
}

/// Whether a BMC could fetch it: http or https, a host, nothing secret, nothing unprintable.
pub(super) fn is_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("http://")
        .or(text.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        !host.is_empty() && !host.contains('@') && text.bytes().all(|byte| byte.is_ascii_graphic())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_is_a_share_of_memory_or_a_number_of_bytes() {
        let bytes = |text: &str| WarmUpBudget::parse(text).map(|budget| budget.bytes(1000));
        assert_eq!(
            (bytes("25%"), bytes("0%"), bytes("7")),
            (Some(250), Some(0), Some(7))
        );
        for text in ["", "%", "91%", "-1", "1.5%", "25 %", "10MiB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn a_network_holds_what_begins_like_it() {
        let holds = |network: &str, address: &str| {
            let network = Network::parse(network).expect("a network");
            network.holds(address.parse().expect("an address"))
        };
        assert!(holds("10.0.0.0/8", "10.255.0.1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("0.0.0.0/0", "1.2.3.4"));
        assert!(holds("192.0.2.1", "192.0.2.1"));
        assert!(!holds("192.0.2.1", "192.0.2.2"));
        assert!(holds("fd00::/8", "fd12::1"));
        assert!(!holds("fd00::/8", "fe80::1"));
        assert!(holds("::/0", "fe80::1"));
        for text in ["10.0.0.0/33", "10.0.0/8", "x", "10.0.0.0/", "::/129"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_registry_has_the_names_that_bmcs_use_and_those_it_is_given() {
        for (url, names) in [
            ("http://Host:8080/a", vec!["host:8080"]),
            ("http://host", vec!["host", "host:80"]),
            ("https://host:443", vec!["host:443", "host"]),
            ("https://host:80", vec!["host:80"]),
            ("http://[fd00::80]", vec!["[fd00::80]", "[fd00::80]:80"]),
            ("http://[::1]:80/", vec!["[::1]:80", "[::1]"]),
        ] {
            assert_eq!(authorities(url), names, "{url}");
        }
        assert_eq!(
            registry_name("Shoal.Test:80").as_deref(),
            Some("shoal.test:80")
        );
        assert_eq!(registry_name("[::1]").as_deref(), Some("[::1]"));
        for wrong in [
            "", "a/b", "http://a", "a@b", "a:", "a:0", "a:x", "-a", "[a]",
        ] {
            assert_eq!(registry_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn bmcs_reach_us_where_the_maintenance_iso_is_unless_told_otherwise() {
        assert_eq!(origin("http://host:8080/a/b.iso"), "http://host:8080");
        assert_eq!(origin("https://host"), "https://host");
        assert!(is_url("http://[::1]:80/x") && !is_url("ftp://x/y") && !is_url("http:///x"));
        assert!(!is_url("http://user:word@host/") && !is_url("http://host/a b"));
    }
}
