//! The node's report: at least once, and counted once; and the secret that a node shows.

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::error::ApiError;
use super::login::is_same_secret;
use super::{Answered, Provision, json, read};
use crate::io::Io;
use crate::provision::job::machine::{Entry, Level, Report};
use crate::provision::job::store::Reported;
use crate::service::Request;
use crate::telemetry::RouteClass;

const WORD_CHARACTERS_MAX: usize = 255;

/// Fields that are not named here are somebody else's business.
#[derive(Deserialize)]
struct Body {
    status: Option<Value>,
    failed_step: Option<Value>,
    delivery_id: Option<Value>,
    job_id: Option<Value>,
}

struct Read {
    report: Report,
    delivery: Option<String>,
    job: Option<Uuid>,
    note: Option<Entry>,
}

impl<I: Io + Clone + 'static> Provision<I> {
    /// Before the body: who has no secret is not listened to.
    pub(super) fn check_webhook_secret(&self, request: &Request) -> Result<(), ApiError> {
        let config = &self.api.webhook;
        if config.allow_unauthenticated && !config.has_secret() {
            return Ok(());
        }
        self.check_node_secret(request)
    }

    /// Whoever asks is a node, or has its secret; an open webhook opens nothing else.
    pub(super) fn check_node_secret(&self, request: &Request) -> Result<(), ApiError> {
        let config = &self.api.webhook;
        let shown = request.head.header("x-webhook-secret").unwrap_or_default();
        let is = |secret: &Option<crate::config::Secret>| {
            secret
                .as_ref()
                .is_some_and(|secret| is_same_secret(shown, secret.expose()))
        };
        if is(&config.secret) {
            return Ok(());
        }
        if is(&config.former_secret) {
            tracing::warn!(client = %request.client, "a node has shown WEBHOOK_SECRET_OLD");
            return Ok(());
        }
        Err(self.secret_failed(request))
    }

    fn secret_failed(&self, request: &Request) -> ApiError {
        self.api.metrics.webhook_auth_failed();
        tracing::warn!(client = %request.client, "auth: a node without the right secret");
        ApiError::WebhookSecret
    }

    pub(super) async fn take_report(&self, serial: String, body: Bytes) -> Answered<I> {
        let read = match read_body(&body) {
            Ok(read) => read,
            Err(error) => {
                self.api.metrics.webhook("refused");
                return Err(error);
            }
        };
        let (asked, now) = (serial.clone(), self.now());
        let reported = self
            .api
            .mailbox
            .ask(move |store| {
                let delivery = read.delivery.as_deref();
                store.report(&asked, read.job, delivery, read.report, read.note, now)
            })
            .await?;
        let (word, answer) = match reported {
            Reported::Taken => {
                self.api.mailbox.wake_workers();
                ("taken", Ok(json!({"ok": true})))
            }
            Reported::Again => ("again", Ok(json!({"ok": true, "idempotent": true}))),
            Reported::NoJob => ("no_job", Err(ApiError::NoJob)),
            Reported::TooEarly => ("too_early", Err(ApiError::NotReset { serial })),
        };
        self.api.metrics.webhook(word);
        answer.map(|body| json(RouteClass::Webhook, StatusCode::OK, &body))
    }
}

fn read_body(body: &[u8]) -> Result<Read, ApiError> {
    let body: Body = read(body)?;
    let status = word("status", body.status)?.unwrap_or_default();
    let delivery = word("delivery_id", body.delivery_id)?;
    let job = match word("job_id", body.job_id)? {
        None => None,
        Some(text) => Some(Uuid::try_parse(&text).map_err(|_| ApiError::Field {
            field: "job_id",
            message: "expected the job's id".to_owned(),
        })?),
    };
    let unit = word("failed_step", body.failed_step)?;
    let (report, note) = match status.to_ascii_lowercase().as_str() {
        "success" => (Report::Success, None),
        "failed" => {
            let note = unit.is_none().then(|| {
                let message = "the node does not say which unit failed";
                Entry::new(Level::Warn, Some("webhook"), message)
            });
            let unit = unit.unwrap_or_else(|| "unknown".to_owned());
            (Report::Failed { unit }, note)
        }
        _ => {
            return Err(ApiError::Field {
                field: "status",
                message: "expected success or failed".to_owned(),
            });
        }
    };
    Ok(Read {
        report,
        delivery,
        job,
        note,
    })
}

/// A short text without blanks around it; an empty one is none.
fn word(field: &'static str, value: Option<Value>) -> Result<Option<String>, ApiError> {
    let wrong = |message: &str| ApiError::Field {
        field,
        message: message.to_owned(),
    };
    let text = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text,
        Some(_) => return Err(wrong("expected a text")),
    };
    let text = text.trim();
    if text.chars().count() > WORD_CHARACTERS_MAX || text.chars().any(char::is_control) {
        return Err(wrong("expected at most 255 printable characters"));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_report_is_read_in_any_case_and_a_missing_unit_is_unknown() {
        let report = |text: &str| read_body(text.as_bytes()).map(|read| read.report);
        assert_eq!(
            report(r#"{"status":" SUCCESS ","extra":[1]}"#).expect("valid"),
            Report::Success
        );
        let failed = |unit: &str| Report::Failed {
            unit: unit.to_owned(),
        };
        assert_eq!(
            report(r#"{"status":"Failed","failed_step":"partition.service"}"#).expect("valid"),
            failed("partition.service")
        );
        assert_eq!(
            report(r#"{"status":"failed","failed_step":null}"#).expect("valid"),
            failed("unknown")
        );
        for text in [
            "{}",
            r#"{"status":"done"}"#,
            r#"{"status":1}"#,
            "[]",
            "{",
            r#"{"status":"failed","job_id":"x"}"#,
        ] {
            assert!(report(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_body(&body);
        }
    }
}
