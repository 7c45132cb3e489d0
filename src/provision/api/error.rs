//! Why a request is refused, and the one place where that becomes an answer.

use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::access::Refusal;
use crate::http1::ResponseHead;
use crate::provision::artifact::Trouble;
use crate::provision::feed::LISTENERS_MAX;
use crate::provision::fetcher::NotFetched;
use crate::provision::job::machine::Phase;
use crate::provision::mailbox::AskError;
use crate::provision::media::Denied;
use crate::provision::recipe::Problems;

/// The realm of both challenges.
const REALM: &str = "shoal-provisioner";
/// What the contract promises to who failed too often, whatever the true wait.
const RETRY_SECONDS: &str = "60";

/// Why not.
#[derive(Debug)]
pub enum ApiError {
    /// Not JSON at all.
    NotJson {
        message: String,
    },
    /// A field is wrong; `field` is its path.
    Field {
        field: &'static str,
        message: String,
    },
    Recipe {
        problems: Problems,
    },
    /// A recipe that is valid and cannot be carried out here.
    RecipeNotPossible {
        field: &'static str,
        message: String,
    },
    TooLarge {
        bytes_max: usize,
    },
    LoginWanted {
        scheme: Scheme,
    },
    TooManyFailures,
    TooManyListeners,
    WebhookSecret,
    NoRoute,
    NoServer {
        serial: String,
    },
    NoJob,
    /// Nothing for a machine that asks for its task.
    NoTask {
        serial: String,
        /// Of its job, if it has one that is not complete.
        phase: Option<Phase>,
    },
    Method {
        allow: &'static str,
    },
    Active {
        job: Uuid,
    },
    KeyReused {
        job: Uuid,
    },
    HasJobs {
        serial: String,
    },
    AlreadyEnded {
        job: Uuid,
    },
    NotReset {
        serial: String,
    },
    /// A file of a recipe is behind a URL, and too many of these are being fetched.
    FetchesBusy,
    Media(Denied),
    Ask(AskError),
    Artifact(Trouble),
    /// A cause for the log alone.
    Io(std::io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Basic,
    Bearer,
}

impl ApiError {
    pub fn of_refusal(refusal: Refusal) -> ApiError {
        match refusal {
            Refusal::LoginWanted => ApiError::LoginWanted {
                scheme: Scheme::Basic,
            },
            Refusal::TooManyFailures { .. } => ApiError::TooManyFailures,
        }
    }

    /// Head and body.
    pub fn answer(&self) -> (ResponseHead, Value) {
        let (status, code) = self.status_and_code();
        let mut head = ResponseHead::new(status).with("Content-Type", "application/json");
        let mut body = json!({"error": code, "message": self.message()});
        match self {
            ApiError::Method { allow } => head.push("Allow", *allow),
            ApiError::LoginWanted { scheme } => head.push("WWW-Authenticate", challenge(*scheme)),
            ApiError::TooManyFailures => head.push("Retry-After", RETRY_SECONDS),
            ApiError::Ask(AskError::Busy) | ApiError::FetchesBusy => head.push("Retry-After", "1"),
            ApiError::TooManyListeners => head.push("Retry-After", RETRY_SECONDS),
            ApiError::Field { field, message } => body["details"] = json!([detail(field, message)]),
            ApiError::RecipeNotPossible { field, message } => {
                body["details"] = json!([detail(field, message)]);
            }
            ApiError::Recipe { problems } => body["details"] = json!(problems.listed()),
            ApiError::Active { job } | ApiError::KeyReused { job } => {
                body["job_id"] = json!(job.to_string());
            }
            _ => {}
        }
        (head, body)
    }

    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            ApiError::NotJson { .. } => (StatusCode::BAD_REQUEST, "invalid_json"),
            ApiError::Field { .. } => (StatusCode::BAD_REQUEST, "invalid_request"),
            ApiError::Recipe { .. } | ApiError::RecipeNotPossible { .. } => {
                (StatusCode::BAD_REQUEST, "invalid_recipe")
            }
            ApiError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "invalid_request"),
            ApiError::LoginWanted { .. } | ApiError::WebhookSecret => {
                (StatusCode::UNAUTHORIZED, "unauthorized")
            }
            ApiError::TooManyFailures => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded"),
            ApiError::NoRoute
            | ApiError::NoServer { .. }
            | ApiError::NoJob
            | ApiError::NoTask { .. } => (StatusCode::NOT_FOUND, "not_found"),
            ApiError::Method { .. } => (StatusCode::METHOD_NOT_ALLOWED, "invalid_request"),
            ApiError::Active { .. }
            | ApiError::KeyReused { .. }
            | ApiError::HasJobs { .. }
            | ApiError::AlreadyEnded { .. }
            | ApiError::NotReset { .. } => (StatusCode::CONFLICT, "conflict"),
            ApiError::Media(_) => (StatusCode::FORBIDDEN, "forbidden"),
            ApiError::Ask(AskError::Busy) | ApiError::FetchesBusy | ApiError::TooManyListeners => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error")
            }
            ApiError::Ask(AskError::Gone | AskError::Store(_))
            | ApiError::Artifact(_)
            | ApiError::Io(_) => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
        }
    }

    fn message(&self) -> String {
        match self {
            ApiError::NotJson { message } => format!("the body is not JSON: {message}"),
            ApiError::Field { field, message } | ApiError::RecipeNotPossible { field, message } => {
                format!("{field}: {message}")
            }
            ApiError::Recipe { problems } => match problems.left_out() {
                0 => "the recipe does not fit its schema".to_owned(),
                more => format!("the recipe does not fit its schema; {more} problems are left out"),
            },
            ApiError::TooLarge { bytes_max } => {
                format!("the body is larger than {bytes_max} bytes")
            }
            ApiError::LoginWanted { .. } => "authentication required".to_owned(),
            ApiError::TooManyFailures => "too many failed logins".to_owned(),
            ApiError::TooManyListeners => {
                format!("{LISTENERS_MAX} clients listen to events already")
            }
            ApiError::WebhookSecret => "X-Webhook-Secret is missing or wrong".to_owned(),
            ApiError::NoRoute => "no such endpoint".to_owned(),
            ApiError::NoServer { serial } => {
                format!("no server {serial}: PUT /api/v1/servers/{serial} first")
            }
            ApiError::NoJob => "no such job".to_owned(),
            ApiError::NoTask {
                serial,
                phase: None,
            } => format!("{serial} has no job that is not complete"),
            ApiError::NoTask {
                serial,
                phase: Some(phase),
            } => format!(
                "the job of {serial} is in the phase {}; its task is given out in await_report, \
                 once the machine was reset",
                phase.name()
            ),
            ApiError::Method { allow } => format!("this endpoint takes {allow}"),
            ApiError::Active { job } => format!("the server has an active job, {job}"),
            ApiError::KeyReused { job } => {
                format!("the idempotency key belongs to job {job}, which has another recipe")
            }
            ApiError::HasJobs { serial } => format!("server {serial} has jobs and stays"),
            ApiError::AlreadyEnded { job } => format!("job {job} has its outcome already"),
            ApiError::NotReset { serial } => {
                format!(
                    "the job of {serial} has not reset the machine yet, so this is not its report"
                )
            }
            ApiError::Media(Denied::NotSigned) => "the URL is not signed".to_owned(),
            ApiError::Media(Denied::Wrong) => "the signature is wrong".to_owned(),
            ApiError::Media(Denied::Expired) => "the URL has expired".to_owned(),
            ApiError::Media(Denied::OtherClient) => "the URL is for another client".to_owned(),
            ApiError::Ask(AskError::Busy) => "too busy, try again".to_owned(),
            ApiError::FetchesBusy => {
                "the files of four other recipes are being fetched; try again".to_owned()
            }
            ApiError::Ask(AskError::Gone | AskError::Store(_))
            | ApiError::Artifact(_)
            | ApiError::Io(_) => "internal error; the log has the cause".to_owned(),
        }
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        ApiError::Ask(error)
    }
}

impl From<NotFetched> for ApiError {
    fn from(error: NotFetched) -> Self {
        match error {
            NotFetched::TooMany => ApiError::FetchesBusy,
            NotFetched::File { field, problem } => ApiError::RecipeNotPossible {
                field,
                message: problem.to_string(),
            },
            NotFetched::Thread(error) => ApiError::Io(error),
        }
    }
}

impl From<Trouble> for ApiError {
    fn from(trouble: Trouble) -> Self {
        ApiError::Artifact(trouble)
    }
}

fn challenge(scheme: Scheme) -> String {
    match scheme {
        Scheme::Basic => format!("Basic realm=\"{REALM}\", charset=\"UTF-8\""),
        Scheme::Bearer => format!("Bearer realm=\"{REALM}\""),
    }
}

fn detail(field: &str, message: &str) -> Value {
    json!({"field": field, "path": format!("/{field}"), "code": "value", "message": message})
}
