//! Method and path → what is asked. Pure.

use http::Method;
use uuid::Uuid;

use crate::provision::media::{self, Asked};
use crate::telemetry::RouteClass;

/// Longest serial number of a server.
const SERIAL_CHARACTERS_MAX: usize = 128;

#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    CreateJob,
    ListJobs,
    GetJob(Uuid),
    CancelJob(Uuid),
    ListServers,
    GetServer(String),
    PutServer(String),
    DeleteServer(String),
    Webhook(String),
    Events,
    OpenApi,
    TaskIso(Asked),
    /// The task ISO of the job that has started this machine.
    TaskOfNode(String),
}

#[derive(Debug, PartialEq, Eq)]
pub enum RouteError {
    Unknown,
    /// The path of something that cannot exist: a job by what is no id.
    NoJob,
    Method {
        allow: &'static str,
    },
    /// No serial number at all.
    Serial,
}

/// What is counted apart.
pub fn class_of(segments: &[&str]) -> RouteClass {
    match segments {
        ["media", ..] => RouteClass::Media,
        ["api", "v1", "jobs", ..] => RouteClass::Jobs,
        ["api", "v1", "servers", ..] => RouteClass::Servers,
        ["api", "v1", "status-webhook", ..] => RouteClass::Webhook,
        _ => RouteClass::Other,
    }
}

/// Whether the path belongs to this module.
pub fn is_ours(segments: &[&str]) -> bool {
    matches!(segments, ["api", ..] | ["media", ..])
}

impl Route {
    pub fn parse(
        method: &Method,
        segments: &[&str],
        query: impl Fn(&str) -> Option<String>,
    ) -> Result<Route, RouteError> {
        match *segments {
            ["api", "v1", "jobs"] => match *method {
                Method::POST => Ok(Route::CreateJob),
                Method::GET | Method::HEAD => Ok(Route::ListJobs),
                _ => not_allowed("GET, HEAD, POST"),
            },
            ["api", "v1", "jobs", job] => {
                let job = job_id(job)?;
                match *method {
                    Method::GET | Method::HEAD => Ok(Route::GetJob(job)),
                    _ => not_allowed("GET, HEAD"),
                }
            }
            ["api", "v1", "jobs", job, "cancel"] => {
                let job = job_id(job)?;
                match *method {
                    Method::POST => Ok(Route::CancelJob(job)),
                    _ => not_allowed("POST"),
                }
            }
            ["api", "v1", "servers"] => match *method {
                Method::GET | Method::HEAD => Ok(Route::ListServers),
                _ => not_allowed("GET, HEAD"),
            },
            ["api", "v1", "servers", serial] => {
                let serial = serial_of(serial).ok_or(RouteError::Serial)?;
                match *method {
                    Method::GET | Method::HEAD => Ok(Route::GetServer(serial)),
                    Method::PUT => Ok(Route::PutServer(serial)),
                    Method::DELETE => Ok(Route::DeleteServer(serial)),
                    _ => not_allowed("GET, HEAD, PUT, DELETE"),
                }
            }
            ["api", "v1", "status-webhook", serial] => {
                let serial = serial_of(serial).ok_or(RouteError::Serial)?;
                match *method {
                    Method::POST => Ok(Route::Webhook(serial)),
                    _ => not_allowed("POST"),
                }
            }
            ["api", "v1", "events"] => match *method {
                Method::GET | Method::HEAD => Ok(Route::Events),
                _ => not_allowed("GET, HEAD"),
            },
            ["api", "v1", "openapi.json"] => match *method {
                Method::GET | Method::HEAD => Ok(Route::OpenApi),
                _ => not_allowed("GET, HEAD"),
            },
            ["media", "nodes", serial, "task.iso"] => {
                let serial = serial_of(serial).ok_or(RouteError::Serial)?;
                match *method {
                    Method::GET | Method::HEAD => Ok(Route::TaskOfNode(serial)),
                    _ => not_allowed("GET, HEAD"),
                }
            }
            ["media", ref below @ ..] => {
                let asked = media::asked(below, query).ok_or(RouteError::Unknown)?;
                match *method {
                    Method::GET | Method::HEAD => Ok(Route::TaskIso(asked)),
                    _ => not_allowed("GET, HEAD"),
                }
            }
            _ => Err(RouteError::Unknown),
        }
    }
}

fn not_allowed(allow: &'static str) -> Result<Route, RouteError> {
    Err(RouteError::Method { allow })
}

fn job_id(text: &str) -> Result<Uuid, RouteError> {
    let id = Uuid::try_parse(text).map_err(|_| RouteError::NoJob)?;
    // One job, one address.
    if id.to_string() == text {
        Ok(id)
    } else {
        Err(RouteError::NoJob)
    }
}

/// A serial number as vendors print it; blanks around it are not part of it.
pub fn serial_of(text: &str) -> Option<String> {
    let text = text.trim();
    let length = text.chars().count();
    let fits = (1..=SERIAL_CHARACTERS_MAX).contains(&length)
        && !text
            .chars()
            .any(|character| character.is_control() || character == '/');
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, path: &str) -> Result<Route, RouteError> {
        let segments: Vec<&str> = path
            .strip_prefix('/')
            .expect("absolute")
            .split('/')
            .collect();
        Route::parse(&method, &segments, |_| None)
    }

    #[test]
    fn a_wrong_method_says_which_are_right() {
        for (method, path, allow) in [
            (Method::DELETE, "/api/v1/jobs", "GET, HEAD, POST"),
            (
                Method::POST,
                "/api/v1/servers/XF-1",
                "GET, HEAD, PUT, DELETE",
            ),
            (Method::GET, "/api/v1/status-webhook/XF-1", "POST"),
            (Method::POST, "/media/nodes/XF-1/task.iso", "GET, HEAD"),
        ] {
            assert_eq!(parse(method, path), Err(RouteError::Method { allow }));
        }
        let job = "0b6b2a5e-8c4f-4d27-9e55-1a5b6f2f4c11";
        let cancel = parse(Method::GET, &format!("/api/v1/jobs/{job}/cancel"));
        assert_eq!(cancel, Err(RouteError::Method { allow: "POST" }));
    }

    #[test]
    fn a_job_has_one_address_and_what_is_no_id_is_no_job() {
        let job = "0b6b2a5e-8c4f-4d27-9e55-1a5b6f2f4c11";
        assert!(matches!(
            parse(Method::GET, &format!("/api/v1/jobs/{job}")),
            Ok(Route::GetJob(_))
        ));
        for other in [
            job.to_uppercase(),
            job.replace('-', ""),
            "x".to_owned(),
            String::new(),
        ] {
            let path = format!("/api/v1/jobs/{other}");
            assert_eq!(parse(Method::GET, &path), Err(RouteError::NoJob), "{path}");
        }
        assert_eq!(parse(Method::GET, "/api/v2/jobs"), Err(RouteError::Unknown));
        assert_eq!(
            parse(Method::GET, "/api/v1/servers/"),
            Err(RouteError::Serial)
        );
    }
}
