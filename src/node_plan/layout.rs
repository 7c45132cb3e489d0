//! A recipe's `partition_layout` and a disk's size in; a table for `sfdisk` and one for a shell out.
//!
//! Pure. Always holds: what is planned fits on the disk, begins and ends at a MiB, and no text of
//! the recipe can be read as syntax by what reads the tables.

use std::fmt;

use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Kept free at each end of the disk: the two tables, and alignment.
const EDGE_MIB: u64 = 1;
/// Added where a recipe names no EFI system partition: firmware starts nothing else.
const ESP_MIB: u64 = 300;
/// What Windows wants beside its own partition.
const RESERVED_MIB: u64 = 16;
/// The smallest that mkfs.vfat takes without complaint, and far more than user data has.
const CONFIG_DRIVE_MIB: u64 = 8;
/// The label by which cloud-init knows its volume.
const CONFIG_DRIVE_LABEL: &str = "cidata";

/// Four digits, as sgdisk has them, and the type.
const TYPES: [(&str, &str); 10] = [
    ("ef00", EFI),
    ("8300", LINUX),
    ("8200", SWAP),
    ("0700", MICROSOFT_DATA),
    ("0c01", MICROSOFT_RESERVED),
    ("2700", "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC"),
    ("8304", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"),
    ("8e00", "E6D6D379-F507-44C2-A23C-238F2A3DF928"),
    ("ef02", "21686148-6449-6E6F-744E-656564454649"),
    ("fd00", "A19D880F-05FC-4D3B-A006-743F0F84911E"),
];
const EFI: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
const SWAP: &str = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F";
const MICROSOFT_DATA: &str = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7";
const MICROSOFT_RESERVED: &str = "E3C9E316-0B5C-4DB8-817D-F92DF00215AE";

/// What each file system takes as its label, in bytes.
const LABEL_BYTES_MAX: [(&str, usize); 5] = [
    ("vfat", 11),
    ("ext4", 16),
    ("xfs", 12),
    ("swap", 16),
    ("ntfs", 32),
];

/// What is asked for besides the list.
pub struct Wanted {
    pub disk_bytes: u64,
    pub is_windows: bool,
    /// A volume for cloud-init.
    pub config_drive: bool,
}

#[derive(Debug)]
pub struct Layout {
    partitions: Vec<Partition>,
}

#[derive(Debug, PartialEq, Eq)]
struct Partition {
    size: Size,
    type_guid: String,
    format: String,
    label: String,
    mountpoint: String,
    bootable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Mib(u64),
    Percent(u64),
    /// What the others leave.
    Rest,
}

#[derive(Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// A member of a partition, and what would be right.
    Member {
        index: usize,
        member: &'static str,
        expected: String,
    },
    TooLarge {
        wanted_mib: u64,
        usable_mib: u64,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LayoutError::Member {
                index,
                member,
                expected,
            } => write!(f, "partition_layout[{index}].{member}: expected {expected}"),
            LayoutError::TooLarge {
                wanted_mib,
                usable_mib,
            } => write!(
                f,
                "partition_layout: the partitions want {wanted_mib} MiB, the disk has room for \
                 {usable_mib}"
            ),
        }
    }
}

/// The partitions of the recipe and what the machine needs besides, with their sizes in MiB.
pub fn plan(listed: &[Value], wanted: &Wanted) -> Result<Layout, LayoutError> {
    let mut partitions = Vec::new();
    for (index, entry) in listed.iter().enumerate() {
        let partition = Partition::read(entry, index)?;
        let rest_is_taken = partitions
            .iter()
            .any(|it: &Partition| it.size == Size::Rest);
        if partition.size == Size::Rest && rest_is_taken {
            return Err(LayoutError::Member {
                index,
                member: "size",
                expected: "a size: another partition has what the others leave".to_owned(),
            });
        }
        partitions.push(partition);
    }
    add_what_is_missing(&mut partitions, wanted);
    set_sizes(&mut partitions, wanted.disk_bytes)?;
    Ok(Layout { partitions })
}

fn add_what_is_missing(partitions: &mut Vec<Partition>, wanted: &Wanted) {
    if partitions.is_empty() && wanted.is_windows {
        partitions.push(Partition::new(
            Size::Mib(RESERVED_MIB),
            MICROSOFT_RESERVED,
            "none",
            "",
        ));
        partitions.push(Partition::new(
            Size::Rest,
            MICROSOFT_DATA,
            "ntfs",
            "Windows",
        ));
    }
    if !partitions.iter().any(|it| it.type_guid == EFI) {
        let esp = Partition::new(Size::Mib(ESP_MIB), EFI, "vfat", "ESP");
        partitions.insert(0, esp);
    }
    let has_drive = partitions.iter().any(|it| it.label == CONFIG_DRIVE_LABEL);
    if wanted.config_drive && !has_drive {
        let size = Size::Mib(CONFIG_DRIVE_MIB);
        let drive = Partition::new(size, MICROSOFT_DATA, "vfat", CONFIG_DRIVE_LABEL);
        partitions.push(drive);
    }
}

/// Afterwards every size is a number of MiB, none is zero, and their sum fits.
fn set_sizes(partitions: &mut [Partition], disk_bytes: u64) -> Result<(), LayoutError> {
    let usable_mib = (disk_bytes / MIB).saturating_sub(2 * EDGE_MIB);
    for partition in partitions.iter_mut() {
        if let Size::Percent(percent) = partition.size {
            let mib = u128::from(usable_mib) * u128::from(percent) / 100;
            partition.size = Size::Mib((mib as u64).max(1));
        }
    }
    let fixed_mib = partitions
        .iter()
        .map(|it| match it.size {
            Size::Mib(mib) => mib,
            Size::Percent(_) | Size::Rest => 0,
        })
        .fold(0, u64::saturating_add);
    let has_rest = partitions.iter().any(|it| it.size == Size::Rest);
    let wanted_mib = fixed_mib.saturating_add(u64::from(has_rest));
    if wanted_mib > usable_mib {
        return Err(LayoutError::TooLarge {
            wanted_mib,
            usable_mib,
        });
    }
    for partition in partitions {
        if partition.size == Size::Rest {
            partition.size = Size::Mib(usable_mib - fixed_mib);
        }
    }
    Ok(())
}

impl Layout {
    /// For `sfdisk`.
    pub fn sfdisk(&self) -> String {
        let mut script = "label: gpt\n".to_owned();
        for partition in &self.partitions {
            let Size::Mib(mib) = partition.size else {
                unreachable!("plan() has set every size");
            };
            script.push_str(&format!("size={mib}MiB, type={}", partition.type_guid));
            if !partition.label.is_empty() {
                script.push_str(&format!(", name=\"{}\"", partition.label));
            }
            if partition.bootable {
                script.push_str(", attrs=\"LegacyBIOSBootable\"");
            }
            script.push('\n');
        }
        script
    }

    /// For a shell that reads lines with tabs: number, format, label, mount point, role.
    pub fn table(&self) -> String {
        let or_dash = |text: &str| match text {
            "" => "-".to_owned(),
            text => text.to_owned(),
        };
        let mut table = String::new();
        for (index, partition) in self.partitions.iter().enumerate() {
            let role = match partition.type_guid.as_str() {
                EFI => "esp",
                _ if partition.label == CONFIG_DRIVE_LABEL => "config-drive",
                _ => "-",
            };
            table.push_str(&format!(
                "{}\t{}\t{}\t{}\t{role}\n",
                index + 1,
                partition.format,
                or_dash(&partition.label),
                or_dash(&partition.mountpoint)
            ));
        }
        table
    }
}

impl Partition {
    fn new(size: Size, type_guid: &str, format: &str, label: &str) -> Partition {
        Partition {
            size,
            type_guid: type_guid.to_owned(),
            format: format.to_owned(),
            label: label.to_owned(),
            mountpoint: String::new(),
            bootable: false,
        }
    }

    fn read(entry: &Value, index: usize) -> Result<Partition, LayoutError> {
        let text = |member: &str| entry.get(member).and_then(Value::as_str).unwrap_or("");
        let wrong = |member, expected: String| LayoutError::Member {
            index,
            member,
            expected,
        };
        let format = match text("format") {
            "" => "none",
            format => format,
        };
        for member in ["label", "mountpoint"] {
            if !text(member).chars().all(is_plain) {
                let expected = "printable ASCII without \" and \\".to_owned();
                return Err(wrong(member, expected));
            }
        }
        let label_bytes_max = LABEL_BYTES_MAX.iter().find(|(name, _)| *name == format);
        if let Some((_, bytes_max)) = label_bytes_max
            && text("label").len() > *bytes_max
        {
            let expected = format!("at most {bytes_max} characters, for {format}");
            return Err(wrong("label", expected));
        }
        if text("mountpoint").split('/').any(|step| step == "..") {
            return Err(wrong("mountpoint", "a path without ..".to_owned()));
        }
        let type_guid = type_of(text("type_guid"), format, text("mountpoint"))
            .ok_or_else(|| wrong("type_guid", known_types()))?;
        let size = Size::read(text("size"))
            .ok_or_else(|| wrong("size", "a size such as 512M, 30% or 100%".to_owned()))?;
        Ok(Partition {
            size,
            type_guid,
            format: format.to_owned(),
            label: text("label").to_owned(),
            mountpoint: text("mountpoint").to_owned(),
            bootable: entry.get("bootable").and_then(Value::as_bool) == Some(true),
        })
    }
}

/// Neither ends a word in `sfdisk`'s quotes, nor a column or line of the table.
fn is_plain(c: char) -> bool {
    (' '..='~').contains(&c) && c != '"' && c != '\\'
}

fn type_of(given: &str, format: &str, mountpoint: &str) -> Option<String> {
    if given.len() > 4 {
        return Some(given.to_ascii_uppercase());
    }
    if given.is_empty() {
        let guessed = match (format, mountpoint) {
            ("vfat", "/boot/efi" | "/efi" | "/boot") => EFI,
            ("ntfs" | "vfat", _) => MICROSOFT_DATA,
            ("swap", _) => SWAP,
            _ => LINUX,
        };
        return Some(guessed.to_owned());
    }
    let known = TYPES
        .iter()
        .find(|(digits, _)| digits.eq_ignore_ascii_case(given));
    known.map(|(_, guid)| (*guid).to_owned())
}

fn known_types() -> String {
    let digits: Vec<&str> = TYPES.iter().map(|(digits, _)| *digits).collect();
    format!("a GUID or one of {}", digits.join(", "))
}

impl Size {
    /// `K` and `KiB` are 1024, `KB` is 1000, a bare number is bytes; up to the next MiB.
    fn read(text: &str) -> Option<Size> {
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.parse().ok()? {
                100 => Some(Size::Rest),
                percent => Some(Size::Percent(percent)),
            };
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let mut letters = unit.chars();
        let (power, rest) = match letters.next() {
            None | Some('B') => (0, ""),
            Some(letter) => ("KMGTP".find(letter)? as u32 + 1, letters.as_str()),
        };
        let step: u64 = if rest == "B" { 1000 } else { 1024 };
        let bytes = number
            .parse::<u64>()
            .ok()?
            .checked_mul(step.checked_pow(power)?)?;
        Some(Size::Mib(bytes.div_ceil(MIB)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn wanted(disk_mib: u64) -> Wanted {
        Wanted {
            disk_bytes: disk_mib * MIB,
            is_windows: false,
            config_drive: false,
        }
    }

    fn planned(listed: Value, wanted: &Wanted) -> Result<Layout, LayoutError> {
        plan(listed.as_array().expect("a list"), wanted)
    }

    #[test]
    fn a_list_becomes_a_script_and_a_table() {
        let listed = json!([
            {"size": "512M", "type_guid": "ef00", "format": "vfat", "label": "ESP",
             "mountpoint": "/boot/efi"},
            {"size": "25%", "format": "xfs", "mountpoint": "/var"},
            {"size": "100%", "format": "ext4", "label": "my root", "mountpoint": "/",
             "bootable": true},
        ]);
        let layout = planned(listed, &wanted(4098)).expect("it fits");
        assert_eq!(
            layout.sfdisk(),
            format!(
                "label: gpt\nsize=512MiB, type={EFI}, name=\"ESP\"\nsize=1024MiB, type={LINUX}\n\
                 size=2560MiB, type={LINUX}, name=\"my root\", attrs=\"LegacyBIOSBootable\"\n"
            )
        );
        assert_eq!(
            layout.table(),
            "1\tvfat\tESP\t/boot/efi\tesp\n2\txfs\t-\t/var\t-\n3\text4\tmy root\t/\t-\n"
        );
    }

    #[test]
    fn what_firmware_and_cloud_init_need_is_added() {
        let mut wanted = wanted(2048);
        wanted.config_drive = true;
        let root = json!([{"size": "100%", "format": "ext4", "mountpoint": "/"}]);
        let layout = planned(root, &wanted).expect("it fits");
        assert_eq!(
            layout.table(),
            "1\tvfat\tESP\t-\tesp\n2\text4\t-\t/\t-\n3\tvfat\tcidata\t-\tconfig-drive\n"
        );
        let own = json!([{"size": "100%"}, {"size": "1M", "label": "cidata", "format": "none"}]);
        let layout = planned(own, &wanted).expect("it fits");
        assert_eq!(
            layout.partitions.len(),
            3,
            "one of its own is left as it is"
        );
    }

    #[test]
    fn windows_needs_no_list() {
        let mut wanted = wanted(20_000);
        wanted.is_windows = true;
        let layout = plan(&[], &wanted).expect("it fits");
        let table = "1\tvfat\tESP\t-\tesp\n2\tnone\t-\t-\t-\n3\tntfs\tWindows\t-\t-\n";
        assert_eq!(layout.table(), table);
    }

    #[test]
    fn sizes_are_read_in_every_spelling_of_the_schema() {
        for (text, mib) in [
            ("1", 1),
            ("1048577B", 2),
            ("512K", 1),
            ("512M", 512),
            ("2G", 2048),
            ("2GiB", 2048),
            ("2Gi", 2048),
            ("2GB", 1908),
            ("1T", 1 << 20),
        ] {
            assert_eq!(Size::read(text), Some(Size::Mib(mib)), "{text}");
        }
        assert_eq!(Size::read("30%"), Some(Size::Percent(30)));
        assert_eq!(Size::read("99999999999999P"), None);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let says = |listed: Value| {
            let error = planned(listed, &wanted(1024)).expect_err("it cannot be");
            error.to_string()
        };
        let too_large = says(json!([{"size": "2G"}]));
        assert!(too_large.contains("2348 MiB"), "{too_large}");
        assert!(too_large.contains("1022"), "{too_large}");
        let label = says(json!([{"size": "1M", "label": "a\", type=x"}]));
        assert!(label.starts_with("partition_layout[0].label"), "{label}");
        let long = says(json!([{"size": "1M", "label": "twelve bytes", "format": "vfat"}]));
        assert!(long.contains("at most 11"), "{long}");
        let kind = says(json!([{"size": "1M", "type_guid": "1234"}]));
        assert!(kind.contains("ef00"), "{kind}");
        let up = says(json!([{"size": "1M", "mountpoint": "/../x"}]));
        assert!(up.contains("without .."), "{up}");
        let rest = says(json!([{"size": "100%"}, {"size": "100%"}]));
        assert!(rest.starts_with("partition_layout[1].size"), "{rest}");
    }

    proptest! {
        #[test]
        fn whatever_is_planned_fits_and_has_one_line_each(
            sizes in prop::collection::vec("(100%|[1-9][0-9]?%|[1-9][0-9]{0,3}[KMG]?)", 1..8),
            label in ".{0,12}",
            disk_mib in 0_u64..100_000,
        ) {
            let listed: Vec<Value> = sizes
                .iter()
                .map(|size| json!({"size": size, "label": label}))
                .collect();
            if let Ok(layout) = plan(&listed, &wanted(disk_mib)) {
                let count = layout.partitions.len();
                prop_assert_eq!(layout.table().lines().count(), count);
                prop_assert_eq!(layout.sfdisk().lines().count(), count + 1);
                let sum: u64 = layout.partitions.iter().map(|it| match it.size {
                    Size::Mib(mib) => mib,
                    Size::Percent(_) | Size::Rest => u64::MAX / 100,
                }).sum();
                prop_assert!(sum + 2 <= disk_mib, "{} of {}", sum, disk_mib);
            }
        }
    }
}
