//! Jobs: made, shown, listed, cancelled.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::artifacts::{JobArtifact, longest_pin, shown_artifact};
use super::error::ApiError;
use super::{Answered, Provision, json, read, route};
use crate::io::Io;
use crate::provision::artifact::Named;
use crate::provision::fetcher::{self, Fetched};
use crate::provision::fitness::Task;
use crate::provision::job::machine::{Ending, Entry, Job, Level, Status};
use crate::provision::job::store::{Created, Filter, JobRow, NewJob};
use crate::provision::recipe::{self, Elsewhere};
use crate::provision::shown::{shown_event, shown_progress};
use crate::provision::task_iso::{self, TaskIsoError};
use crate::provision::time::rfc3339;
use crate::service::Request;
use crate::telemetry::RouteClass;

const PAGE_JOBS: u32 = 50;
const PAGE_JOBS_MAX: u32 = 500;
const KEY_CHARACTERS_MAX: usize = 255;
const ESXI: &str = "install-esxi.target";

#[derive(Deserialize)]
struct Wanted {
    server_serial: Option<Value>,
    recipe: Option<Box<RawValue>>,
    idempotency_key: Option<Value>,
}

/// A good recipe.
pub(super) enum Judged {
    Accepted(Accepted),
    /// Once these are fetched.
    Elsewhere {
        submitted: Vec<u8>,
        files: Vec<Elsewhere>,
    },
}

/// A recipe that can become a job.
pub(super) struct Accepted {
    /// What the job is carried out by: as submitted, with what was fetched in its place.
    recipe: Vec<u8>,
    pub(super) ending: Ending,
    pub image: Option<Named>,
    pub task: Task,
    pub entries: Vec<Entry>,
}

/// A job that is asked for, as far as the request alone tells.
pub(super) struct Order {
    pub id: Uuid,
    pub serial: String,
    pub key: Option<String>,
    /// Of the recipe as submitted.
    hash: String,
    pub judged: Judged,
}

impl<I: Io + Clone + 'static> Provision<I> {
    /// The checks in the contract's order: JSON, serial, recipe there, recipe valid, server known.
    pub(super) async fn read_order(
        &self,
        body: &[u8],
        header: Option<String>,
    ) -> Result<Order, ApiError> {
        let wanted: Wanted = read(body)?;
        let serial = text_of("server_serial", wanted.server_serial)?
            .and_then(|text| route::serial_of(&text))
            .ok_or_else(|| ApiError::Field {
                field: "server_serial",
                message: "expected a serial number of 1 to 128 characters".to_owned(),
            })?;
        let key = idempotency_key(header, text_of("idempotency_key", wanted.idempotency_key)?)?;
        let submitted = wanted.recipe.ok_or_else(|| ApiError::Field {
            field: "recipe",
            message: "expected the recipe, an object".to_owned(),
        })?;
        let id = Uuid::new_v4();
        let (now, has_esxi) = (self.now(), self.api.media.esxi_url.is_some());
        // Megabytes of a stranger's JSON are no work for a core.
        let judging = self.io.offload(move || {
            let recipe = submitted.get().as_bytes();
            let judged = judge(recipe, id, now, has_esxi)?;
            Ok::<_, ApiError>((hash_of(recipe)?, judged))
        });
        let (hash, judged) = judging.await?;
        Ok(Order {
            id,
            serial,
            key,
            hash,
            judged,
        })
    }

    /// The recipe with what it says where to find in its place.
    pub(super) async fn accepted(&self, id: Uuid, judged: Judged) -> Result<Accepted, ApiError> {
        let (submitted, files) = match judged {
            Judged::Accepted(accepted) => return Ok(accepted),
            Judged::Elsewhere { submitted, files } => (submitted, files),
        };
        let fetched = self.api.fetcher.fetch(files).await?;
        let (now, has_esxi) = (self.now(), self.api.media.esxi_url.is_some());
        let judging = self.io.offload(move || {
            let whole = fetched.iter().fold(submitted, |recipe, file| {
                recipe::with_content(&recipe, file.from.field, &file.text)
            });
            let Judged::Accepted(mut accepted) = judge(&whole, id, now, has_esxi)? else {
                unreachable!("what was fetched is in its place");
            };
            accepted.entries.extend(fetched.iter().map(told_of));
            Ok(accepted)
        });
        judging.await
    }

    pub(super) async fn create_job(&self, body: Bytes, header: Option<String>) -> Answered<I> {
        let Order {
            id,
            serial,
            key,
            hash,
            judged,
        } = self.read_order(&body, header).await?;
        // Before anything is fetched: where it is may be gone by now.
        if let Some(row) = self.same_job(&serial, key.as_deref(), &hash).await? {
            return Ok(made(StatusCode::OK, &row));
        }
        let mut accepted = self.accepted(id, judged).await?;
        let now = self.now();
        let image = accepted.image.take();
        let JobArtifact { held, entries } = self.hold_artifact(id, image, &accepted.task).await?;
        accepted.entries.extend(entries);
        let warm_up = held.as_ref().map(|held| self.warm_up(id, held));
        let keeper = self.api.keeper.clone();
        let stuck_seconds = self.api.jobs.stuck_timeout.as_secs();
        let for_store = serial.clone();
        let created = self
            .api
            .mailbox
            .ask(move |store| {
                let new = NewJob {
                    id,
                    serial: &for_store,
                    idempotency_key: key.as_deref(),
                    recipe: &accepted.recipe,
                    recipe_hash: &hash,
                    task_target: &accepted.task.target,
                    machine: Job::new(accepted.ending, stuck_seconds, now),
                    artifact: held.as_ref().map(|held| &held.artifact),
                    entries: &accepted.entries,
                };
                let created = store.create(new, now);
                // Here, where nothing of this job can have happened yet: its end comes by this way too.
                if let (Ok(Created::New(_)), Some(warm_up)) = (&created, warm_up) {
                    keeper.warm_up(warm_up);
                }
                // Without a job nobody would ever let go; a disk that is full is to be made room on.
                if let Some(held) = held
                    && store.is_made(id, &created)
                {
                    held.hold.keep();
                }
                created
            })
            .await?;
        match created {
            Created::New(row) => {
                self.api.mailbox.wake_workers();
                tracing::info!(job = %row.id, serial, "a job was made");
                Ok(made(StatusCode::ACCEPTED, &row))
            }
            Created::Same(row) => Ok(made(StatusCode::OK, &row)),
            Created::Active { job } => Err(ApiError::Active { job }),
            Created::KeyReused { job } => Err(ApiError::KeyReused { job }),
            Created::UnknownServer => Err(ApiError::NoServer { serial }),
        }
    }

    /// A job that is there already needs no image: its own is held.
    async fn same_job(
        &self,
        serial: &str,
        key: Option<&str>,
        hash: &str,
    ) -> Result<Option<JobRow>, ApiError> {
        let Some(key) = key else {
            return Ok(None);
        };
        let (serial, key, hash) = (serial.to_owned(), key.to_owned(), hash.to_owned());
        let asked = self
            .api
            .mailbox
            .ask(move |store| store.same_job(&serial, &key, &hash));
        Ok(asked.await?)
    }

    pub(super) async fn get_job(&self, job: Uuid) -> Answered<I> {
        let found = self
            .api
            .mailbox
            .ask(move |store| match store.job(job)? {
                Some(row) => Ok(Some((row, store.events(job)?))),
                None => Ok(None),
            })
            .await?;
        let (row, events) = found.ok_or(ApiError::NoJob)?;
        let mut shown = shown(&row);
        let progress = self.api.board.of(job);
        shown["progress"] = progress.as_ref().map_or(Value::Null, shown_progress);
        shown["events"] = events.iter().map(shown_event).collect();
        Ok(json(RouteClass::Jobs, StatusCode::OK, &shown))
    }

    pub(super) async fn list_jobs(&self, request: &Request) -> Answered<I> {
        let query = |key: &str| {
            request
                .head
                .target
                .query(key)
                .map(|value| value.into_owned())
        };
        let filter = filter_of(query)?;
        let limit = filter.limit as usize;
        let mut rows = self
            .api
            .mailbox
            .ask(move |store| {
                // One more than asked for tells whether there are more.
                store.jobs(&Filter {
                    limit: filter.limit + 1,
                    ..filter
                })
            })
            .await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let mut page = json!({"jobs": rows.iter().map(shown).collect::<Vec<_>>()});
        if let (true, Some(last)) = (more, rows.last()) {
            page["next_cursor"] = json!(cursor_of(last));
        }
        Ok(json(RouteClass::Jobs, StatusCode::OK, &page))
    }

    pub(super) async fn cancel_job(&self, job: Uuid) -> Answered<I> {
        let now = self.now();
        let cancelled = self
            .api
            .mailbox
            .ask(move |store| store.cancel(job, now))
            .await?;
        let (row, changed) = cancelled.ok_or(ApiError::NoJob)?;
        let was_cancelled =
            row.machine.outcome().map(|outcome| outcome.name()) == Some("cancelled");
        if changed {
            self.api.mailbox.wake_workers();
        } else if !was_cancelled {
            return Err(ApiError::AlreadyEnded { job });
        }
        Ok(json(RouteClass::Jobs, StatusCode::OK, &shown(&row)))
    }
}

/// Judges a recipe: whether it is valid, and whether it can be carried out here. Takes long.
fn judge(submitted: &[u8], id: Uuid, now: u64, has_esxi: bool) -> Result<Judged, ApiError> {
    let checked = recipe::check(submitted);
    let recipe = checked
        .recipe
        .map_err(|problems| ApiError::Recipe { problems })?;
    let document: Map<String, Value> =
        serde_json::from_slice(recipe.document()).map_err(|error| ApiError::NotJson {
            message: error.to_string(),
        })?;
    let target = document.get("task_target").and_then(Value::as_str);
    let target = target.unwrap_or_default().to_owned();
    let is_esxi = target == ESXI;
    if is_esxi && !has_esxi {
        return Err(ApiError::RecipeNotPossible {
            field: "task_target",
            message: format!("{ESXI} needs the setting ESXI_INSTALLER_URL, which is not set"),
        });
    }
    let files = recipe.elsewhere();
    if !files.is_empty() {
        let submitted = submitted.to_vec();
        return Ok(Judged::Elsewhere { submitted, files });
    }
    let image = recipe.oci_url().as_deref().and_then(Named::parse);
    let recipe = match &image {
        Some(named) => recipe.with_image(&longest_pin(named)),
        None => recipe,
    };
    // Built once now, so that what cannot be built is known before a machine is touched.
    task_iso::build(&recipe, id, now).map_err(|error| ApiError::RecipeNotPossible {
        field: match &error {
            TaskIsoError::NotFetched { field } => field,
            TaskIsoError::Iso(_) => "recipe",
        },
        message: error.to_string(),
    })?;
    let notices = checked
        .notices
        .iter()
        .map(|notice| Entry::new(Level::Warn, Some(notice.code), notice.to_string()));
    Ok(Judged::Accepted(Accepted {
        recipe: submitted.to_vec(),
        ending: if is_esxi {
            Ending::Power
        } else {
            Ending::Report
        },
        image,
        task: Task {
            target,
            wim_index: document
                .get("wim_index")
                .and_then(Value::as_u64)
                .unwrap_or(1),
        },
        entries: notices.collect(),
    }))
}

/// Of what was submitted, blanks apart: the document on the CD lacks what has a file of its own.
fn hash_of(submitted: &[u8]) -> Result<String, ApiError> {
    let tree: Value = serde_json::from_slice(submitted).map_err(|error| ApiError::NotJson {
        message: error.to_string(),
    })?;
    Ok(hex(&Sha256::digest(tree.to_string())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sizes and hashes: a file may hold passwords.
fn told_of(file: &Fetched) -> Entry {
    let message = format!(
        "{} was fetched from {}: {} bytes, sha256:{}",
        file.from.field,
        fetcher::shown(&file.from.url),
        file.text.len(),
        hex(&Sha256::digest(&file.text))
    );
    Entry::new(Level::Info, Some("payload.fetched"), message)
}

fn text_of(field: &'static str, value: Option<Value>) -> Result<Option<String>, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ApiError::Field {
            field,
            message: "expected a text".to_owned(),
        }),
    }
}

/// The header and the member mean the same.
fn idempotency_key(
    header: Option<String>,
    member: Option<String>,
) -> Result<Option<String>, ApiError> {
    let wrong = |message: String| ApiError::Field {
        field: "idempotency_key",
        message,
    };
    if let (Some(header), Some(member)) = (&header, &member)
        && header != member
    {
        return Err(wrong("differs from the header Idempotency-Key".to_owned()));
    }
    let key = header.or(member);
    let fits = |key: &String| (1..=KEY_CHARACTERS_MAX).contains(&key.chars().count());
    match key {
        Some(key) if !fits(&key) => Err(wrong(format!(
            "expected 1 to {KEY_CHARACTERS_MAX} characters"
        ))),
        key => Ok(key),
    }
}

fn filter_of(query: impl Fn(&str) -> Option<String>) -> Result<Filter, ApiError> {
    let wrong = |field, message: &str| ApiError::Field {
        field,
        message: message.to_owned(),
    };
    let status = match query("status") {
        None => None,
        Some(text) => Some(
            Status::ALL
                .into_iter()
                .find(|status| status.name() == text)
                .ok_or_else(|| {
                    wrong(
                        "status",
                        "expected queued, provisioning, succeeded, failed or complete",
                    )
                })?,
        ),
    };
    let limit = match query("limit") {
        None => PAGE_JOBS,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=PAGE_JOBS_MAX).contains(limit))
            .ok_or_else(|| wrong("limit", "expected a number from 1 to 500"))?,
    };
    let after = match query("cursor") {
        None => None,
        Some(text) => Some(
            read_cursor(&text)
                .ok_or_else(|| wrong("cursor", "expected the next_cursor of a page before"))?,
        ),
    };
    Ok(Filter {
        status,
        serial: query("server_serial"),
        limit,
        after,
    })
}

fn cursor_of(last: &JobRow) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{}:{}", last.created, last.id))
}

fn read_cursor(text: &str) -> Option<(u64, Uuid)> {
    let decoded = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (time, id) = decoded.split_once(':')?;
    let time = time
        .parse()
        .ok()
        .filter(|time| i64::try_from(*time).is_ok())?;
    Some((time, Uuid::try_parse(id).ok()?))
}

fn made<F>(status: StatusCode, row: &JobRow) -> crate::service::Response<F> {
    let body = json!({
        "job_id": row.id.to_string(),
        "status": row.machine.status().name(),
        "server_serial": row.serial,
        "created_at": rfc3339(row.created),
    });
    let mut response = json(RouteClass::Jobs, status, &body);
    response
        .head
        .push("Location", format!("/api/v1/jobs/{}", row.id));
    response
}

fn shown(row: &JobRow) -> Value {
    let mut shown = json!({
        "job_id": row.id.to_string(),
        "server_serial": row.serial,
        "status": row.machine.status().name(),
        "phase": row.machine.phase().name(),
        "outcome": row.machine.outcome().map(|outcome| outcome.name()),
        "created_at": rfc3339(row.created),
        "last_update": rfc3339(row.updated),
    });
    if let Some(step) = row.machine.failed_step() {
        shown["failed_step"] = json!(step);
    }
    if let Some(artifact) = &row.artifact {
        shown["artifact"] = shown_artifact(artifact);
    }
    if let Some(iso) = &row.iso {
        shown["task_iso"] = json!({"size": iso.bytes, "sha256": iso.sha256});
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(key: &str, value: &str) -> Result<Filter, ApiError> {
        filter_of(|asked| (asked == key).then(|| value.to_owned()))
    }

    #[test]
    fn a_query_is_read_or_its_field_is_named() {
        assert!(matches!(
            filter("status", "complete"),
            Ok(Filter {
                status: Some(Status::Complete),
                ..
            })
        ));
        for (key, value) in [
            ("status", "done"),
            ("limit", "0"),
            ("limit", "501"),
            ("cursor", "x"),
        ] {
            let error = filter(key, value).expect_err("it is wrong");
            assert!(
                matches!(error, ApiError::Field { field, .. } if field == key),
                "{error:?}"
            );
        }
    }

    #[test]
    fn the_key_of_header_and_body_is_one() {
        let key = |header: Option<&str>, member: Option<&str>| {
            idempotency_key(header.map(str::to_owned), member.map(str::to_owned))
        };
        assert_eq!(
            key(Some("a"), Some("a")).expect("the same"),
            Some("a".to_owned())
        );
        assert_eq!(key(None, Some("a")).expect("one"), Some("a".to_owned()));
        assert!(key(Some("a"), Some("b")).is_err() && key(Some(""), None).is_err());
        assert!(key(None, Some(&"x".repeat(256))).is_err());
    }

    proptest! {
        #[test]
        fn any_cursor_is_read_or_not(text in "\\PC{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = read_cursor(&text);
            let _ = read_cursor(&BASE64_URL_SAFE_NO_PAD.encode(bytes));
        }
    }
}
