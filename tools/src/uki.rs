//! `cargo x uki`: a kernel, its initrd and its command line as one EFI program, which firmware
//! starts without a boot loader. Made of systemd-boot's stub by adding sections.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::setup;

/// Debian package systemd-boot-efi.
pub const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// Sections begin at pages.
const PAGE_BYTES: u64 = 4096;

#[derive(Args)]
pub struct Arguments {
    /// The kernel (vmlinuz)
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,
    /// Its initrd
    #[arg(long, value_name = "FILE")]
    pub initrd: PathBuf,
    /// Its command line
    #[arg(long, value_name = "TEXT")]
    pub cmdline: String,
    /// Where the EFI program goes
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Writes the EFI program.
pub fn make(arguments: &Arguments) -> Result<(), String> {
    let folder = arguments.out.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let cmdline = arguments.out.with_extension("cmdline");
    fs::write(&cmdline, format!("{}\0", arguments.cmdline))
        .map_err(|error| format!("{}: {error}", cmdline.display()))?;
    let made = add_sections(arguments, &cmdline);
    let _ = fs::remove_file(&cmdline);
    made
}

fn add_sections(arguments: &Arguments, cmdline: &Path) -> Result<(), String> {
    if !Path::new(STUB).is_file() {
        return Err(format!("{STUB} is missing: cargo x setup"));
    }
    let headers = setup::run_quietly(Command::new("objdump").args(["-h", "-w", STUB]));
    let headers = headers.ok_or("objdump cannot read the stub")?;
    let mut address = first_free_address(&headers).ok_or("objdump names no section of the stub")?;
    let mut command = Command::new("objcopy");
    // The kernel comes last: from there it is unpacked over what follows.
    for (section, file) in [
        (".cmdline", cmdline),
        (".initrd", &arguments.initrd),
        (".linux", &arguments.kernel),
    ] {
        let length_bytes = fs::metadata(file)
            .map_err(|error| format!("{}: {error}", file.display()))?
            .len();
        command
            .arg("--add-section")
            .arg(format!("{section}={}", file.display()))
            .arg("--change-section-vma")
            .arg(format!("{section}={address:#x}"));
        address = (address + length_bytes).next_multiple_of(PAGE_BYTES);
    }
    let done = command.arg(STUB).arg(&arguments.out).status();
    match done {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("objcopy ended with {status}")),
        Err(error) => Err(format!("objcopy (Debian package binutils): {error}")),
    }
}

/// Behind all sections, by the lines of `objdump -h -w`: index, name, size, address, …
fn first_free_address(headers: &str) -> Option<u64> {
    let ends = headers.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next()?.parse::<u32>().ok()?;
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        let _name = number();
        Some(number()? + number()?)
    });
    Some(ends.max()?.next_multiple_of(PAGE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_added_behind_those_of_the_stub() {
        let headers = "Sections:\nIdx Name Size VMA\n  0 .text 000092f0 0000000000004000 more\n\
                       1 .data 00000010 0000000000010ff8 more\n";
        assert_eq!(first_free_address(headers), Some(0x12000));
        assert_eq!(first_free_address("nothing"), None);
    }
}
