//! How what happens to a job is put into JSON: for who asks for the job, and for who listens. Pure.

use serde_json::{Value, json};
use uuid::Uuid;

use super::job::store::{EventRow, Standing};
use super::time::rfc3339;
use super::watch::Progress;

pub fn shown_progress(progress: &Progress) -> Value {
    json!({
        "bytes": progress.bytes,
        "total": progress.total_bytes,
        "rate": progress.bytes_per_second,
        "eta_seconds": progress.eta_seconds,
        "restarts": progress.restarts,
        "open_transfers": progress.open_transfers,
        "stalled": progress.is_stalled,
        "last_byte_at": rfc3339(progress.last_byte_at),
    })
}

pub fn shown_event(event: &EventRow) -> Value {
    let mut shown = json!({
        "time": rfc3339(event.time),
        "level": event.level,
        "message": event.message,
    });
    if let Some(step) = &event.step {
        shown["step"] = json!(step);
    }
    shown
}

/// The job as a listener is told of it.
pub fn shown_standing(job: Uuid, standing: &Standing) -> Value {
    let mut shown = json!({
        "job_id": job.to_string(),
        "server_serial": standing.serial,
        "status": standing.status,
        "phase": standing.phase,
        "outcome": standing.outcome,
    });
    if let Some(step) = &standing.failed_step {
        shown["failed_step"] = json!(step);
    }
    shown
}
