//! `Registry`: the two requests of a pull, over HTTP or HTTPS.
//!
//! The only file that names the HTTP client. An attempt that failed says whether another one can
//! help; how often and when is not decided here.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use ureq::http::{HeaderMap, Response, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, BodyReader, RequestBuilder};

use super::answer::{self, Head, Meaning};
use super::credentials::Credentials;
use super::failure::Failure;
use super::source::Source;
use crate::oci::{Digest, MANIFEST_BYTES_MAX, MediaType};

const ACCEPTED: [&str; 4] = [
    MediaType::OCI_MANIFEST,
    MediaType::OCI_INDEX,
    MediaType::DOCKER_MANIFEST,
    MediaType::DOCKER_MANIFEST_LIST,
];
/// What is read of the body of a refusal, for its words.
const REFUSAL_BYTES_MAX: u64 = 4 << 10;
const PULL_TOKEN_HEADER: &str = "shoal-pull-token";
/// What the registry takes of one.
const PULL_TOKEN_BYTES_MAX: usize = 128;
const READ_AT_ONCE_BYTES: usize = 256 << 10;

/// How the registry is spoken to.
#[derive(Debug)]
pub struct Manner<'a> {
    pub plain_http: bool,
    /// Instead of Mozilla's roots.
    pub ca_file: Option<&'a Path>,
    /// The longest silence of an open connection.
    pub read_timeout: Duration,
    /// `PULL_TOKEN`, for the registry's own host.
    pub token: Option<String>,
}

pub struct Registry {
    agent: Agent,
    /// `http://host/v2/repository`.
    base: String,
    encrypted: bool,
    authorization: Option<String>,
    /// What the pull is called by; it opens nothing.
    token: Option<String>,
}

/// Why there is no answer to work with.
#[derive(Debug)]
pub enum Attempt {
    /// Another one may bring it; if the registry said when, not before.
    Again {
        reason: String,
        wait: Option<Duration>,
    },
    Final(Failure),
}

/// A manifest as it came.
#[derive(Debug)]
pub struct FetchedManifest {
    pub bytes: Vec<u8>,
    pub content_type: Option<String>,
    /// `Docker-Content-Digest`.
    pub stated_digest: Option<String>,
}

/// The bytes of a blob from some place on.
pub struct BlobBody {
    reader: BodyReader<'static>,
    /// So many bytes come first that were not asked for.
    pub before_bytes: u64,
    /// A strong validator for the next range.
    pub etag: Option<String>,
}

impl Registry {
    pub fn new(
        source: &Source,
        manner: &Manner<'_>,
        credentials: Option<&Credentials>,
    ) -> Result<Registry, Failure> {
        let tls = TlsConfig::builder().root_certs(roots(manner.ca_file)?);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .accept_encoding("identity")
            .user_agent(concat!(
                "provisioner-controller/",
                env!("CARGO_PKG_VERSION")
            ))
            .input_buffer_size(READ_AT_ONCE_BYTES)
            .timeout_connect(Some(manner.read_timeout))
            .timeout_per_read(Some(manner.read_timeout))
            .timeout_per_write(Some(manner.read_timeout))
            .tls_config(tls.build())
            .build();
        let scheme = if manner.plain_http { "http" } else { "https" };
        Ok(Registry {
            agent: config.new_agent(),
            base: format!("{scheme}://{}/v2/{}", source.host, source.repository),
            encrypted: !manner.plain_http,
            authorization: credentials.map(Credentials::header),
            token: manner.token.clone().filter(|token| is_token(token)),
        })
    }

    /// `reference` is a tag or a digest.
    pub fn manifest(&self, reference: &str) -> Result<FetchedManifest, Attempt> {
        let what = format!("manifest {reference}");
        let accepted = ACCEPTED.join(", ");
        let url = format!("{}/manifests/{reference}", self.base);
        let response = self.get(&url, &[("accept", &accepted)])?;
        match response.status().as_u16() {
            200 => {}
            status if answer::may_pass(status) => return Err(later(response)),
            _ => return Err(Attempt::Final(refusal(&what, response))),
        }
        let content_type = text_of(response.headers(), "content-type");
        let stated_digest = text_of(response.headers(), "docker-content-digest");
        let body = response.into_body().into_with_config();
        let bytes = body
            .limit(MANIFEST_BYTES_MAX as u64)
            .read_to_vec()
            .map_err(|error| match error {
                ureq::Error::BodyExceedsLimit(_) => Attempt::Final(Failure::Unexpected {
                    what,
                    reason: format!("longer than {MANIFEST_BYTES_MAX} bytes"),
                }),
                other => self.broken(other),
            })?;
        Ok(FetchedManifest {
            bytes,
            content_type,
            stated_digest,
        })
    }

    /// The bytes of a blob after the first `passed_bytes`.
    pub fn blob(
        &self,
        digest: Digest,
        passed_bytes: u64,
        size_bytes: u64,
        etag: Option<&str>,
    ) -> Result<BlobBody, Attempt> {
        let what = format!("layer {digest}");
        let range = format!("bytes={passed_bytes}-");
        let mut headers = Vec::new();
        if passed_bytes > 0 {
            headers.push(("range", range.as_str()));
            headers.extend(etag.map(|etag| ("if-range", etag)));
        }
        let response = self.get(&format!("{}/blobs/{digest}", self.base), &headers)?;
        let content_range = text_of(response.headers(), "content-range");
        let retry_after = text_of(response.headers(), "retry-after");
        let head = Head {
            status: response.status().as_u16(),
            content_length: response.body().content_length(),
            content_range: content_range.as_deref(),
            retry_after: retry_after.as_deref(),
        };
        match answer::meaning(head, passed_bytes, size_bytes, SystemTime::now()) {
            Meaning::Bytes { before_bytes } => Ok(BlobBody {
                before_bytes,
                etag: text_of(response.headers(), "etag").filter(|etag| etag.starts_with('"')),
                reader: response.into_body().into_reader(),
            }),
            Meaning::OtherSize { size_bytes: found } => Err(Attempt::Final(Failure::OtherSize {
                wanted_bytes: size_bytes,
                found_bytes: found,
            })),
            Meaning::Later { wait } => Err(Attempt::Again {
                reason: said(response),
                wait,
            }),
            Meaning::OtherBytes => Err(Attempt::Again {
                reason: format!(
                    "asked for {range}, answered with {}",
                    content_range.as_deref().unwrap_or("no Content-Range")
                ),
                wait: None,
            }),
            Meaning::No => Err(Attempt::Final(refusal(&what, response))),
        }
    }

    /// A redirect may lead to another host, which must not be told the token: with one, a redirect is
    /// not followed but asked for again without it.
    fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Response<Body>, Attempt> {
        if let Some(token) = &self.token {
            let request = self.request(url, headers).header(PULL_TOKEN_HEADER, token);
            let request = request
                .config()
                .max_redirects(0)
                .max_redirects_will_error(false);
            let answered = request.build().call().map_err(|error| self.broken(error))?;
            if !answered.status().is_redirection() {
                return Ok(answered);
            }
        }
        let answered = self.request(url, headers).call();
        answered.map_err(|error| self.broken(error))
    }

    fn request(&self, url: &str, headers: &[(&str, &str)]) -> RequestBuilder<WithoutBody> {
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request
    }

    /// The network breaks and comes back; a certificate that is wrong stays wrong.
    fn broken(&self, error: ureq::Error) -> Attempt {
        let tls = match &error {
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) => true,
            ureq::Error::Io(source) => {
                self.encrypted && source.kind() == io::ErrorKind::InvalidData
            }
            _ => false,
        };
        if tls {
            return Attempt::Final(Failure::Unexpected {
                what: "TLS".to_owned(),
                reason: format!(
                    "{error} (a registry that speaks plain HTTP needs --plain-http, one with an \
                     authority of its own --ca-file)"
                ),
            });
        }
        match error {
            ureq::Error::BadUri(_)
            | ureq::Error::Http(_)
            | ureq::Error::InvalidProxyUrl
            | ureq::Error::TooManyRedirects
            | ureq::Error::RedirectFailed => Attempt::Final(Failure::Unexpected {
                what: "the request".to_owned(),
                reason: error.to_string(),
            }),
            error => Attempt::Again {
                reason: error.to_string(),
                wait: None,
            },
        }
    }
}

impl BlobBody {
    /// Some of the bytes; 0 at the body's end, which need not be the blob's.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, String> {
        loop {
            match self.reader.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(|error| error.to_string()),
            }
        }
    }
}

fn is_token(text: &str) -> bool {
    (1..=PULL_TOKEN_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn roots(ca_file: Option<&Path>) -> Result<RootCerts, Failure> {
    let Some(path) = ca_file else {
        return Ok(RootCerts::WebPki);
    };
    let unusable = |reason: String| Failure::CaFile {
        path: path.to_owned(),
        reason,
    };
    let pem = fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(unusable(error.to_string())),
        }
    }
    if certificates.is_empty() {
        return Err(unusable("expected certificates in PEM".to_owned()));
    }
    Ok(RootCerts::from(certificates))
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn later(response: Response<Body>) -> Attempt {
    let wait = text_of(response.headers(), "retry-after")
        .and_then(|text| answer::retry_after(&text, SystemTime::now()));
    Attempt::Again {
        reason: said(response),
        wait,
    }
}

fn refusal(what: &str, response: Response<Body>) -> Failure {
    let status = response.status().as_u16();
    let challenge = text_of(response.headers(), "www-authenticate").unwrap_or_default();
    let wants_token = challenge
        .get(..6)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"));
    match status {
        401 if wants_token => Failure::TokenWanted,
        401 | 403 => Failure::Refused {
            status,
            detail: detail(response),
        },
        404 | 410 => Failure::NotFound {
            what: what.to_owned(),
            detail: detail(response),
        },
        _ => Failure::Unexpected {
            what: what.to_owned(),
            reason: said(response),
        },
    }
}

/// The status and what the body says of it.
fn said(response: Response<Body>) -> String {
    let status = response.status();
    format!("answered {}{}", status.as_u16(), detail(response))
}

#[derive(Deserialize)]
struct Refusal {
    errors: Vec<RefusalEntry>,
}

#[derive(Deserialize)]
struct RefusalEntry {
    code: String,
    #[serde(default)]
    message: String,
}

/// `: CODE message` of the first entry, or nothing.
fn detail(response: Response<Body>) -> String {
    let body = response.into_body().into_with_config();
    let bytes = body.limit(REFUSAL_BYTES_MAX).read_to_vec();
    let parsed: Option<Refusal> = bytes
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match parsed.as_ref().and_then(|refusal| refusal.errors.first()) {
        Some(entry) => format!(": {} {}", printable(&entry.code), printable(&entry.message)),
        None => String::new(),
    }
}

/// What a server says goes to somebody's terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
