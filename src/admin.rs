//! `/healthz`, `/readyz`, `POST /admin/gc`, and `/metrics` on a port of its own.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::access::{Access, Permission};
use crate::gc::{Busy, Report, Requests};
use crate::http1::{ResponseHead, rfc3339};
use crate::io::Io;
use crate::service::{Request, Response};
use crate::telemetry::{METRICS_CONTENT_TYPE, RouteClass, Telemetry};

/// Says whether the program can do its work; wired in by `server`.
pub type Probe = Arc<dyn Fn() -> bool + Send + Sync>;

/// The answers that operators and their tools ask for.
#[derive(Clone)]
pub struct Admin {
    telemetry: Arc<Telemetry>,
    is_ready: Probe,
    collection: Option<Collection>,
}

/// How garbage is collected on request, and who may ask.
#[derive(Clone)]
pub struct Collection {
    pub requests: Arc<Requests>,
    pub access: Arc<Access>,
}

impl Admin {
    /// Without `collection` there is no `/admin/gc`.
    pub fn new(telemetry: Arc<Telemetry>, is_ready: Probe, collection: Option<Collection>) -> Self {
        Self {
            telemetry,
            is_ready,
            collection,
        }
    }

    /// The answer to `/admin/gc`, if there is one: after a whole cycle.
    pub async fn answer_collection<I: Io>(
        &self,
        io: &I,
        request: &Request,
    ) -> Option<Response<I::File>> {
        let target = &request.head.target;
        let collection = self.collection.as_ref();
        let collection = collection.filter(|_| target.path() == "/admin/gc")?;
        let header = request.head.header("authorization");
        let admitted = collection
            .access
            .admit(io, header, Permission::Administer, request.client)
            .await;
        if let Err(refusal) = admitted {
            return Some(Response::refusal(
                RouteClass::Admin,
                refusal.status(),
                refusal.headers(),
                refusal.body(),
            ));
        }
        if request.head.method != Method::POST {
            let head = ResponseHead::new(StatusCode::METHOD_NOT_ALLOWED).with("Allow", "POST");
            return Some(Response::empty(RouteClass::Admin, head));
        }
        let dry_run = match target.query("dry_run").as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => {
                return Some(problem(
                    StatusCode::BAD_REQUEST,
                    "invalid_request",
                    "dry_run must be true or false",
                ));
            }
        };
        Some(match collection.requests.collect(dry_run).await {
            Ok(report) => {
                let head = ResponseHead::new(StatusCode::OK).with("Content-Type", JSON);
                Response::bytes(RouteClass::Admin, head, document(&report))
            }
            Err(Busy) => problem(
                StatusCode::CONFLICT,
                "conflict",
                "a collection is running; ask again when it has ended",
            ),
        })
    }

    /// The answer to a request on the main port, if its path is one of ours.
    pub fn answer_health<F>(&self, request: &Request) -> Option<Response<F>> {
        let (status, body) = match request.head.target.path() {
            // Alive is who answers.
            "/healthz" => (StatusCode::OK, r#"{"ok":true}"#),
            "/readyz" if (self.is_ready)() => (StatusCode::OK, r#"{"ready":true}"#),
            "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, r#"{"ready":false}"#),
            _ => return None,
        };
        let head = ResponseHead::new(status).with("Content-Type", "application/json");
        Some(readable(
            request,
            RouteClass::Health,
            head,
            Bytes::from_static(body.as_bytes()),
        ))
    }

    /// The answer to a request on the metrics port.
    pub fn answer_metrics<F>(&self, request: &Request) -> Response<F> {
        if request.head.target.path() != "/metrics" {
            return not_found();
        }
        let head = ResponseHead::new(StatusCode::OK).with("Content-Type", METRICS_CONTENT_TYPE);
        let body = Bytes::from(self.telemetry.render());
        readable(request, RouteClass::Metrics, head, body)
    }
}

const JSON: &str = "application/json";

fn problem<F>(status: StatusCode, error: &str, message: &str) -> Response<F> {
    let body = serde_json::json!({ "error": error, "message": message });
    let head = ResponseHead::new(status).with("Content-Type", JSON);
    Response::bytes(RouteClass::Admin, head, Bytes::from(body.to_string()))
}

/// A report as operators read it; `design/contracts/admin.md` has the members.
fn document(report: &Report) -> Bytes {
    let body = serde_json::json!({
        "started_at": report.started_at.map(rfc3339),
        "duration_seconds": report.duration.as_secs_f64(),
        "dry_run": report.dry_run,
        "held_until": report.held_until.map(rfc3339),
        "repositories_scanned": report.repositories_scanned,
        "blobs_scanned": report.blobs.scanned,
        "blobs_live": report.blobs.live,
        "blobs_quarantined": report.blobs.quarantined,
        "blobs_released": report.blobs.released,
        "blobs_deleted": report.blobs.removed,
        "bytes_scanned": report.bytes.scanned,
        "bytes_live": report.bytes.live,
        "bytes_quarantined": report.bytes.quarantined,
        "bytes_freed": report.bytes.removed,
        "links_scanned": report.links.scanned,
        "links_live": report.links.live,
        "links_quarantined": report.links.quarantined,
        "links_released": report.links.released,
        "links_deleted": report.links.removed,
        "errors": report.errors,
    });
    Bytes::from(body.to_string())
}

/// The answer for a path that belongs to nobody.
pub fn not_found<F>() -> Response<F> {
    let head = ResponseHead::new(StatusCode::NOT_FOUND).with("Content-Type", "application/json");
    let body =
        Bytes::from_static(br#"{"errors":[{"code":"UNSUPPORTED","message":"no such endpoint"}]}"#);
    Response::bytes(RouteClass::Other, head, body)
}

/// `body` for GET, its head alone for HEAD, and a refusal for the rest.
fn readable<F>(
    request: &Request,
    route: RouteClass,
    head: ResponseHead,
    body: Bytes,
) -> Response<F> {
    match request.head.method {
        Method::GET | Method::HEAD => Response::bytes(route, head, body),
        _ => {
            let head = ResponseHead::new(StatusCode::METHOD_NOT_ALLOWED).with("Allow", "GET, HEAD");
            Response::empty(route, head)
        }
    }
}
