//! The command line of `pull`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::choice::Platform;
use super::credentials::Places;
use super::failure::EXIT_CODES;

/// Fetch one layer of an artifact into a pipe or a file.
///
/// Goes on where it was after any cut, checks the digest, and says by its exit code what happened.
#[derive(Args, Debug)]
#[command(after_help = exit_codes())]
pub struct Arguments {
    /// host[:port]/repository[:tag|@digest], without http:// or https://
    #[arg(value_name = "REF")]
    pub source: String,
    #[command(flatten)]
    pub destination: Destination,
    /// The layer, by its title or digest, where the artifact has several
    #[arg(long, value_name = "TITLE|DIGEST")]
    pub layer: Option<String>,
    /// The manifest, where REF is an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = Platform::parse)]
    pub platform: Option<Platform>,
    /// Speak HTTP without TLS
    #[arg(long)]
    pub plain_http: bool,
    /// Trust these authorities (PEM) instead of Mozilla's
    #[arg(long, value_name = "FILE", conflicts_with = "plain_http")]
    pub ca_file: Option<PathBuf>,
    /// Log in by this name [env: PULL_USERNAME]; the password is in PULL_PASSWORD or a file
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// The password of --username
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Logins as podman and docker keep them [env: REGISTRY_AUTH_FILE] [default: where they do]
    #[arg(long, value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
    /// Give up after so long without a new byte (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_time)]
    pub patience: Duration,
    /// Cut a connection that is silent for so long, and go on with another
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    pub read_timeout: Duration,
    /// Say nothing but warnings and errors
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Destination {
    /// Write the layer to standard output, no byte twice; its last piece only if the digest is right
    #[arg(long)]
    pub stdout: bool,
    /// Write it to a file, which appears when it is complete; a further run goes on with its part
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
}

impl Arguments {
    /// Where credentials are, by these arguments and the environment.
    pub fn places(&self, environment: impl Fn(&str) -> Option<OsString>) -> Places {
        let text = |name: &str| environment(name).and_then(|value| value.into_string().ok());
        let path = |name: &str| {
            environment(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let usual = [
            path("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
            path("DOCKER_CONFIG").map(|folder| folder.join("config.json")),
            path("HOME").map(|folder| folder.join(".docker/config.json")),
        ];
        Places {
            username: self.username.clone().or_else(|| text("PULL_USERNAME")),
            password_file: self.password_file.clone(),
            password: text("PULL_PASSWORD"),
            auth_file: self
                .auth_file
                .clone()
                .or_else(|| path("REGISTRY_AUTH_FILE")),
            usual_auth_files: usual.into_iter().flatten().collect(),
        }
    }
}

fn exit_codes() -> String {
    let rows = EXIT_CODES
        .iter()
        .map(|(code, words)| format!("  {code}  {words}\n"));
    format!(
        "Exit codes:\n  0  all bytes are there and right\n{}",
        rows.collect::<String>()
    )
}

/// `90`, `90s`, `10m`, `2h`.
fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit_seconds) = match text.strip_suffix(['s', 'm', 'h']) {
        None => (text, 1),
        Some(number) if text.ends_with('s') => (number, 1),
        Some(number) if text.ends_with('m') => (number, 60),
        Some(number) => (number, 3600),
    };
    let seconds = number
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| number.parse::<u32>().ok())
        .flatten()
        .filter(|seconds| *seconds > 0);
    match seconds {
        Some(seconds) => Ok(Duration::from_secs(u64::from(seconds) * unit_seconds)),
        None => Err("expected a time above zero, as 30s, 10m or 2h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds_minutes_or_hours() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200)] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "0", "0s", "-1s", "+1", "1.5h", "s", "1d", "99999999999"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
