//! `bmc-probe`: what a job would meet at a BMC, asked without changing anything.
//!
//! Exit codes: 0 a job could run, 1 something it needs is not there, 2 the command line, the
//! environment or the password file is wrong, 3 the BMC did not answer or the login is refused.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use provisioner_controller::config::{self, Config, RedfishConfig};
use provisioner_controller::provision::bmc::{Bmc, BmcError};
use provisioner_controller::provision::redfish::{Login, Origin, Redfish, Survey, Target};

/// Somebody waits at a terminal.
const TIME_MAX: Duration = Duration::from_secs(300);

/// Ask a BMC what a job would find: system, slots, boot, resets, quirks; changes nothing
///
/// A session is opened and closed where the BMC has them.
#[derive(Args)]
#[command(
    after_help = "Exit code: 0 a job could run, 1 something it needs is not there, 2 the command \
                  line, the environment or the password file is wrong, 3 the BMC did not answer \
                  or refuses the login.\nREDFISH_TIMEOUT, REDFISH_RETRIES and \
                  REDFISH_INSECURE_TLS hold here too."
)]
pub struct Arguments {
    /// Where the BMC is, such as https://10.0.0.7
    #[arg(value_parser = |text: &str| Origin::parse(text).map_err(|error| error.to_string()))]
    url: Origin,

    #[arg(long, value_name = "USER")]
    username: String,

    /// A file with the password and nothing else; a line end after it does not count
    #[arg(long, value_name = "FILE")]
    password_file: PathBuf,

    /// The machine's serial number, where a BMC has several or to see that it is that one
    #[arg(long)]
    serial: Option<String>,

    /// The vendor, if the BMC's own word is wrong: dell, hpe, lenovo, supermicro
    #[arg(long)]
    vendor: Option<String>,

    /// Take any certificate, as REDFISH_INSECURE_TLS=true does
    #[arg(long)]
    insecure: bool,
}

pub fn run(arguments: Arguments) -> ExitCode {
    let prepared = settings(arguments.insecure)
        .and_then(|settings| Ok((settings, password(&arguments.password_file)?)));
    let (settings, password) = match prepared {
        Ok(prepared) => prepared,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let target = Target {
        origin: arguments.url,
        login: Login::new(&arguments.username, &password),
        vendor: arguments.vendor,
        serial: None,
    };
    let never = crossbeam::channel::never();
    let mut bmc = Redfish::new(target, &settings, TIME_MAX, never);
    let surveyed = bmc.survey(arguments.serial.as_deref());
    let mut said = surveyed.as_ref().map_or(String::new(), Survey::to_string);
    for note in bmc.take_notes() {
        said.push_str(&format!(
            "{:<12}  {} ({})\n",
            "note", note.message, note.code
        ));
    }
    // Who reads it may have left, and the exit code is an answer too.
    let _ = io::stdout().lock().write_all(said.as_bytes());
    match surveyed {
        Ok(survey) if survey.lacking.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(code_of(&error))
        }
    }
}

fn code_of(error: &BmcError) -> u8 {
    match error {
        BmcError::Missing { .. } | BmcError::Refused { .. } | BmcError::Answer { .. } => 1,
        BmcError::Unreachable { .. }
        | BmcError::NotBegun { .. }
        | BmcError::Busy { .. }
        | BmcError::Login => 3,
    }
}

fn settings(insecure: bool) -> Result<RedfishConfig, String> {
    let loaded =
        Config::from_env(config::process_environment()).map_err(|errors| errors.to_string())?;
    let mut settings = loaded.config.redfish;
    settings.insecure_tls |= insecure;
    Ok(settings)
}

fn password(file: &Path) -> Result<String, String> {
    let mut password = fs::read_to_string(file)
        .map_err(|error| format!("--password-file {}: {error}", file.display()))?;
    password.truncate(password.trim_end_matches(['\r', '\n']).len());
    if password.is_empty() {
        return Err(format!("--password-file {}: it is empty", file.display()));
    }
    Ok(password)
}
