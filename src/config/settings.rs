//! The table of settings: a row each, and from the row the parser, the messages, `--print-config`
//! and `docs/configuration.md`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::provisioning::{
    ApiMode, BmcMode, JWT_SECRET_BYTES_MIN, Network, ProvisionValues, WarmUpBudget, is_url,
    registry_name,
};
use super::url_prefix::UrlPrefix;
use super::values::{
    ImmutableTags, ListenAddress, Secret, boolean, duration, duration_text, is_argon2id, is_bcrypt,
    whole,
};
use super::{
    AccessConfig, BasicLogin, BasicSecret, Config, ConfigProblem, ConfigWarning, GcConfig,
    RedfishConfig, RegistryConfig, ServerConfig, StoreConfig,
};

const MINUTE: Duration = Duration::from_secs(60);
/// Below this age no longer keeps a slow push together.
const USUAL_GRACE_MIN: Duration = Duration::from_secs(3600);
/// What bcrypt looks at of a password.
const PASSWORD_BYTES_MAX: usize = 72;

/// A setting.
pub(super) struct Setting {
    pub(super) name: &'static str,
    /// Names it had elsewhere, which mean the same.
    pub(super) older_names: &'static [&'static str],
    /// As an operator would write it; empty where there is none.
    pub(super) default: &'static str,
    /// What a valid value is, in the words of the error message.
    pub(super) expected: &'static str,
    /// What it is for.
    pub(super) reason: &'static str,
    /// An empty value is an error, and not the same as none.
    pub(super) empty_is_refused: bool,
    pub(super) secret: bool,
    pub(super) apply: Apply,
}

impl Setting {
    const fn secret(mut self) -> Setting {
        self.secret = true;
        self
    }

    /// The value as a message may show it.
    pub(super) fn shown_value(&self, value: &str) -> String {
        if self.secret {
            "(not shown)".to_owned()
        } else {
            value.to_owned()
        }
    }
}

/// How a row reads its text into [`Values`] and shows it again.
pub(super) struct Apply {
    read: fn(&mut Values, &str) -> Option<()>,
    show: fn(&Values) -> String,
}

impl Apply {
    pub(super) fn read(&self, values: &mut Values, text: &str) -> Option<()> {
        (self.read)(values, text)
    }

    pub(super) fn show(&self, values: &Values) -> String {
        (self.show)(values)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AuthMode {
    None,
    Basic,
    Htpasswd,
}

/// The values read so far.
pub(super) struct Values {
    http_address: ListenAddress,
    metrics_address: ListenAddress,
    cores: Option<NonZeroUsize>,
    log_level: tracing::Level,
    enabled: bool,
    storage: PathBuf,
    auth_mode: AuthMode,
    htpasswd_file: Option<PathBuf>,
    basic_user: String,
    basic_password: String,
    basic_hash: String,
    anonymous_pull: bool,
    concurrent_uploads_max: NonZeroUsize,
    upload_timeout: Duration,
    download_timeout: Duration,
    read_timeout: Duration,
    stop_timeout: Duration,
    blob_bytes_max: u64,
    immutable_tags: ImmutableTags,
    allow_sparse: bool,
    gc_interval: Duration,
    gc_grace: Duration,
    gc_lease: Duration,
    enable_admin: bool,
    provision: ProvisionValues,
    redfish_timeout: Duration,
    redfish_retries: u32,
    redfish_insecure_tls: bool,
}

impl Values {
    /// Values before any row has been applied; every row has a default that replaces them.
    pub(super) fn blank() -> Self {
        Self {
            http_address: ListenAddress::any(0),
            metrics_address: ListenAddress::any(0),
            cores: None,
            log_level: tracing::Level::INFO,
            enabled: true,
            storage: PathBuf::new(),
            auth_mode: AuthMode::None,
            htpasswd_file: None,
            basic_user: String::new(),
            basic_password: String::new(),
            basic_hash: String::new(),
            anonymous_pull: false,
            concurrent_uploads_max: NonZeroUsize::MIN,
            upload_timeout: Duration::ZERO,
            download_timeout: Duration::ZERO,
            read_timeout: Duration::ZERO,
            stop_timeout: Duration::ZERO,
            blob_bytes_max: 0,
            immutable_tags: ImmutableTags::None,
            allow_sparse: false,
            gc_interval: Duration::ZERO,
            gc_grace: Duration::ZERO,
            gc_lease: Duration::ZERO,
            enable_admin: true,
            provision: ProvisionValues::blank(),
            redfish_timeout: Duration::ZERO,
            redfish_retries: 0,
            redfish_insecure_tls: false,
        }
    }

    /// What is wrong between settings that are each valid.
    pub(super) fn check(&self, problems: &mut Vec<ConfigProblem>) {
        if self.http_address.collides_with(self.metrics_address) {
            problems.push(ConfigProblem::SameAddress {
                address: self.http_address,
            });
        }
        let has_secret = !self.basic_password.is_empty() || !self.basic_hash.is_empty();
        let has_login = !self.basic_user.is_empty() && has_secret;
        self.provision.check(has_login, problems);
        match self.auth_mode {
            AuthMode::None => {}
            AuthMode::Htpasswd if self.htpasswd_file.is_none() => {
                problems.push(ConfigProblem::Missing {
                    because: "REGISTRY_AUTH_MODE=htpasswd needs a file of users",
                    wanted: "REGISTRY_HTPASSWD_FILE",
                });
            }
            AuthMode::Htpasswd => {}
            AuthMode::Basic => self.check_basic(problems),
        }
    }

    fn check_basic(&self, problems: &mut Vec<ConfigProblem>) {
        let has_secret = !self.basic_password.is_empty() || !self.basic_hash.is_empty();
        if !self.basic_password.is_empty() && !self.basic_hash.is_empty() {
            problems.push(ConfigProblem::Both {
                variables: ["BASIC_PASS", "BASIC_PASS_HASH"],
            });
        }
        match (self.basic_user.is_empty(), has_secret) {
            (false, true) => {}
            (true, true) => problems.push(ConfigProblem::Missing {
                because: "BASIC_PASS or BASIC_PASS_HASH is set without a user",
                wanted: "BASIC_USER",
            }),
            // A value that could not be read has been named already.
            (false, false) if problems.iter().any(names_password) => {}
            (false, false) => problems.push(ConfigProblem::Missing {
                because: "BASIC_USER is set without a password",
                wanted: "BASIC_PASS or BASIC_PASS_HASH",
            }),
            (true, false) if self.htpasswd_file.is_none() => {
                problems.push(ConfigProblem::Missing {
                    because: "REGISTRY_AUTH_MODE=basic needs a login",
                    wanted: "BASIC_USER with BASIC_PASS or BASIC_PASS_HASH, or \
                             REGISTRY_HTPASSWD_FILE",
                });
            }
            (true, false) => {}
        }
    }

    /// Settings that are valid and do nothing beside the others.
    pub(super) fn without_effect(&self, warnings: &mut Vec<ConfigWarning>) {
        let mut note = |is_set: bool, variable, because| {
            if is_set {
                warnings.push(ConfigWarning::NoEffect { variable, because });
            }
        };
        if self.auth_mode == AuthMode::None {
            let because = "REGISTRY_AUTH_MODE is none";
            note(
                self.htpasswd_file.is_some(),
                "REGISTRY_HTPASSWD_FILE",
                because,
            );
            note(self.anonymous_pull, "REGISTRY_ALLOW_ANON", because);
        }
        if self.auth_mode != AuthMode::Basic && !self.provision.wants_basic() {
            let because = "REGISTRY_AUTH_MODE is not basic";
            note(!self.basic_user.is_empty(), "BASIC_USER", because);
            note(!self.basic_password.is_empty(), "BASIC_PASS", because);
            note(!self.basic_hash.is_empty(), "BASIC_PASS_HASH", because);
        }
        self.provision.without_effect(warnings);
    }

    /// Settings that are valid and have a price.
    pub(super) fn unusual(&self, warnings: &mut Vec<ConfigWarning>) {
        if self.gc_grace < USUAL_GRACE_MIN {
            warnings.push(ConfigWarning::Unusual {
                variable: "REGISTRY_GC_GRACE_PERIOD",
                consequence: "below 1h it protects no slow push: what is pushed is kept by \
                              REGISTRY_GC_LEASE alone until its manifest is there",
            });
        }
    }

    pub(super) fn into_config(self, shown: Vec<(&'static str, String)>) -> Config {
        let secret = match (self.basic_password.as_str(), self.basic_hash.as_str()) {
            ("", "") => None,
            (_, "") => Some(BasicSecret::Password(Secret::new(self.basic_password))),
            _ => Some(BasicSecret::Hash(Secret::new(self.basic_hash))),
        };
        let redfish = RedfishConfig {
            timeout: self.redfish_timeout,
            retries: self.redfish_retries,
            insecure_tls: self.redfish_insecure_tls,
        };
        let provision = self
            .provision
            .into_config(&self.basic_user, secret.clone(), &redfish);
        let wants_basic = self.auth_mode == AuthMode::Basic && !self.basic_user.is_empty();
        let basic = secret.filter(|_| wants_basic).map(|secret| BasicLogin {
            user: self.basic_user,
            secret,
        });
        let access = match self.auth_mode {
            AuthMode::None => AccessConfig::Open,
            AuthMode::Basic | AuthMode::Htpasswd => AccessConfig::Login {
                basic,
                htpasswd_file: self.htpasswd_file,
                anonymous_pull: self.anonymous_pull,
            },
        };
        Config {
            server: ServerConfig {
                http_address: self.http_address,
                metrics_address: self.metrics_address,
                cores: self.cores,
                log_level: self.log_level,
                read_timeout: self.read_timeout,
                stop_timeout: self.stop_timeout,
                enable_admin: self.enable_admin,
            },
            registry: RegistryConfig {
                enabled: self.enabled,
                upload_timeout: self.upload_timeout,
                download_timeout: self.download_timeout,
                concurrent_uploads_max: self.concurrent_uploads_max,
            },
            store: StoreConfig {
                root: self.storage,
                blob_bytes_max: (self.blob_bytes_max > 0).then_some(self.blob_bytes_max),
                allow_sparse: self.allow_sparse,
                immutable_tags: self.immutable_tags,
                lease: self.gc_lease,
            },
            gc: GcConfig {
                interval: (!self.gc_interval.is_zero()).then_some(self.gc_interval),
                grace: self.gc_grace,
            },
            access,
            provision,
            redfish,
            shown,
        }
    }
}

fn names_password(problem: &ConfigProblem) -> bool {
    matches!(
        problem,
        ConfigProblem::BadValue {
            variable: "BASIC_PASS" | "BASIC_PASS_HASH",
            ..
        }
    )
}

/// A row with the parts most rows share.
const fn row(
    name: &'static str,
    default: &'static str,
    expected: &'static str,
    reason: &'static str,
    apply: Apply,
) -> Setting {
    let (older_names, empty_is_refused, secret) = (&[] as &[_], false, false);
    Setting {
        name,
        older_names,
        default,
        expected,
        reason,
        empty_is_refused,
        secret,
        apply,
    }
}

const HTTP_URL: &str = "a URL that begins with http:// or https://, without a user";
const BOOL: &str = "true or false";
const ADDRESS: &str = "<address>:<port>, or :<port> for every address of the machine";
const MINUTE_OR_MORE: &str = "a duration of 1m or more, such as 30m or 1h30m";

macro_rules! apply {
    (|$values:ident, $text:ident| $read:expr, |$shown:ident| $show:expr) => {
        Apply {
            read: |$values, $text| {
                $read;
                Some(())
            },
            show: |$shown| $show,
        }
    };
}

/// Every setting, in the order of the page.
pub(super) const SETTINGS: &[Setting] = &[
    row(
        "CONTROLLER_HTTP_ADDR",
        ":8080",
        ADDRESS,
        "Where the registry listens.",
        apply!(|v, t| v.http_address = ListenAddress::parse(t)?, |v| v
            .http_address
            .to_string()),
    ),
    row(
        "METRICS_ADDR",
        ":9090",
        ADDRESS,
        "Where /metrics listens, without login.",
        apply!(|v, t| v.metrics_address = ListenAddress::parse(t)?, |v| v
            .metrics_address
            .to_string()),
    ),
    row(
        "CONTROLLER_CORES",
        "",
        "a number of threads, 1 or more",
        "Data threads; unset: one for each processor the process may use.",
        apply!(
            |v, t| {
                v.cores = match t {
                    "" => None,
                    text => Some(NonZeroUsize::new(usize::try_from(whole(text)?).ok()?)?),
                };
                if v.cores.is_some_and(|cores| cores.get() > 1024) {
                    return None;
                }
            },
            |v| v.cores.map(|cores| cores.to_string()).unwrap_or_default()
        ),
    ),
    row(
        "LOG_LEVEL",
        "info",
        "debug, info, warn or error",
        "What is logged; debug adds each transfer and each decision.",
        apply!(
            |v, t| {
                v.log_level = match t.to_ascii_lowercase().as_str() {
                    "debug" => tracing::Level::DEBUG,
                    "info" => tracing::Level::INFO,
                    "warn" | "warning" => tracing::Level::WARN,
                    "error" => tracing::Level::ERROR,
                    _ => return None,
                }
            },
            |v| v.log_level.to_string().to_ascii_lowercase()
        ),
    ),
    row(
        "ENABLE_REGISTRY",
        "true",
        BOOL,
        "Whether /v2/ is served.",
        apply!(|v, t| v.enabled = boolean(t)?, |v| v.enabled.to_string()),
    ),
    Setting {
        empty_is_refused: true,
        ..row(
            "REGISTRY_STORAGE",
            "/var/lib/shoal/oci",
            "a folder this user can write",
            "Where blobs, manifests and tags are kept; made if it is not there.",
            apply!(
                |v, t| {
                    if t.is_empty() {
                        return None;
                    }
                    v.storage = PathBuf::from(t);
                },
                |v| v.storage.display().to_string()
            ),
        )
    },
    row(
        "REGISTRY_AUTH_MODE",
        "none",
        "none, basic or htpasswd",
        "Who may use the registry: everybody, the login of BASIC_USER, or the users of a file.",
        apply!(
            |v, t| {
                v.auth_mode = match t {
                    "none" => AuthMode::None,
                    "basic" => AuthMode::Basic,
                    "htpasswd" => AuthMode::Htpasswd,
                    _ => return None,
                }
            },
            |v| match v.auth_mode {
                AuthMode::None => "none",
                AuthMode::Basic => "basic",
                AuthMode::Htpasswd => "htpasswd",
            }
            .to_owned()
        ),
    ),
    Setting {
        older_names: &["REGISTRY_BASIC_USERS_FILE", "REGISTRY_USERS_FILE"],
        ..row(
            "REGISTRY_HTPASSWD_FILE",
            "",
            "a file made by htpasswd -B",
            "Users and their bcrypt hashes; read again when it changes.",
            apply!(
                |v, t| v.htpasswd_file = (!t.is_empty()).then(|| PathBuf::from(t)),
                |v| v
                    .htpasswd_file
                    .as_ref()
                    .map(|path| path.display().to_string())
                    .unwrap_or_default()
            ),
        )
    },
    row(
        "BASIC_USER",
        "",
        "a name without a colon",
        "The user of REGISTRY_AUTH_MODE=basic.",
        apply!(
            |v, t| {
                if t.contains(':') {
                    return None;
                }
                v.basic_user = t.to_owned();
            },
            |v| v.basic_user.clone()
        ),
    ),
    Setting {
        secret: true,
        ..row(
            "BASIC_PASS",
            "",
            "a password of at most 72 bytes",
            "The password of BASIC_USER.",
            apply!(
                |v, t| {
                    if t.len() > PASSWORD_BYTES_MAX {
                        return None;
                    }
                    v.basic_password = t.to_owned();
                },
                |v| hidden(&v.basic_password)
            ),
        )
    },
    Setting {
        secret: true,
        ..row(
            "BASIC_PASS_HASH",
            "",
            "a bcrypt hash, as htpasswd -B makes it, or an argon2id hash that begins with $argon2id$v=19$",
            "The password of BASIC_USER as a hash, in place of BASIC_PASS.",
            apply!(
                |v, t| {
                    if !t.is_empty() && !is_bcrypt(t) && !is_argon2id(t) {
                        return None;
                    }
                    v.basic_hash = t.to_owned();
                },
                |v| hidden(&v.basic_hash)
            ),
        )
    },
    row(
        "REGISTRY_ALLOW_ANON",
        "false",
        BOOL,
        "Pull without a login; pushing, deleting and /v2/ itself still ask for one.",
        apply!(|v, t| v.anonymous_pull = boolean(t)?, |v| v
            .anonymous_pull
            .to_string()),
    ),
    Setting {
        older_names: &["REGISTRY_MAX_CONCURRENCY"],
        ..row(
            "REGISTRY_MAX_CONCURRENT_UPLOADS",
            "8",
            "a number from 1 to 100",
            "Upload bodies read at a time; a further one waits unread for its turn.",
            apply!(
                |v, t| {
                    let count = whole(t).filter(|count| (1..=100).contains(count))?;
                    v.concurrent_uploads_max = NonZeroUsize::new(count as usize)?;
                },
                |v| v.concurrent_uploads_max.to_string()
            ),
        )
    },
    row(
        "REGISTRY_UPLOAD_TIMEOUT",
        "1h",
        MINUTE_OR_MORE,
        "How long an upload may stand still before it is given up.",
        apply!(|v, t| v.upload_timeout = minutes(t)?, |v| duration_text(
            v.upload_timeout
        )),
    ),
    row(
        "REGISTRY_DOWNLOAD_TIMEOUT",
        "30m",
        MINUTE_OR_MORE,
        "How long a download may stand still before it is given up.",
        apply!(|v, t| v.download_timeout = minutes(t)?, |v| duration_text(
            v.download_timeout
        )),
    ),
    row(
        "REGISTRY_READ_TIMEOUT",
        "30s",
        "a duration above 0, such as 30s",
        "How long a request's head may take to arrive.",
        apply!(|v, t| v.read_timeout = positive(t)?, |v| duration_text(
            v.read_timeout
        )),
    ),
    row(
        "REGISTRY_STOP_TIMEOUT",
        "10s",
        "a duration, such as 10s",
        "How long running downloads are given when the program is asked to stop.",
        apply!(|v, t| v.stop_timeout = duration(t)?, |v| duration_text(
            v.stop_timeout
        )),
    ),
    row(
        "REGISTRY_MAX_BLOB_SIZE",
        "0",
        "a number of bytes, 0 for no limit",
        "The largest blob that is accepted.",
        apply!(|v, t| v.blob_bytes_max = whole(t)?, |v| v
            .blob_bytes_max
            .to_string()),
    ),
    row(
        "REGISTRY_IMMUTABLE_TAGS",
        "false",
        "true, false, or repository names separated by commas",
        "Tags that keep the first manifest they were given: all, none, or those below these names.",
        apply!(|v, t| v.immutable_tags = ImmutableTags::parse(t)?, |v| v
            .immutable_tags
            .to_string()),
    ),
    row(
        "REGISTRY_ALLOW_SPARSE",
        "false",
        BOOL,
        "Accept manifests that name blobs the repository does not have.",
        apply!(|v, t| v.allow_sparse = boolean(t)?, |v| v
            .allow_sparse
            .to_string()),
    ),
    row(
        "REGISTRY_GC_INTERVAL",
        "1h",
        "a duration, such as 1h; 0 for none",
        "How often garbage is collected; 0: only by POST /admin/gc.",
        apply!(|v, t| v.gc_interval = duration(t)?, |v| duration_text(
            v.gc_interval
        )),
    ),
    row(
        "REGISTRY_GC_GRACE_PERIOD",
        "24h",
        "a duration, such as 24h",
        "How long something must have been unreachable before it is removed.",
        apply!(|v, t| v.gc_grace = duration(t)?, |v| duration_text(
            v.gc_grace
        )),
    ),
    row(
        "REGISTRY_GC_LEASE",
        "30m",
        "a duration, such as 30m",
        "How long a push, a HEAD or a mount keeps what it was told is there; nothing is removed \
         before the program has run for so long.",
        apply!(|v, t| v.gc_lease = duration(t)?, |v| duration_text(
            v.gc_lease
        )),
    ),
    row(
        "ENABLE_ADMIN",
        "true",
        BOOL,
        "Whether POST /admin/gc is served.",
        apply!(|v, t| v.enable_admin = boolean(t)?, |v| v
            .enable_admin
            .to_string()),
    ),
    row(
        "CONTROLLER_DB",
        "",
        "a file this user can write; its folder is made if it is not there",
        "Where jobs and servers are kept; not set: no provisioning API.",
        apply!(|v, t| v.provision.database = t.to_owned(), |v| v
            .provision
            .database
            .clone()),
    ),
    row(
        "CONTROLLER_SECRET_KEY_FILE",
        "",
        "a file of mode 0600; made at the first start",
        "The key that seals BMC passwords; not set: CONTROLLER_DB with .key behind it. Keep it apart from backups of the database.",
        apply!(|v, t| v.provision.key_file = t.to_owned(), |v| v
            .provision
            .key_file
            .clone()),
    ),
    row(
        "AUTH_MODE",
        "none",
        "none, basic or jwt",
        "Who may use /api/v1/: everybody, the login of BASIC_USER, or bearers of a token signed with JWT_SECRET.",
        apply!(
            |v, t| {
                v.provision.mode = match t {
                    "none" => ApiMode::None,
                    "basic" => ApiMode::Basic,
                    "jwt" => ApiMode::Jwt,
                    _ => return None,
                }
            },
            |v| match v.provision.mode {
                ApiMode::None => "none",
                ApiMode::Basic => "basic",
                ApiMode::Jwt => "jwt",
            }
            .to_owned()
        ),
    ),
    Setting {
        secret: true,
        ..row(
            "JWT_SECRET",
            "",
            "at least 32 bytes",
            "Signs the tokens of AUTH_MODE=jwt (HS256).",
            apply!(
                |v, t| {
                    if !t.is_empty() && t.len() < JWT_SECRET_BYTES_MIN {
                        return None;
                    }
                    v.provision.jwt_secret = t.to_owned();
                },
                |v| hidden(&v.provision.jwt_secret)
            ),
        )
    },
    row(
        "JWT_ISSUER",
        "",
        "a text",
        "What a token's iss must be; not set: anything.",
        apply!(|v, t| v.provision.jwt_issuer = t.to_owned(), |v| v
            .provision
            .jwt_issuer
            .clone()),
    ),
    row(
        "JWT_AUDIENCE",
        "",
        "a text",
        "What a token's aud must be or hold; not set: anything.",
        apply!(|v, t| v.provision.jwt_audience = t.to_owned(), |v| v
            .provision
            .jwt_audience
            .clone()),
    ),
    row(
        "RATE_LIMIT_RPM",
        "10",
        "a number from 1 to 6000",
        "Failed logins at /api/v1/ that a client is forgiven in a minute.",
        apply!(
            |v, t| v.provision.failed_logins.per_minute = from_one_to(6000, t)?,
            |v| v.provision.failed_logins.per_minute.to_string()
        ),
    ),
    row(
        "RATE_LIMIT_BURST",
        "5",
        "a number from 1 to 6000",
        "Failed logins at once after which a client waits.",
        apply!(
            |v, t| v.provision.failed_logins.at_once = from_one_to(6000, t)?,
            |v| v.provision.failed_logins.at_once.to_string()
        ),
    ),
    row(
        "TRUSTED_PROXIES",
        "",
        "addresses or networks separated by commas, such as 10.0.0.0/8",
        "Whose X-Forwarded-For is believed at /api/v1/ and /media/.",
        apply!(
            |v, t| {
                let networks = t.split(',').map(str::trim).filter(|part| !part.is_empty());
                v.provision.trusted_proxies =
                    networks.map(Network::parse).collect::<Option<Vec<_>>>()?;
            },
            |v| {
                let shown: Vec<String> = v
                    .provision
                    .trusted_proxies
                    .iter()
                    .map(Network::show)
                    .collect();
                shown.join(",")
            }
        ),
    ),
    row(
        "WEBHOOK_SECRET",
        "",
        "a text",
        "What a node shows in X-Webhook-Secret.",
        apply!(
            |v, t| v.provision.webhook_secret = t.to_owned(),
            |v| hidden(&v.provision.webhook_secret)
        ),
    )
    .secret(),
    row(
        "WEBHOOK_SECRET_OLD",
        "",
        "a text",
        "The former WEBHOOK_SECRET, good as well while nodes still have it.",
        apply!(
            |v, t| v.provision.webhook_former_secret = t.to_owned(),
            |v| hidden(&v.provision.webhook_former_secret)
        ),
    )
    .secret(),
    row(
        "WEBHOOK_ALLOW_UNAUTHENTICATED",
        "false",
        BOOL,
        "Take reports from anybody when there is no WEBHOOK_SECRET.",
        apply!(|v, t| v.provision.webhook_open = boolean(t)?, |v| v
            .provision
            .webhook_open
            .to_string()),
    ),
    row(
        "MAINTENANCE_ISO_URL",
        "",
        HTTP_URL,
        "What a machine boots to be installed.",
        apply!(|v, t| v.provision.maintenance_url = url(t)?, |v| v
            .provision
            .maintenance_url
            .clone()),
    ),
    row(
        "ESXI_INSTALLER_URL",
        "",
        HTTP_URL,
        "What a machine boots in its place for install-esxi; not set: no such jobs.",
        apply!(|v, t| v.provision.esxi_url = url(t)?, |v| v
            .provision
            .esxi_url
            .clone()),
    ),
    row(
        "MEDIA_BASE_URL",
        "",
        HTTP_URL,
        "Under which BMCs reach this program; not set: scheme and host of MAINTENANCE_ISO_URL.",
        apply!(|v, t| v.provision.media_base_url = url(t)?, |v| v
            .provision
            .media_base_url
            .clone()),
    ),
    row(
        "REGISTRY_NAMES",
        "",
        "hosts, with or without a port, separated by commas, such as images.example.com:8080",
        "Under which names recipes mean this registry, beside that of MEDIA_BASE_URL; images of \
         others are neither checked nor kept for a job.",
        apply!(
            |v, t| {
                let names = t.split(',').map(str::trim).filter(|part| !part.is_empty());
                v.provision.registry_names =
                    names.map(registry_name).collect::<Option<Vec<_>>>()?;
            },
            |v| v.provision.registry_names.join(",")
        ),
    ),
    row(
        "ARTIFACT_WARM_UP",
        "25%",
        "a share of the available memory from 0% to 90%, such as 25%, or a number of bytes; 0 for none",
        "How much of their images is read into memory for jobs that are not complete, together, when \
         they are made.",
        apply!(|v, t| v.provision.warm_up = WarmUpBudget::parse(t)?, |v| v
            .provision
            .warm_up
            .show()),
    ),
    Setting {
        older_names: &["SIGNED_URL_SECRET"],
        ..row(
            "MEDIA_SIGNING_SECRET",
            "",
            "a text",
            "Signs the URLs of task ISOs; not set: anybody who knows a job's id may read its ISO.",
            apply!(
                |v, t| v.provision.signing_secret = t.to_owned(),
                |v| hidden(&v.provision.signing_secret)
            ),
        )
        .secret()
    },
    row(
        "PAYLOAD_URL_ALLOWLIST",
        "",
        "hosts, with or without a port, or URLs that others begin with, separated by commas, such as \
         https://files.example.com/kickstart",
        "From where user_data, unattend_xml and ks_cfg of a recipe are fetched when they are given by \
         url; not set: from nowhere.",
        apply!(
            |v, t| {
                let places = t.split(',').map(str::trim).filter(|part| !part.is_empty());
                v.provision.payload_places =
                    places.map(UrlPrefix::parse).collect::<Option<Vec<_>>>()?;
            },
            |v| v.provision.shown_payload_places()
        ),
    ),
    row(
        "MEDIA_SIGNED_URL_TTL",
        "30m",
        "a duration of 1s or more, such as 30m",
        "How long a task ISO's signed URL is good beyond the time its job can take, and after the \
         job is complete.",
        apply!(
            |v, t| v.provision.url_ttl = duration(t).filter(|ttl| *ttl >= Duration::from_secs(1))?,
            |v| duration_text(v.provision.url_ttl)
        ),
    ),
    row(
        "MEDIA_ENABLE_IP_BIND",
        "false",
        BOOL,
        "Whether a URL that was signed for an address is for that client alone.",
        apply!(|v, t| v.provision.bind_address = boolean(t)?, |v| v
            .provision
            .bind_address
            .to_string()),
    ),
    Setting {
        empty_is_refused: true,
        ..row(
            "TASK_ISO_DIR",
            "/var/lib/shoal/task-isos",
            "a folder this user can write",
            "Where task ISOs are kept.",
            apply!(
                |v, t| {
                    if t.is_empty() {
                        return None;
                    }
                    v.provision.iso_folder = PathBuf::from(t);
                },
                |v| v.provision.iso_folder.display().to_string()
            ),
        )
    },
    row(
        "WORKER_CONCURRENCY",
        "4",
        "a number from 1 to 100",
        "BMCs that are worked at at a time; jobs that wait for their node are not counted.",
        apply!(
            |v, t| v.provision.workers = NonZeroUsize::new(from_one_to(100, t)? as usize)?,
            |v| v.provision.workers.to_string()
        ),
    ),
    row(
        "JOB_LEASE_TTL",
        "10m",
        "a duration of 1m or more, such as 10m",
        "How long a job is left to a worker that says nothing.",
        apply!(|v, t| v.provision.lease = minutes(t)?, |v| duration_text(
            v.provision.lease
        )),
    ),
    row(
        "JOB_STUCK_TIMEOUT",
        "4h",
        "a duration of 1s or more, such as 4h",
        "How long after its reset a node may take to report.",
        apply!(
            |v, t| v.provision.stuck_timeout =
                duration(t).filter(|stuck| *stuck >= Duration::from_secs(1))?,
            |v| duration_text(v.provision.stuck_timeout)
        ),
    ),
    row(
        "PULL_STALL_TIMEOUT",
        "25s",
        "a duration of 1s or more, such as 25s",
        "How long a node's pull may bring no byte before an event of its job says so.",
        apply!(
            |v, t| v.provision.stall_timeout =
                duration(t).filter(|stall| *stall >= Duration::from_secs(1))?,
            |v| duration_text(v.provision.stall_timeout)
        ),
    ),
    row(
        "JOB_RETENTION_DAYS",
        "14",
        "a number of days from 0 to 36500",
        "How long the task ISO of a complete job is kept.",
        apply!(
            |v, t| v.provision.retention_days =
                u32::try_from(whole(t).filter(|days| *days <= 36_500)?).ok()?,
            |v| v.provision.retention_days.to_string()
        ),
    ),
    row(
        "REDFISH_MODE",
        "noop",
        "http or noop",
        "http: jobs speak to BMCs by Redfish. noop: each call is logged and succeeds.",
        apply!(
            |v, t| {
                v.provision.bmc_mode = match t {
                    "http" => BmcMode::Http,
                    "noop" => BmcMode::Noop,
                    _ => return None,
                }
            },
            |v| match v.provision.bmc_mode {
                BmcMode::Http => "http",
                BmcMode::Noop => "noop",
            }
            .to_owned()
        ),
    ),
    row(
        "REDFISH_NOOP_RECORD",
        "",
        "a file this user can write",
        "Where REDFISH_MODE=noop writes the calls it stands for, a line each.",
        apply!(|v, t| v.provision.noop_record = t.to_owned(), |v| v
            .provision
            .noop_record
            .clone()),
    ),
    row(
        "REDFISH_TIMEOUT",
        "30s",
        "a duration above 0, such as 30s",
        "How long a BMC may take for one request and its answer.",
        apply!(|v, t| v.redfish_timeout = positive(t)?, |v| duration_text(
            v.redfish_timeout
        )),
    ),
    row(
        "REDFISH_RETRIES",
        "5",
        "a number from 0 to 100",
        "How often a BMC is asked again; a vendor known to be slow is asked more often.",
        apply!(
            |v, t| v.redfish_retries = u32::try_from(whole(t)?).ok().filter(|n| *n <= 100)?,
            |v| v.redfish_retries.to_string()
        ),
    ),
    row(
        "REDFISH_INSECURE_TLS",
        "false",
        BOOL,
        "Do not check the certificates of BMCs.",
        apply!(|v, t| v.redfish_insecure_tls = boolean(t)?, |v| v
            .redfish_insecure_tls
            .to_string()),
    ),
];

fn from_one_to(most: u64, text: &str) -> Option<u32> {
    let count = whole(text).filter(|count| (1..=most).contains(count))?;
    u32::try_from(count).ok()
}

/// Empty is none.
fn url(text: &str) -> Option<String> {
    (text.is_empty() || is_url(text)).then(|| text.to_owned())
}

fn minutes(text: &str) -> Option<Duration> {
    duration(text).filter(|duration| *duration >= MINUTE)
}

fn positive(text: &str) -> Option<Duration> {
    duration(text).filter(|duration| !duration.is_zero())
}

fn hidden(secret: &str) -> String {
    if secret.is_empty() {
        String::new()
    } else {
        "(not shown)".to_owned()
    }
}
