//! `/api/v1/` and `/media/`: decides what each request comes to.
//!
//! A request goes [`route`] → [`login`] → one function named after its endpoint. Whatever asks the
//! database or computes long is done elsewhere and waited for, so no core is ever blocked. Every
//! refusal is an [`ApiError`] and becomes an answer in [`error`] alone.

mod artifacts;
mod error;
mod events;
mod jobs;
mod login;
mod preflight;
mod route;
mod servers;
mod task_media;
mod webhook;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::artifact::{Artifacts, Keeper};
use super::feed::Feed;
use super::fetcher::Fetcher;
use super::mailbox::Mailbox;
use super::sealed::SealingKey;
use super::surveyor::Surveyor;
use super::watcher::Board;
use crate::access::{Access, AccessError};
use crate::config::{AccessConfig, ApiConfig, ApiLogin, ArtifactsConfig};
use crate::config::{JobsConfig, MediaConfig, WebhookConfig};
use crate::http1::ResponseHead;
use crate::io::Io;
use crate::service::{Gather, Intake, Request, Response};
use crate::telemetry::{ProvisionMetrics, RouteClass};
use error::ApiError;
use login::{Failures, Gate, Login};
use preflight::Trial;
use route::{Route, RouteError};

/// Largest body of a request.
const BODY_BYTES_MAX: usize = 4 << 20;
/// The document at `/api/v1/openapi.json`.
pub const OPEN_API: &str = include_str!("openapi.json");

/// What all cores share.
pub struct Api {
    pub mailbox: Mailbox,
    pub key: SealingKey,
    pub media: MediaConfig,
    pub artifacts: ArtifactsConfig,
    pub keeper: Arc<dyn Keeper>,
    pub surveyor: Surveyor,
    pub fetcher: Fetcher,
    pub jobs: JobsConfig,
    pub webhook: WebhookConfig,
    pub metrics: Arc<ProvisionMetrics>,
    pub board: Board,
    pub feed: Feed,
    /// How long a BMC may take nothing of an ISO.
    pub media_patience: Duration,
    gate: Gate,
    trusted_proxies: Vec<crate::config::Network>,
}

/// What [`Api`] is made from.
pub struct ApiParts {
    pub mailbox: Mailbox,
    pub key: SealingKey,
    pub config: ApiConfig,
    pub media: MediaConfig,
    pub artifacts: ArtifactsConfig,
    pub keeper: Arc<dyn Keeper>,
    pub surveyor: Surveyor,
    pub fetcher: Fetcher,
    pub jobs: JobsConfig,
    pub webhook: WebhookConfig,
    pub metrics: Arc<ProvisionMetrics>,
    pub board: Board,
    pub feed: Feed,
    pub media_patience: Duration,
    /// Random and for this process alone.
    pub random: [u8; 32],
}

impl Api {
    pub fn new(parts: ApiParts) -> Result<Api, AccessError> {
        let login = match parts.config.login {
            ApiLogin::Open => Login::Open,
            ApiLogin::Jwt(config) => Login::Jwt(config),
            ApiLogin::Basic(basic) => {
                let config = AccessConfig::Login {
                    basic: Some(basic),
                    htpasswd_file: None,
                    anonymous_pull: false,
                };
                Login::Basic(Box::new(Access::open(config, parts.random)?))
            }
        };
        Ok(Api {
            mailbox: parts.mailbox,
            key: parts.key,
            media: parts.media,
            artifacts: parts.artifacts,
            keeper: parts.keeper,
            surveyor: parts.surveyor,
            fetcher: parts.fetcher,
            jobs: parts.jobs,
            webhook: parts.webhook,
            metrics: parts.metrics,
            board: parts.board,
            feed: parts.feed,
            media_patience: parts.media_patience,
            gate: Gate {
                login,
                failures: Failures::new(parts.config.failed_logins),
            },
            trusted_proxies: parts.config.trusted_proxies,
        })
    }
}

/// The API as one core serves it.
#[derive(Clone)]
pub struct Provision<I: Io> {
    io: I,
    api: Arc<Api>,
    artifacts: Rc<dyn Artifacts>,
}

type Answer<I> = Response<<I as Io>::File>;
type Answered<I> = Result<Answer<I>, ApiError>;

impl<I: Io + Clone + 'static> Provision<I> {
    pub fn new(io: I, api: Arc<Api>, artifacts: Rc<dyn Artifacts>) -> Self {
        Self { io, api, artifacts }
    }

    /// Whether the request's path belongs to this module.
    pub fn takes(&self, request: &Request) -> bool {
        let segments: Vec<&str> = request.head.target.segments().collect();
        route::is_ours(&segments)
    }

    /// Decides what shall happen with the request; no byte of its body has been read.
    pub async fn begin<S>(&self, request: &Request) -> Intake<I::File, S> {
        let head = &request.head;
        let segments: Vec<&str> = head.target.segments().collect();
        let class = route::class_of(&segments);
        let query = |key: &str| head.target.query(key).map(|value| value.into_owned());
        let route = Route::parse(&head.method, &segments, query);
        let client = login::client_of(
            request.client,
            head.header_all("x-forwarded-for"),
            &self.api.trusted_proxies,
        );
        let intake = match self.admit(request, &segments, client).await {
            Err(error) => Err(error),
            Ok(()) => match route {
                Ok(route) => self.dispatch(request, class, route, client).await,
                Err(error) => Err(of_route(error)),
            },
        };
        intake.unwrap_or_else(|error| Intake::Answer(refusal(class, &error)))
    }

    /// Nodes and BMCs have secrets of their own; all else asks for a login, unknown paths too.
    async fn admit(
        &self,
        request: &Request,
        segments: &[&str],
        client: IpAddr,
    ) -> Result<(), ApiError> {
        match segments {
            ["media", "nodes", ..] => self.check_node_secret(request),
            ["media", ..] => Ok(()),
            ["api", "v1", "status-webhook", ..] => self.check_webhook_secret(request),
            _ => {
                let header = request.head.header("authorization");
                self.api.gate.admit(&self.io, header, client).await
            }
        }
    }

    async fn dispatch<S>(
        &self,
        request: &Request,
        class: RouteClass,
        route: Route,
        client: IpAddr,
    ) -> Result<Intake<I::File, S>, ApiError> {
        let answer = match route {
            Route::CreateJob => {
                let header = request.head.header("idempotency-key").map(str::to_owned);
                let trial = Trial::of(request)?;
                return self.gather(request, class, move |here, body| async move {
                    match trial {
                        Some(trial) => here.try_job(body, header, trial).await,
                        None => here.create_job(body, header).await,
                    }
                });
            }
            Route::PutServer(serial) => {
                return self.gather(request, class, move |here, body| async move {
                    here.put_server(serial, body).await
                });
            }
            Route::Webhook(serial) => {
                return self.gather(request, class, move |here, body| async move {
                    here.take_report(serial, body).await
                });
            }
            // The body, if any, says nothing.
            Route::CancelJob(job) => {
                return self.gather(request, class, move |here, _| async move {
                    here.cancel_job(job).await
                });
            }
            Route::ListJobs => self.list_jobs(request).await,
            Route::GetJob(job) => self.get_job(job).await,
            Route::ListServers => self.list_servers().await,
            Route::GetServer(serial) => self.get_server(serial).await,
            Route::DeleteServer(serial) => self.delete_server(serial).await,
            Route::Events => self.stream_events(request).await,
            Route::OpenApi => Ok(open_api()),
            Route::TaskIso(asked) => self.send_task_iso(request, asked, client).await,
            Route::TaskOfNode(serial) => self.send_task_of_node(request, serial, client).await,
        };
        answer.map(Intake::Answer)
    }

    /// A small body first; `then` makes the answer.
    fn gather<S, F>(
        &self,
        request: &Request,
        class: RouteClass,
        then: impl FnOnce(Provision<I>, Bytes) -> F + 'static,
    ) -> Result<Intake<I::File, S>, ApiError>
    where
        F: Future<Output = Answered<I>> + 'static,
    {
        let too_large = ApiError::TooLarge {
            bytes_max: BODY_BYTES_MAX,
        };
        if request
            .body_length()
            .is_some_and(|length| length > BODY_BYTES_MAX as u64)
        {
            return Err(too_large);
        }
        let here = self.clone();
        let then = move |body: Bytes| -> Pin<Box<dyn Future<Output = Answer<I>>>> {
            Box::pin(async move {
                let answered = then(here, body).await;
                answered.unwrap_or_else(|error| refusal(class, &error))
            })
        };
        Ok(Intake::Gather(Gather {
            bytes_max: BODY_BYTES_MAX,
            too_large: refusal(class, &too_large),
            then: Box::new(then),
        }))
    }

    fn now(&self) -> u64 {
        let passed = self.io.wall_clock().duration_since(UNIX_EPOCH);
        passed.map_or(0, |passed| passed.as_secs())
    }
}

fn of_route(error: RouteError) -> ApiError {
    match error {
        RouteError::Unknown => ApiError::NoRoute,
        RouteError::NoJob => ApiError::NoJob,
        RouteError::Method { allow } => ApiError::Method { allow },
        RouteError::Serial => ApiError::Field {
            field: "serial",
            message: "expected a serial number of 1 to 128 characters".to_owned(),
        },
    }
}

/// The answer to a refused request; an internal cause goes to the log and nowhere else.
fn refusal<F>(class: RouteClass, error: &ApiError) -> Response<F> {
    match error {
        ApiError::Ask(cause) => tracing::error!(%cause, "request failed"),
        ApiError::Artifact(cause) => tracing::error!(%cause, "request failed"),
        ApiError::Io(cause) => tracing::error!(%cause, "request failed"),
        _ => {}
    }
    let (head, body) = error.answer();
    Response::bytes(class, head, Bytes::from(body.to_string()))
}

fn json<F>(class: RouteClass, status: StatusCode, body: &Value) -> Response<F> {
    let head = ResponseHead::new(status).with("Content-Type", "application/json");
    Response::bytes(class, head, Bytes::from(body.to_string()))
}

fn open_api<F>() -> Response<F> {
    let head = ResponseHead::new(StatusCode::OK).with("Content-Type", "application/json");
    Response::bytes(
        RouteClass::Other,
        head,
        Bytes::from_static(OPEN_API.as_bytes()),
    )
}

/// Reads a body that must be an object of `T`.
fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => ApiError::Field {
            field: "body",
            message: error.to_string(),
        },
        _ => ApiError::NotJson {
            message: error.to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn the_document_names_every_route_and_no_other() {
        let document: Value = serde_json::from_str(OPEN_API).expect("it is JSON");
        let mut described: Vec<String> = Vec::new();
        let paths = document["paths"].as_object().expect("it has paths");
        for (path, methods) in paths {
            for method in methods.as_object().expect("methods").keys() {
                if method != "parameters" {
                    described.push(format!("{} {path}", method.to_uppercase()));
                }
            }
        }
        let job = "0b6b2a5e-8c4f-4d27-9e55-1a5b6f2f4c11";
        let mut served = Vec::new();
        let places = [
            "/api/v1/jobs",
            "/api/v1/jobs/{job_id}",
            "/api/v1/jobs/{job_id}/cancel",
            "/api/v1/servers",
            "/api/v1/servers/{serial}",
            "/api/v1/status-webhook/{serial}",
            "/api/v1/events",
            "/api/v1/openapi.json",
            "/media/tasks/{job_id}/task.iso",
            "/media/tasks/{job_id}/{signature}/task.iso",
            "/media/nodes/{serial}/task.iso",
        ];
        for place in places {
            let path = place
                .replace("{job_id}", job)
                .replace("{serial}", "XF-1")
                .replace("{signature}", "1-x");
            let segments: Vec<&str> = path
                .strip_prefix('/')
                .expect("absolute")
                .split('/')
                .collect();
            for method in [
                Method::GET,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ] {
                if Route::parse(&method, &segments, |_| None).is_ok() {
                    served.push(format!("{method} {place}"));
                }
            }
        }
        described.sort();
        served.sort();
        assert_eq!(described, served);
    }
}
