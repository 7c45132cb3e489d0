//! `cargo x VERB`: what people and CI do with this tree, in the same words.

mod bench;
mod contract;
mod debian_rootfs;
mod initramfs;
mod maintenance_image;
mod setup;
mod suites;
mod uki;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo x", about = "Set up, test and measure this tree")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what the tests need and the machine lacks (Debian packages, two Go programs,
    /// a Python one)
    Setup,
    /// THE test command: set up, then every test there is, real clients included
    Test {
        /// 10 GiB blobs instead of 2 GiB in the tests of big blobs (needs about 25 GiB of disk)
        #[arg(long)]
        large: bool,
    },
    /// Formatting and lints, as CI wants them
    Check,
    /// oras, skopeo, podman, buildah and the conformance suite against the real binary
    Clients {
        /// Only the tests whose name contains this
        filter: Option<String>,
    },
    /// The distribution-spec's conformance suite against the real binary
    Conformance,
    /// The real process: big blobs, memory, kill -9, hostile clients
    Process {
        /// Only the tests whose name contains this
        filter: Option<String>,
        /// 10 GiB blobs instead of 2 GiB in the tests of big blobs (needs about 25 GiB of disk)
        #[arg(long)]
        large: bool,
    },
    /// The task ISO, read back by xorriso, isoinfo, bsdtar and pycdlib
    Iso {
        /// Only the tests whose name contains this
        filter: Option<String>,
    },
    /// The puller against the real binary, through a proxy that does everything wrong
    Pull {
        /// Only the tests whose name contains this
        filter: Option<String>,
    },
    /// Build the program without any shared library, for systems that hold nothing else
    Puller,
    /// The Redfish client against a BMC of our own and against sushy-tools' emulator
    Redfish {
        /// Only the tests whose name contains this
        filter: Option<String>,
    },
    /// The CD that machines start from to be installed (docs/maintenance-image.md)
    MaintenanceImage(maintenance_image::Arguments),
    /// A kernel, its initrd and its command line as one EFI program, for a root file system
    Uki(uki::Arguments),
    /// Virtual machines installed through a BMC emulator, by the maintenance image
    Install {
        /// Only the tests whose name contains this
        filter: Option<String>,
    },
    /// Many jobs at once, and nodes in network namespaces that pull one image (needs root)
    Wave {
        /// 200 jobs, 50 nodes, 2 GiB each, instead of 20, 10 and 64 MiB
        #[arg(long)]
        large: bool,
    },
    #[command(hide = true)]
    FinishRootfs { root: PathBuf },
    /// Play the contract scripts to any registry: --against URL
    #[command(disable_help_flag = true)]
    Contract {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure the server beside bare loops that do the same work
    #[command(disable_help_flag = true)]
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Setup => setup::run().map(|_| true),
        Verb::Test { large } => suites::test(large),
        Verb::Check => suites::check(),
        Verb::Wave { large } => suites::wave(large),
        Verb::Clients { filter } => suites::clients(filter.as_deref()),
        Verb::Conformance => suites::clients(Some("conformance")),
        Verb::Process { filter, large } => suites::process(filter.as_deref(), large),
        Verb::Iso { filter } => suites::iso(filter.as_deref()),
        Verb::Pull { filter } => suites::pull(filter.as_deref()),
        Verb::Puller => suites::puller(),
        Verb::Redfish { filter } => suites::redfish(filter.as_deref()),
        Verb::MaintenanceImage(arguments) => suites::maintenance_image(&arguments),
        Verb::Uki(arguments) => uki::make(&arguments).map(|()| true),
        Verb::Install { filter } => suites::install(filter.as_deref()),
        Verb::FinishRootfs { root } => debian_rootfs::finish(&root).map(|()| true),
        Verb::Contract { arguments } => contract::run(arguments.into_iter()),
        Verb::Bench { arguments } => bench::run(arguments)
            .map(|status| status.success())
            .map_err(|error| format!("cargo x bench: {error}")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("cargo x: {problem}");
            ExitCode::FAILURE
        }
    }
}
