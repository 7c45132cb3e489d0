//! Servers: machines and the BMCs behind which they are. A password goes in and never comes out.

use std::net::IpAddr;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::error::ApiError;
use super::{Answered, Provision, json, read};
use crate::config::Secret;
use crate::http1::ResponseHead;
use crate::io::Io;
use crate::provision::job::store::Server;
use crate::provision::redfish::Origin;
use crate::provision::time::rfc3339;
use crate::service::Response;
use crate::telemetry::RouteClass;

const ADDRESS_CHARACTERS_MAX: usize = 2048;
const TEXT_CHARACTERS_MAX: usize = 255;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    serial: Option<String>,
    bmc_address: Option<String>,
    bmc_username: Option<String>,
    bmc_password: Option<String>,
    vendor: Option<String>,
    node_address: Option<String>,
    /// Shown by GET, so that what was got can be put back; means nothing here.
    #[serde(rename = "last_seen")]
    _last_seen: Option<Value>,
}

/// What became of a server that was put.
enum Put {
    Done {
        is_new: bool,
    },
    /// A job works at the address that was to change: what it has done at one machine, it would
    /// undo at another, and reset that.
    JobIsAt {
        job: Uuid,
    },
    NoPassword,
}

impl<I: Io + Clone + 'static> Provision<I> {
    pub(super) async fn list_servers(&self) -> Answered<I> {
        let servers = self.api.mailbox.ask(|store| store.servers()).await?;
        let shown: Vec<Value> = servers.iter().map(shown).collect();
        let body = json!({"servers": shown});
        Ok(json(RouteClass::Servers, StatusCode::OK, &body))
    }

    pub(super) async fn get_server(&self, serial: String) -> Answered<I> {
        let asked = serial.clone();
        let found = self
            .api
            .mailbox
            .ask(move |store| store.server(&asked))
            .await?;
        let server = found.ok_or(ApiError::NoServer { serial })?;
        Ok(json(RouteClass::Servers, StatusCode::OK, &shown(&server)))
    }

    pub(super) async fn put_server(&self, serial: String, body: Bytes) -> Answered<I> {
        // Not by `read`: a message about a value could quote a password.
        let wanted: Wanted = match read::<Wanted>(&body) {
            Ok(wanted) => wanted,
            Err(ApiError::Field { .. }) => {
                return Err(ApiError::Field {
                    field: "body",
                    message: "expected an object of texts: bmc_address, bmc_username, \
                              bmc_password, and vendor and node_address if they are known"
                        .to_owned(),
                });
            }
            Err(_) => {
                return Err(ApiError::NotJson {
                    message: "expected an object".to_owned(),
                });
            }
        };
        let (mut server, password) = check(serial, wanted)?;
        if let Some(password) = &password {
            let context = [server.serial.as_str(), server.bmc_address.as_str()];
            server.bmc_password = self.api.key.seal(password, &context);
        }
        let keeps = password.is_none();
        let put = server.clone();
        let stored = self
            .api
            .mailbox
            .ask(move |store| {
                let mut server = put;
                let known = store.server(&server.serial)?;
                let before = known.as_ref().map(|known| known.bmc_address.as_str());
                if before.is_some_and(|before| before != server.bmc_address)
                    && let Some(job) = store.active_job(&server.serial)?
                {
                    return Ok(Put::JobIsAt { job });
                }
                if keeps {
                    // A password is for one address; another must not be told it.
                    match known {
                        Some(known) if known.bmc_address == server.bmc_address => {
                            server.bmc_password = known.bmc_password;
                        }
                        _ => return Ok(Put::NoPassword),
                    }
                }
                store.put_server(&server).map(|is_new| Put::Done { is_new })
            })
            .await?;
        let status = match stored {
            Put::Done { is_new: true } => StatusCode::CREATED,
            Put::Done { is_new: false } => StatusCode::OK,
            Put::JobIsAt { job } => return Err(ApiError::Active { job }),
            Put::NoPassword => {
                return Err(ApiError::Field {
                    field: "bmc_password",
                    message: "expected the password: the server or its bmc_address is new"
                        .to_owned(),
                });
            }
        };
        Ok(json(RouteClass::Servers, status, &shown(&server)))
    }

    pub(super) async fn delete_server(&self, serial: String) -> Answered<I> {
        let asked = serial.clone();
        let removed = self
            .api
            .mailbox
            .ask(move |store| store.remove_server(&asked))
            .await?;
        match removed {
            None => Err(ApiError::NoServer { serial }),
            Some(false) => Err(ApiError::HasJobs { serial }),
            Some(true) => {
                let head = ResponseHead::new(StatusCode::NO_CONTENT);
                Ok(Response::empty(RouteClass::Servers, head))
            }
        }
    }
}

fn check(serial: String, wanted: Wanted) -> Result<(Server, Option<Secret>), ApiError> {
    let wrong = |field, message: &str| ApiError::Field {
        field,
        message: message.to_owned(),
    };
    if wanted.serial.is_some_and(|named| named != serial) {
        return Err(wrong("serial", "differs from the serial in the path"));
    }
    let bmc_address = wanted
        .bmc_address
        .filter(|address| is_address(address))
        .ok_or_else(|| {
            wrong(
                "bmc_address",
                "expected a URL such as https://192.0.2.10, without user, password or path",
            )
        })?;
    let is_text = |text: &String| (1..=TEXT_CHARACTERS_MAX).contains(&text.chars().count());
    let bmc_username = wanted
        .bmc_username
        .filter(is_text)
        .ok_or_else(|| wrong("bmc_username", "expected a text of 1 to 255 characters"))?;
    if wanted
        .bmc_password
        .as_ref()
        .is_some_and(|text| !is_text(text))
    {
        return Err(wrong(
            "bmc_password",
            "expected a text of 1 to 255 characters",
        ));
    }
    if wanted.vendor.as_ref().is_some_and(|text| !is_text(text)) {
        return Err(wrong("vendor", "expected a text of 1 to 255 characters"));
    }
    let node_address = match wanted.node_address {
        None => None,
        Some(text) => Some(text.parse::<IpAddr>().map_err(|_| {
            wrong(
                "node_address",
                "expected the IP address from which the machine pulls, such as 192.0.2.30",
            )
        })?),
    };
    let server = Server {
        serial,
        bmc_address,
        bmc_username,
        bmc_password: Vec::new(),
        vendor: wanted.vendor,
        node_address: node_address.map(|address| address.to_canonical()),
        last_seen: None,
    };
    Ok((server, wanted.bmc_password.map(Secret::new)))
}

/// Whether BMCs can be asked there.
fn is_address(text: &str) -> bool {
    text.len() <= ADDRESS_CHARACTERS_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && Origin::parse(text).is_ok()
}

fn shown(server: &Server) -> Value {
    let mut shown = json!({
        "serial": server.serial,
        "bmc_address": server.bmc_address,
        "bmc_username": server.bmc_username,
    });
    if let Some(vendor) = &server.vendor {
        shown["vendor"] = json!(vendor);
    }
    if let Some(address) = &server.node_address {
        shown["node_address"] = json!(address.to_string());
    }
    if let Some(seen) = server.last_seen {
        shown["last_seen"] = json!(rfc3339(seen));
    }
    shown
}
