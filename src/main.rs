//! Environment → configuration → [`server::run`] → exit code; or a command that needs no server.

mod bmc_probe;
mod check_recipe;
mod node_plan;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use provisioner_controller::config::{self, Config};
use provisioner_controller::{pull, server, telemetry};

/// OCI registry for OS images, and the machines that boot from them.
///
/// Configured by environment variables.
#[derive(Parser)]
#[command(version, after_help = config::help(), args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Print the configuration in force, with secrets left out, and exit.
    #[arg(long)]
    print_config: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

/// What the binary does besides serving.
#[derive(Subcommand)]
enum Command {
    CheckRecipe(check_recipe::Arguments),
    Pull(pull::Arguments),
    BmcProbe(bmc_probe::Arguments),
    NodePlan(node_plan::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(command) = arguments.command {
        return match command {
            Command::CheckRecipe(arguments) => check_recipe::run(&arguments),
            Command::Pull(arguments) => pull(&arguments),
            Command::BmcProbe(arguments) => bmc_probe::run(arguments),
            Command::NodePlan(arguments) => node_plan::run(&arguments),
        };
    }
    let loaded = match Config::from_env(config::process_environment()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(2);
        }
    };
    if arguments.print_config {
        print!("{}", loaded.config.print());
        return ExitCode::SUCCESS;
    }
    telemetry::log::init(loaded.config.server.log_level);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match server::run(loaded.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn pull(arguments: &pull::Arguments) -> ExitCode {
    match pull::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Unlike `eprintln!`, goes on where nobody listens.
            let _ = writeln!(std::io::stderr(), "pull: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
