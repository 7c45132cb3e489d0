//! Fetches the files that a recipe names by URL, when its job is made: from places that the operator
//! allows, a bounded number of bytes, in a bounded time, on a thread of its own, since whoever serves
//! them may be slow and no core waits for a stranger.
//!
//! Redirects are followed here and not by the library: each step must lead to an allowed place.
//!
//! Note: design/0012-recipes.md.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_lock::Semaphore;
use futures_channel::oneshot;
use http::{Request, Uri};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use super::recipe::Elsewhere;
use crate::config::UrlPrefix;

/// For all files of one recipe: somebody waits.
const TIME_MAX: Duration = Duration::from_secs(15);
const AT_ONCE_MAX: usize = 4;
const REDIRECTS_MAX: u32 = 3;
const HEADER_BYTES_MAX: usize = 32 << 10;

/// A file as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub from: Elsewhere,
    pub text: String,
}

/// Why not.
#[derive(Debug)]
pub enum NotFetched {
    /// So many are under way.
    TooMany,
    /// About one file.
    File {
        field: &'static str,
        problem: Problem,
    },
    /// No thread could be had; for the log.
    Thread(io::Error),
}

/// What is wrong with a file, or with the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Also where a redirect led.
    NotAllowed {
        place: String,
    },
    TooManyRedirects,
    Status(u16),
    TooLarge {
        bytes_max: usize,
    },
    NotText,
    NoAnswer {
        message: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::NotAllowed { place } => write!(
                out,
                "{place} is not in PAYLOAD_URL_ALLOWLIST, so it is not fetched; give the text itself"
            ),
            Problem::TooManyRedirects => {
                write!(out, "its URL is redirected more than {REDIRECTS_MAX} times")
            }
            Problem::Status(status) => write!(out, "its URL answers with status {status}"),
            Problem::TooLarge { bytes_max } => {
                write!(out, "what its URL gives is longer than {bytes_max} bytes")
            }
            Problem::NotText => write!(out, "what its URL gives is not UTF-8"),
            Problem::NoAnswer { message } => write!(
                out,
                "its URL was not read within {} s: {message}",
                TIME_MAX.as_secs()
            ),
        }
    }
}

/// Who fetches.
pub struct Fetcher {
    agent: Agent,
    allowed: Arc<[UrlPrefix]>,
    places: Arc<Semaphore>,
}

impl Fetcher {
    pub fn new(allowed: Vec<UrlPrefix>) -> Fetcher {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A proxy of the environment would fetch from places of its own.
            .proxy(None)
            .tls_config(tls)
            .max_idle_connections(0)
            .max_response_header_size(HEADER_BYTES_MAX)
            .user_agent("provisioner-controller")
            .build();
        Fetcher {
            agent: config.new_agent(),
            allowed: allowed.into(),
            places: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        }
    }

    /// All of `wanted`, or the first that cannot be had.
    pub async fn fetch(&self, wanted: Vec<Elsewhere>) -> Result<Vec<Fetched>, NotFetched> {
        for one in &wanted {
            let url = one.url.parse().map_err(|_| outside(&one.url));
            let allowed = url.and_then(|url| allow(&self.allowed, &url));
            allowed.map_err(|problem| NotFetched::File {
                field: one.field,
                problem,
            })?;
        }
        let place = self.places.try_acquire_arc();
        let place = place.ok_or(NotFetched::TooMany)?;
        let (agent, allowed) = (self.agent.clone(), self.allowed.clone());
        let (answer, answered) = oneshot::channel();
        thread::Builder::new()
            .name("payloads".to_owned())
            .spawn(move || {
                let deadline = Instant::now() + TIME_MAX;
                let fetch = |one: Elsewhere| match read(&agent, &allowed, &one, deadline) {
                    Ok(text) => Ok(Fetched { from: one, text }),
                    Err(problem) => Err(NotFetched::File {
                        field: one.field,
                        problem,
                    }),
                };
                let fetched = wanted.into_iter().map(fetch).collect();
                drop(place);
                // Whoever asked may have left.
                let _ = answer.send(fetched);
            })
            .map_err(NotFetched::Thread)?;
        let lost = |_| NotFetched::Thread(io::Error::other("fetching a file has failed"));
        answered.await.map_err(lost)?
    }
}

fn allow(allowed: &[UrlPrefix], url: &Uri) -> Result<(), Problem> {
    match allowed.iter().any(|prefix| prefix.holds(url)) {
        true => Ok(()),
        false => Err(outside(&url.to_string())),
    }
}

fn outside(url: &str) -> Problem {
    Problem::NotAllowed { place: shown(url) }
}

/// A URL without what may be secret in it, and not longer than somebody reads.
pub fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let without_query = &url[..end];
    let (scheme, rest) = without_query
        .split_once("://")
        .unwrap_or(("", without_query));
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let path = &rest[authority.len()..];
    let shown = format!("{scheme}://{host}{path}");
    shown
        .chars()
        .filter(|one| !one.is_control())
        .take(200)
        .collect()
}

fn read(
    agent: &Agent,
    allowed: &[UrlPrefix],
    wanted: &Elsewhere,
    deadline: Instant,
) -> Result<String, Problem> {
    let mut url: Uri = wanted.url.parse().map_err(|_| outside(&wanted.url))?;
    let silent = |message: String| Problem::NoAnswer { message };
    for _ in 0..=REDIRECTS_MAX {
        allow(allowed, &url)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(silent("the time is over".to_owned()));
        }
        let request = Request::get(url.clone()).body(());
        let request = request.map_err(|error| silent(error.to_string()))?;
        let request = agent
            .configure_request(request)
            .timeout_global(Some(left))
            .build();
        let response = agent
            .run(request)
            .map_err(|error| silent(error.to_string()))?;
        let status = response.status().as_u16();
        match status {
            200 => {
                let mut bytes = Vec::new();
                let reader = response.into_body().into_reader();
                reader
                    .take(wanted.bytes_max as u64 + 1)
                    .read_to_end(&mut bytes)
                    .map_err(|error| silent(error.to_string()))?;
                if bytes.len() > wanted.bytes_max {
                    return Err(Problem::TooLarge {
                        bytes_max: wanted.bytes_max,
                    });
                }
                return String::from_utf8(bytes).map_err(|_| Problem::NotText);
            }
            301 | 302 | 303 | 307 | 308 => {
                let location = response.headers().get("location");
                let location = location.and_then(|value| value.to_str().ok());
                let location = location.ok_or(Problem::Status(status))?;
                url = target(&url, location).ok_or_else(|| outside(location))?;
            }
            _ => return Err(Problem::Status(status)),
        }
    }
    Err(Problem::TooManyRedirects)
}

/// Where a redirect leads: to a whole URL, or to a path of the same host.
fn target(from: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with('/') && !location.starts_with("//") {
        let scheme = from.scheme_str()?;
        return format!("{scheme}://{}{location}", from.authority()?)
            .parse()
            .ok();
    }
    let url: Uri = location.parse().ok()?;
    url.scheme().is_some().then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_a_url_or_to_a_path_of_the_same_host() {
        let from: Uri = "https://a.test:81/b?c".parse().expect("a URL");
        let to = |location: &str| target(&from, location).map(|url| url.to_string());
        assert_eq!(to("/d?e"), Some("https://a.test:81/d?e".to_owned()));
        assert_eq!(to("http://b.test/"), Some("http://b.test/".to_owned()));
        for location in ["//b.test/", "d", "../d", "", "b.test:80"] {
            assert_eq!(to(location), None, "{location}");
        }
    }

    #[test]
    fn what_is_secret_in_a_url_is_not_shown() {
        assert_eq!(
            shown("https://ops:secret@a.test/b?token=secret#secret"),
            "https://a.test/b"
        );
        assert_eq!(shown(&"x".repeat(5000)).len(), 200);
    }
}
