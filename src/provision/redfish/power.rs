//! Power: what state a system is in, which reset it takes, and whether one happened.

use serde_json::Value;

use super::document::{list, text, texts};
use crate::provision::bmc::{Power, Restart};

/// The gentlest first: a running system may end what it does.
const RESTARTS: &[&str] = &["GracefulRestart", "ForceRestart", "PowerCycle"];
/// A gentle one would be taken and leave a system that does not listen as it is.
const FORCED_RESTARTS: &[&str] = &["ForceRestart", "PowerCycle", "GracefulRestart"];
const STARTS: &[&str] = &["On", "ForceOn"];

/// `None`: the system does not say, or in a word that is not known.
pub fn state(system: &Value) -> Option<Power> {
    match text(system, &["PowerState"])?.to_ascii_lowercase().as_str() {
        "on" => Some(Power::On),
        "off" => Some(Power::Off),
        "poweringon" | "poweringoff" | "paused" => Some(Power::Changing),
        _ => None,
    }
}

/// The resets that the system names, from itself or from the description of its action.
pub fn allowed(system: &Value, action_info: Option<&Value>) -> Option<Vec<String>> {
    let own = texts(
        system,
        &[
            "Actions",
            "#ComputerSystem.Reset",
            "ResetType@Redfish.AllowableValues",
        ],
    );
    let described = || {
        let parameters = list(action_info?, &["Parameters"]);
        let mut resets = parameters.filter(|one| text(one, &["Name"]) == Some("ResetType"));
        texts(resets.next()?, &["AllowableValues"])
    };
    let values = own.or_else(described)?;
    (!values.is_empty()).then(|| values.into_iter().map(str::to_owned).collect())
}

/// The resets to try, in order; empty: the system allows none that helps.
pub fn resets(power: Power, restart: Restart, allowed: Option<&[String]>) -> Vec<&'static str> {
    let wanted = match (power, restart) {
        (Power::Off, _) => STARTS,
        (Power::On | Power::Changing, Restart::Gentle) => RESTARTS,
        (Power::On | Power::Changing, Restart::Forced) => FORCED_RESTARTS,
    };
    let is_allowed =
        |reset: &&&str| allowed.is_none_or(|allowed| allowed.iter().any(|one| one == **reset));
    wanted.iter().filter(is_allowed).copied().collect()
}

/// Whether a reset took place between two readings of a system; `None`: nothing tells.
pub fn happened(before: &Value, after: &Value) -> Option<bool> {
    let last = |system| text(system, &["LastResetTime"]);
    if let (Some(before), Some(after)) = (last(before), last(after)) {
        return Some(before != after);
    }
    match (state(before)?, state(after)?) {
        (Power::Off, Power::Off) => Some(false),
        (Power::Off, _) => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn the_gentlest_allowed_restart_comes_first_and_off_is_switched_on() {
        let allowed = named(&["On", "ForceRestart", "PowerCycle", "Nmi"]);
        let gentle = |power, allowed| resets(power, Restart::Gentle, allowed);
        assert_eq!(
            gentle(Power::On, Some(&allowed)),
            ["ForceRestart", "PowerCycle"]
        );
        assert_eq!(gentle(Power::Off, Some(&allowed)), ["On"]);
        assert_eq!(gentle(Power::On, None), RESTARTS);
        assert!(gentle(Power::On, Some(&named(&["On", "ForceOff"]))).is_empty());
    }

    #[test]
    fn a_forced_restart_is_gentle_only_where_nothing_else_is_allowed() {
        let forced = |power, allowed| resets(power, Restart::Forced, allowed);
        assert_eq!(forced(Power::On, None), FORCED_RESTARTS);
        let allowed = named(&["On", "GracefulRestart"]);
        assert_eq!(forced(Power::On, Some(&allowed)), ["GracefulRestart"]);
        assert_eq!(forced(Power::Off, Some(&allowed)), ["On"]);
    }

    #[test]
    fn allowed_resets_stand_in_the_system_or_in_its_action_s_description() {
        let info = json!({"Parameters": [{"Name": "ResetType", "AllowableValues": ["On"]}]});
        assert_eq!(allowed(&json!({}), Some(&info)), Some(named(&["On"])));
        assert_eq!(allowed(&json!({}), Some(&json!({"Parameters": 7}))), None);
        let own = json!({"Actions": {"#ComputerSystem.Reset": {
            "ResetType@Redfish.AllowableValues": ["ForceRestart", 1],
        }}});
        assert_eq!(allowed(&own, Some(&info)), Some(named(&["ForceRestart"])));
    }

    #[test]
    fn a_lost_reset_is_told_by_evidence_or_not_at_all() {
        let system =
            |power: &str, last: Option<&str>| json!({"PowerState": power, "LastResetTime": last});
        let both_on = |last| happened(&system("On", Some("1")), &system("On", last));
        assert_eq!(both_on(Some("2")), Some(true));
        assert_eq!(both_on(Some("1")), Some(false));
        assert_eq!(both_on(None), None);
        let off = system("Off", None);
        assert_eq!(happened(&off, &system("PoweringOn", None)), Some(true));
        assert_eq!(happened(&off, &off), Some(false));
        assert_eq!(happened(&off, &json!({})), None);
    }
}
