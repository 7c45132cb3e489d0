//! `POST /api/v1/jobs?dry_run=true`: all that a job's creation checks, the BMC asked besides, and
//! nothing made.
//!
//! What a job would be refused for is refused here by the same answer.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::artifacts::{JobArtifact, shown_artifact};
use super::error::ApiError;
use super::{Answered, Provision, json};
use crate::io::Io;
use crate::provision::job::machine::{Entry, Level};
use crate::provision::job::one_slot::OneSlot;
use crate::provision::surveyor::Surveyed;
use crate::service::Request;
use crate::telemetry::RouteClass;

/// Payload of a gigabit line, in bytes per second.
const NODE_RATE: u64 = 117_000_000;

/// What a trial is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trial {
    /// Bytes per second that a node takes.
    node_rate: u64,
}

impl Trial {
    /// `None`: a job is asked for.
    pub(super) fn of(request: &Request) -> Result<Option<Trial>, ApiError> {
        let query = |key: &str| request.head.target.query(key);
        let wrong = |field, message: &str| ApiError::Field {
            field,
            message: message.to_owned(),
        };
        match query("dry_run").as_deref() {
            None | Some("false") => return Ok(None),
            Some("true") => {}
            Some(_) => return Err(wrong("dry_run", "expected true or false")),
        }
        let node_rate =
            match query("node_rate") {
                None => NODE_RATE,
                Some(text) => text.parse().ok().filter(|rate| *rate > 0).ok_or_else(|| {
                    wrong("node_rate", "expected bytes per second, a number above 0")
                })?,
            };
        Ok(Some(Trial { node_rate }))
    }

    /// Whole seconds that a node takes to pull so much, with nothing else in its way.
    fn seconds(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.node_rate)
    }
}

impl<I: Io + Clone + 'static> Provision<I> {
    pub(super) async fn try_job(
        &self,
        body: Bytes,
        header: Option<String>,
        trial: Trial,
    ) -> Answered<I> {
        let order = self.read_order(&body, header).await?;
        let (id, serial) = (order.id, order.serial);
        let mut accepted = self.accepted(id, order.judged).await?;
        let image = accepted.image.take();
        // Let go at the end of this function: nothing was made.
        let JobArtifact { held, entries } = self.hold_artifact(id, image, &accepted.task).await?;
        let asked = serial.clone();
        let known = self
            .api
            .mailbox
            .ask(move |store| Ok((store.server(&asked)?, store.active_job(&asked)?)))
            .await?;
        let one_slot = OneSlot::of(accepted.ending, self.api.webhook.has_secret());
        let (Some(server), active) = known else {
            return Err(ApiError::NoServer { serial });
        };
        if let Some(job) = active {
            return Err(ApiError::Active { job });
        }
        let mut checks = vec![check("recipe", true, "info", "it is valid".to_owned())];
        checks.extend(accepted.entries.iter().chain(&entries).map(of_entry));
        let context = [server.serial.as_str(), server.bmc_address.as_str()];
        let password = self.api.key.open_sealed(&server.bmc_password, &context);
        let bmc = match password {
            None => check(
                "bmc",
                false,
                "error",
                "the BMC's password was sealed under another key; PUT it again".to_owned(),
            ),
            Some(password) => {
                let surveyed = self.api.surveyor.ask(server, password).await;
                of_bmc(surveyed.map_err(ApiError::Io)?, one_slot)
            }
        };
        checks.push(bmc);
        let is_ok = checks.iter().all(|check| check["ok"] == true);
        let mut answer = json!({"ok": is_ok, "server_serial": serial, "checks": checks});
        if let Some(held) = &held {
            let seconds = trial.seconds(held.pull_bytes);
            answer["artifact"] = shown_artifact(&held.artifact);
            answer["node_rate"] = json!(trial.node_rate);
            answer["estimated_seconds"] = json!(seconds);
            answer["estimated_minutes"] = json!(seconds.div_ceil(60));
        }
        Ok(json(RouteClass::Jobs, StatusCode::OK, &answer))
    }
}

fn check(name: &str, ok: bool, level: &str, message: String) -> Value {
    json!({"name": name, "ok": ok, "level": level, "message": message})
}

fn of_entry(entry: &Entry) -> Value {
    let name = entry.step.as_deref().unwrap_or("note");
    let is_ok = entry.level != Level::Error;
    check(name, is_ok, entry.level.name(), entry.message.clone())
}

fn of_bmc(surveyed: Surveyed, one_slot: OneSlot) -> Value {
    let (ok, level, message) = match surveyed {
        Surveyed::NotAsked => (
            true,
            "warn",
            "not asked: REDFISH_MODE is noop, and a job would not reach it".to_owned(),
        ),
        Surveyed::Answered {
            lacking,
            has_one_slot,
        } => {
            let mut lacking: Vec<String> = lacking.into_iter().map(str::to_owned).collect();
            let slot = one_slot.lacking().filter(|_| has_one_slot);
            lacking.extend(slot.map(|slot| format!("a {slot}")));
            if !lacking.is_empty() {
                (false, "error", format!("it lacks {}", lacking.join(", ")))
            } else if has_one_slot {
                let message = "it answers, and has one slot for virtual media: the node will fetch \
                               its task over HTTP";
                (true, "warn", message.to_owned())
            } else {
                (true, "info", "it answers, and a job could run".to_owned())
            }
        }
        Surveyed::Failed { message } => (false, "error", message),
        Surveyed::TooMany => (
            false,
            "error",
            "not asked: four BMCs are being asked at the moment; try again".to_owned(),
        ),
    };
    check("bmc", ok, level, message)
}
