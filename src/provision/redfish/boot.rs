//! The next boot: what is asked for, and whether the system says so afterwards.

use serde_json::{Value, json};

use super::document::{at, text, texts};
use super::vendor::Habits;

/// The property that some BMCs refuse beside the others.
pub const MODE: &str = "BootSourceOverrideMode";

/// The target for a boot from the virtual CD; `None`: the system says that it has none.
pub fn target(system: &Value, habits: &Habits) -> Option<String> {
    let allowed = texts(
        system,
        &["Boot", "BootSourceOverrideTarget@Redfish.AllowableValues"],
    );
    let Some(allowed) = allowed.filter(|allowed| !allowed.is_empty()) else {
        return Some("Cd".to_owned());
    };
    let spelled = |wanted: &str| allowed.iter().find(|one| one.eq_ignore_ascii_case(wanted));
    let preferred = habits.cd_targets.iter().chain(["Cd", "UsbCd"].iter());
    preferred
        .into_iter()
        .find_map(|wanted| spelled(wanted))
        .map(|one| (*one).to_owned())
}

pub fn body(target: &str, mode: Option<&str>) -> Value {
    let mut boot = json!({
        "BootSourceOverrideEnabled": "Once",
        "BootSourceOverrideTarget": target,
    });
    if let Some(mode) = mode {
        boot[MODE] = json!(mode);
    }
    json!({"Boot": boot})
}

/// What the system says of its next boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadBack {
    Once,
    /// It will boot from CD, and not only once.
    Continuous,
    Wrong {
        found: String,
    },
}

pub fn read_back(system: &Value, target: &str) -> ReadBack {
    let enabled = text(system, &["Boot", "BootSourceOverrideEnabled"]).unwrap_or("nothing");
    let found = text(system, &["Boot", "BootSourceOverrideTarget"]).unwrap_or("nothing");
    let right = found.eq_ignore_ascii_case(target);
    match enabled.to_ascii_lowercase().as_str() {
        "once" if right => ReadBack::Once,
        "continuous" if right => ReadBack::Continuous,
        _ => ReadBack::Wrong {
            found: super::document::shown(&format!("{enabled}, {found}")),
        },
    }
}

/// The condition of the next try after a BMC has not accepted `refused`; each but the last is
/// another reading of the same tag.
pub fn condition_after(refused: Option<&str>) -> Option<String> {
    match refused {
        // It wants one and gave none.
        None => Some("*".to_owned()),
        Some("*") => None,
        Some(tag) => match tag.strip_prefix("W/") {
            // Weak and strong are confused in either direction.
            Some(strong) => Some(strong.to_owned()),
            None => Some("*".to_owned()),
        },
    }
}

/// The tag of a document, from its header or else from within.
pub fn tag(header: Option<&str>, document: &Value) -> Option<String> {
    let inner = at(document, &["@odata.etag"]).and_then(Value::as_str);
    let sound = |tag: &&str| !tag.is_empty() && tag.bytes().all(|b| (0x21..0x7f).contains(&b));
    header.or(inner).filter(sound).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::vendor;
    use super::*;

    fn allowing(values: &[&str]) -> Value {
        json!({"Boot": {"BootSourceOverrideTarget@Redfish.AllowableValues": values}})
    }

    #[test]
    fn a_target_is_one_that_is_allowed_in_its_own_spelling() {
        let standard = &vendor::STANDARD;
        let supermicro = vendor::of(["supermicro"]);
        for (values, habits, wanted) in [
            (&["Pxe", "Cd", "UsbCd"][..], standard, Some("Cd")),
            (&["Pxe", "Cd", "UsbCd"], supermicro, Some("UsbCd")),
            (&["Pxe", "CD"], supermicro, Some("CD")),
            (&["UsbCd"], standard, Some("UsbCd")),
            (&["Pxe", "Hdd"], standard, None),
            (&[], standard, Some("Cd")),
        ] {
            assert_eq!(
                target(&allowing(values), habits).as_deref(),
                wanted,
                "{values:?}"
            );
        }
        assert_eq!(target(&Value::Null, standard).as_deref(), Some("Cd"));
    }

    #[test]
    fn what_is_read_back_decides() {
        let says = |enabled: &str, target: &str| {
            read_back(
                &json!({"Boot": {
                    "BootSourceOverrideEnabled": enabled,
                    "BootSourceOverrideTarget": target,
                }}),
                "Cd",
            )
        };
        assert_eq!(says("Once", "Cd"), ReadBack::Once);
        assert_eq!(says("Continuous", "Cd"), ReadBack::Continuous);
        for (enabled, target) in [("Once", "Hdd"), ("Disabled", "Cd"), ("Disabled", "None")] {
            assert!(matches!(says(enabled, target), ReadBack::Wrong { .. }));
        }
        assert!(matches!(
            read_back(&json!([]), "Cd"),
            ReadBack::Wrong { .. }
        ));
    }

    #[test]
    fn conditions_end_with_none() {
        assert_eq!(condition_after(Some("W/\"1\"")).as_deref(), Some("\"1\""));
        assert_eq!(condition_after(Some("\"1\"")).as_deref(), Some("*"));
        assert_eq!(condition_after(Some("*")), None);
        assert_eq!(condition_after(None).as_deref(), Some("*"));
        assert_eq!(tag(None, &json!({"@odata.etag": "a\r\nb"})), None);
        assert_eq!(
            tag(Some("\"h\""), &json!({"@odata.etag": "b"})).as_deref(),
            Some("\"h\"")
        );
    }
}
