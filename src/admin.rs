//! `/healthz`, `/readyz`, and `/metrics` on a port of its own.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::http1::ResponseHead;
use crate::service::{Request, Response};
use crate::telemetry::{METRICS_CONTENT_TYPE, RouteClass, Telemetry};

/// Says whether the program can do its work; wired in by `server`.
pub type Probe = Arc<dyn Fn() -> bool + Send + Sync>;

/// The answers that operators and their tools ask for.
#[derive(Clone)]
pub struct Admin {
    telemetry: Arc<Telemetry>,
    is_ready: Probe,
}

impl Admin {
    pub fn new(telemetry: Arc<Telemetry>, is_ready: Probe) -> Self {
        Self {
            telemetry,
            is_ready,
        }
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
            return not_found(request);
        }
        let head = ResponseHead::new(StatusCode::OK).with("Content-Type", METRICS_CONTENT_TYPE);
        let body = Bytes::from(self.telemetry.render());
        readable(request, RouteClass::Metrics, head, body)
    }
}

/// The answer for a path that belongs to nobody.
pub fn not_found<F>(request: &Request) -> Response<F> {
    let head = ResponseHead::new(StatusCode::NOT_FOUND).with("Content-Type", "application/json");
    let body =
        Bytes::from_static(br#"{"errors":[{"code":"UNSUPPORTED","message":"no such endpoint"}]}"#);
    let response = Response::bytes(RouteClass::Other, head, body);
    if request.head.method == Method::HEAD {
        response.without_payload()
    } else {
        response
    }
}

/// `body` for GET, its head alone for HEAD, and a refusal for the rest.
fn readable<F>(
    request: &Request,
    route: RouteClass,
    head: ResponseHead,
    body: Bytes,
) -> Response<F> {
    match request.head.method {
        Method::GET => Response::bytes(route, head, body),
        Method::HEAD => Response::bytes(route, head, body).without_payload(),
        _ => {
            let head = ResponseHead::new(StatusCode::METHOD_NOT_ALLOWED).with("Allow", "GET, HEAD");
            Response::empty(route, head)
        }
    }
}
