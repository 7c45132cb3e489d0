//! One request to a BMC and its answer, by `ureq`: no redirects, no proxy, no connection kept, and
//! a bound on time and bytes. Nothing is repeated here.

use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use http::{Method, Request, Response};
use serde_json::Value;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Timeout};

use super::document::shown;
use super::origin::{Link, Origin};
use super::retry;

/// A system described at length has a tenth of this.
const ANSWER_BYTES_MAX: u64 = 512 << 10;
const HEADER_BYTES_MAX: usize = 32 << 10;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    pub method: Method,
    pub link: &'a Link,
    pub if_match: Option<&'a str>,
    pub body: Option<&'a Value>,
}

impl<'a> Ask<'a> {
    pub fn get(link: &'a Link) -> Ask<'a> {
        Ask {
            method: Method::GET,
            link,
            if_match: None,
            body: None,
        }
    }

    pub fn post(link: &'a Link, body: &'a Value) -> Ask<'a> {
        Ask {
            method: Method::POST,
            body: Some(body),
            ..Ask::get(link)
        }
    }

    pub fn patch(link: &'a Link, body: &'a Value, if_match: Option<&'a str>) -> Ask<'a> {
        Ask {
            method: Method::PATCH,
            body: Some(body),
            if_match,
            ..Ask::get(link)
        }
    }
}

/// How a request shows who sends it.
#[derive(Debug, Clone)]
pub enum Proof {
    Nobody,
    Token(String),
    /// The value of `Authorization`.
    Basic(String),
}

/// An answer; its body is `Null` where there was none.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub tag: Option<String>,
    pub location: Option<String>,
    pub token: Option<String>,
    pub retry_after: Option<Duration>,
    /// Why the body could not be read, if it could not.
    pub body: Result<Value, String>,
}

/// No answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// It never reached the BMC.
    NotSent(String),
    /// It may have been carried out.
    AnswerLost(String),
    Untrusted(String),
}

/// Asks one BMC and no other.
pub struct Http {
    agent: Agent,
    origin: Origin,
}

impl Http {
    pub fn new(origin: Origin, insecure_tls: bool) -> Http {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .disable_verification(insecure_tls)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .tls_config(tls)
            .max_idle_connections(0)
            .max_response_header_size(HEADER_BYTES_MAX)
            .user_agent("provisioner-controller")
            .accept("application/json")
            .build();
        Http {
            agent: config.new_agent(),
            origin,
        }
    }

    /// `time_max` is for all of it, the body too.
    pub fn ask(&self, ask: &Ask<'_>, proof: &Proof, time_max: Duration) -> Result<Answer, Silence> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(self.origin.url(ask.link))
            .header("OData-Version", "4.0");
        if let Some(tag) = ask.if_match {
            request = request.header("If-Match", tag);
        }
        request = match proof {
            Proof::Nobody => request,
            Proof::Token(token) => request.header("X-Auth-Token", token),
            Proof::Basic(value) => request.header("Authorization", value),
        };
        let answered = match ask.body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json");
                let request = request.body(body.to_string()).map_err(unsendable)?;
                self.agent.run(self.timed(request, time_max))
            }
            None => {
                let request = request.body(()).map_err(unsendable)?;
                self.agent.run(self.timed(request, time_max))
            }
        };
        answered.map_err(silence).and_then(read)
    }

    fn timed<S: ureq::AsSendBody>(&self, request: Request<S>, time_max: Duration) -> Request<S> {
        self.agent
            .configure_request(request)
            .timeout_global(Some(time_max))
            .build()
    }
}

fn unsendable(error: http::Error) -> Silence {
    Silence::NotSent(error.to_string())
}

fn read(response: Response<Body>) -> Result<Answer, Silence> {
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let (tag, location, token) = (header("ETag"), header("Location"), header("X-Auth-Token"));
    let retry_after = header("Retry-After").and_then(|value| retry::retry_after(&value));
    let status = response.status().as_u16();
    let mut bytes = Vec::new();
    let reader = response.into_body().into_reader();
    let read = reader.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes);
    let body = match read {
        // The status has come: what it says is known.
        Err(error) if status >= 300 => Err(shown(&error.to_string())),
        Err(error) => return Err(Silence::AnswerLost(shown(&error.to_string()))),
        Ok(count) if count as u64 > ANSWER_BYTES_MAX => {
            Err(format!("it is longer than {ANSWER_BYTES_MAX} bytes"))
        }
        Ok(0) => Ok(Value::Null),
        Ok(_) => serde_json::from_slice(&bytes).map_err(|error| format!("no JSON: {error}")),
    };
    Ok(Answer {
        status,
        tag,
        location,
        token,
        retry_after,
        body,
    })
}

/// What an error of the library means for repetition.
fn silence(error: ureq::Error) -> Silence {
    let message = shown(&error.to_string());
    match error {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => Silence::NotSent(message),
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => Silence::Untrusted(message),
        ureq::Error::Io(error) if is_about_trust(&error) => Silence::Untrusted(message),
        ureq::Error::Io(error) if never_connected(&error) => Silence::NotSent(message),
        _ => Silence::AnswerLost(message),
    }
}

/// rustls speaks through I/O errors of this kind, and nothing else here does.
fn is_about_trust(error: &io::Error) -> bool {
    error.kind() == ErrorKind::InvalidData
}

fn never_connected(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::AddrNotAvailable
    )
}
