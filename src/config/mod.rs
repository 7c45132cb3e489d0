//! What the operator decides: read once from the environment, immutable afterwards.
//!
//! Every setting is one row in `settings.rs`; the row makes the parser, the messages, the output
//! of `--print-config` and `docs/configuration.md`. A setting of the contract whose feature does
//! not exist yet is a row in `unavailable.rs` and is never read and ignored. What is not an
//! operator's business is in `limits.rs`. Nothing here touches a disk, a socket or a clock.

mod page;
mod provisioning;
mod settings;
mod unavailable;
mod url_prefix;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

pub use page::{help, page};
pub use provisioning::{
    ApiConfig, ApiLogin, ArtifactsConfig, BmcConfig, FailedLogins, JobsConfig, JwtConfig,
    MediaConfig, Network, ProvisionConfig, WarmUpBudget, WebhookConfig,
};
use settings::{SETTINGS, Setting, Values};
use unavailable::UNAVAILABLE;
pub use url_prefix::UrlPrefix;
pub use values::{ImmutableTags, ListenAddress, Secret};

/// Everything the operator can decide, valid as a whole.
#[derive(Debug)]
pub struct Config {
    pub server: ServerConfig,
    pub registry: RegistryConfig,
    pub store: StoreConfig,
    pub gc: GcConfig,
    pub access: AccessConfig,
    /// `None`: there is no provisioning.
    pub provision: Option<ProvisionConfig>,
    pub redfish: RedfishConfig,
    /// Settings in effect, in the order of the table, ready to be shown.
    shown: Vec<(&'static str, String)>,
}

/// Listeners, cores, log and the times of a connection.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub http_address: ListenAddress,
    pub metrics_address: ListenAddress,
    /// `None`: as many as the affinity mask and the cgroup quota allow.
    pub cores: Option<NonZeroUsize>,
    pub log_level: tracing::Level,
    /// How long a client may take to send the head of a request.
    pub read_timeout: Duration,
    /// How long running downloads are given at a stop.
    pub stop_timeout: Duration,
    /// Whether `/admin/` is served.
    pub enable_admin: bool,
}

/// Whether there is a registry, and how patient it is.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    pub enabled: bool,
    /// How long an upload may go without progress, and wait for its turn.
    pub upload_timeout: Duration,
    /// How long a download may go without progress.
    pub download_timeout: Duration,
    /// How many upload bodies are read at a time; further ones wait.
    pub concurrent_uploads_max: NonZeroUsize,
}

/// Where the store is, and what it accepts.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    pub root: PathBuf,
    /// `None`: no limit.
    pub blob_bytes_max: Option<u64>,
    /// Accept manifests that name absent blobs.
    pub allow_sparse: bool,
    pub immutable_tags: ImmutableTags,
    /// How long an answer that says that something is there keeps it there.
    pub lease: Duration,
}

impl StoreConfig {
    /// The store in `root`, and all else at its default.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        StoreConfig {
            root: root.into(),
            blob_bytes_max: None,
            allow_sparse: false,
            immutable_tags: ImmutableTags::None,
            lease: Duration::from_secs(30 * 60),
        }
    }
}

/// When garbage is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcConfig {
    /// `None`: only when asked for.
    pub interval: Option<Duration>,
    /// How long something must have been unreachable before it is removed.
    pub grace: Duration,
}

/// How BMCs are asked.
#[derive(Debug, Clone)]
pub struct RedfishConfig {
    /// For one request with its answer.
    pub timeout: Duration,
    /// How often a request is made again that came to nothing.
    pub retries: u32,
    /// Take any certificate.
    pub insecure_tls: bool,
}

/// Who may use the registry.
#[derive(Debug, Clone)]
pub enum AccessConfig {
    /// Everybody may do everything.
    Open,
    /// At least one of `basic` and `htpasswd_file` is there.
    Login {
        basic: Option<BasicLogin>,
        htpasswd_file: Option<PathBuf>,
        /// Pull without login; everything else, the ping too, still asks for one.
        anonymous_pull: bool,
    },
}

/// The one login that stands in the environment.
#[derive(Debug, Clone)]
pub struct BasicLogin {
    pub user: String,
    pub secret: BasicSecret,
}

/// How the environment gives the password of [`BasicLogin`].
#[derive(Debug, Clone)]
pub enum BasicSecret {
    /// At most 72 bytes, which is what bcrypt looks at.
    Password(Secret),
    /// A bcrypt or argon2id hash.
    Hash(Secret),
}

/// A configuration with what the operator should be told about it.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// For the log: nothing here prevents the start.
    pub warnings: Vec<ConfigWarning>,
}

impl Config {
    /// Reads the settings out of `environment`; names that are none of ours are left alone.
    ///
    /// Errors: all problems at once, so that nobody meets them one start at a time.
    pub fn from_env(
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigErrors> {
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        let mut problems = Vec::new();
        let mut values = Values::blank();
        for setting in SETTINGS {
            let set = setting.apply.read(&mut values, setting.default);
            assert!(set.is_some(), "the default of {} is valid", setting.name);
            let Some((spelling, value)) = chosen(setting, &environment, &mut problems) else {
                continue;
            };
            if value.contains('\u{fffd}') || setting.apply.read(&mut values, value).is_none() {
                problems.push(ConfigProblem::BadValue {
                    variable: spelling,
                    value: setting.shown_value(value),
                    expected: setting.expected,
                });
            }
        }
        for row in UNAVAILABLE {
            match environment.get(row.name) {
                Some(value) if !row.is_default(value) => {
                    problems.push(ConfigProblem::NotAvailable {
                        variable: row.name,
                        value: value.clone(),
                        feature: row.feature,
                    });
                }
                _ => {}
            }
        }
        values.check(&mut problems);
        if !problems.is_empty() {
            return Err(ConfigErrors(problems));
        }
        let warnings = warnings(&values, &environment);
        let shown = SETTINGS
            .iter()
            .map(|setting| (setting.name, setting.apply.show(&values)))
            .collect();
        Ok(Loaded {
            config: values.into_config(shown),
            warnings,
        })
    }

    /// What `--print-config` prints: `NAME=value` a line, secrets left out.
    pub fn print(&self) -> String {
        self.shown
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect()
    }
}

/// The environment of this process.
///
/// A name or value that is not UTF-8 arrives with U+FFFD in place of the bad bytes, which
/// [`Config::from_env`] refuses by the variable's name: `std::env::vars` would panic instead.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        )
    })
}

/// The value that is set for `setting`, under whichever of its spellings.
///
/// An empty value counts as not set, as in a compose file's `NAME=`, except where nothing could be
/// meant by it.
fn chosen<'a>(
    setting: &Setting,
    environment: &'a BTreeMap<String, String>,
    problems: &mut Vec<ConfigProblem>,
) -> Option<(&'static str, &'a str)> {
    let spellings = std::iter::once(setting.name).chain(setting.older_names.iter().copied());
    let mut found: Option<(&'static str, &'a str)> = None;
    for spelling in spellings {
        let Some(value) = environment.get(spelling) else {
            continue;
        };
        if value.is_empty() && !setting.empty_is_refused {
            continue;
        }
        match found {
            None => found = Some((spelling, value)),
            Some((first, first_value)) if first_value != value => {
                problems.push(ConfigProblem::SpellingsDisagree {
                    variables: [first, spelling],
                });
            }
            Some(_) => {}
        }
    }
    found
}

fn warnings(values: &Values, environment: &BTreeMap<String, String>) -> Vec<ConfigWarning> {
    let mut warnings = Vec::new();
    for row in UNAVAILABLE {
        if environment
            .get(row.name)
            .is_some_and(|value| !value.is_empty())
        {
            warnings.push(ConfigWarning::NotYet {
                variable: row.name,
                feature: row.feature,
            });
        }
    }
    values.without_effect(&mut warnings);
    values.unusual(&mut warnings);
    let known: Vec<&'static str> = SETTINGS
        .iter()
        .flat_map(|setting| {
            std::iter::once(setting.name).chain(setting.older_names.iter().copied())
        })
        .chain(UNAVAILABLE.iter().map(|row| row.name))
        .collect();
    for name in environment.keys() {
        let ours = name.starts_with("REGISTRY_") || name.starts_with("CONTROLLER_");
        if ours && !known.contains(&name.as_str()) {
            warnings.push(ConfigWarning::Unknown {
                variable: name.clone(),
                nearest: nearest(name, &known),
            });
        }
    }
    warnings
}

/// The known name with the fewest edits to `name`, if they are few enough to be a slip.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let (distance, nearest) = known
        .iter()
        .map(|candidate| (edit_distance(name, candidate), *candidate))
        .min()?;
    (distance <= name.len() / 3).then_some(nearest)
}

/// Insertions, removals and replacements that lead from `from` to `to` (Levenshtein).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, from_char) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to_char) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(from_char != *to_char);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[to.len()]
}

/// One reason not to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigProblem {
    /// `value` is as it may be shown: a secret's is left out.
    BadValue {
        variable: &'static str,
        value: String,
        expected: &'static str,
    },
    /// Two spellings of one setting are set, to different values.
    SpellingsDisagree { variables: [&'static str; 2] },
    /// A setting of the contract whose feature this version does not have.
    NotAvailable {
        variable: &'static str,
        value: String,
        feature: &'static str,
    },
    /// `because` holds and asks for `wanted`.
    Missing {
        because: &'static str,
        wanted: &'static str,
    },
    /// Two settings that exclude each other.
    Both { variables: [&'static str; 2] },
    /// Both listeners on one address.
    SameAddress { address: ListenAddress },
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigProblem::BadValue {
                variable,
                value,
                expected,
            } => write!(out, "{variable}={value}: expected {expected}"),
            ConfigProblem::SpellingsDisagree {
                variables: [one, other],
            } => write!(
                out,
                "{one} and {other} are the same setting and have different values: set one of them"
            ),
            ConfigProblem::NotAvailable {
                variable,
                value,
                feature,
            } => write!(
                out,
                "{variable}={value}: not available in this version ({feature})"
            ),
            ConfigProblem::Missing { because, wanted } => write!(out, "{because}: set {wanted}"),
            ConfigProblem::Both {
                variables: [one, other],
            } => write!(out, "{one} and {other} exclude each other: set one of them"),
            ConfigProblem::SameAddress { address } => write!(
                out,
                "CONTROLLER_HTTP_ADDR and METRICS_ADDR are both {address}: metrics have a \
                 listener of their own, expected another port"
            ),
        }
    }
}

/// All reasons not to start; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigProblem>);

impl ConfigErrors {
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    /// A line each.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            write!(out, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Something the operator should know, though the server starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigWarning {
    /// Looks like ours and is not.
    Unknown {
        variable: String,
        nearest: Option<&'static str>,
    },
    /// Set to its default, but what it belongs to does not exist in this version.
    NotYet {
        variable: &'static str,
        feature: &'static str,
    },
    /// Valid, but `because` makes it meaningless.
    NoEffect {
        variable: &'static str,
        because: &'static str,
    },
    /// Valid, and not what most want: `consequence` says why.
    Unusual {
        variable: &'static str,
        consequence: &'static str,
    },
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigWarning::Unknown {
                variable,
                nearest: Some(nearest),
            } => write!(out, "{variable} is not a setting; nearest known: {nearest}"),
            ConfigWarning::Unknown {
                variable,
                nearest: None,
            } => write!(out, "{variable} is not a setting"),
            ConfigWarning::NotYet { variable, feature } => write!(
                out,
                "{variable} has no effect in this version: {feature} does not exist yet"
            ),
            ConfigWarning::NoEffect { variable, because } => {
                write!(out, "{variable} has no effect while {because}")
            }
            ConfigWarning::Unusual {
                variable,
                consequence,
            } => write!(out, "{variable}: {consequence}"),
        }
    }
}

#[cfg(test)]
mod tests;
