//! URLs of task ISOs: made, signed, read and checked. Pure; time and secret come as arguments.
//!
//! Two forms mean the same: `/media/tasks/{job}/task.iso?expires=…&sig=…`, and for BMCs that refuse
//! a query `/media/tasks/{job}/{expires}-{sig}/task.iso`.

use std::net::IpAddr;

use base64::Engine;
use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

/// Clocks differ: so long after its end a URL is still good.
const SKEW_SECONDS: u64 = 60;

/// What a request for a task ISO brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub job: Uuid,
    pub signature: Option<Signature>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub expires: u64,
    pub sig: String,
    /// The client's address that is signed along, in the client's spelling.
    pub ip: String,
}

/// Why a task ISO is not given out. All are 403.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    NotSigned,
    Wrong,
    Expired,
    /// Signed for another address.
    OtherClient,
}

/// The path of a job's task ISO.
fn path(job: Uuid) -> String {
    format!("/media/tasks/{job}/task.iso")
}

/// The URL a BMC is given: signed in its path, since some BMCs cut a query off.
pub fn task_url(base: &str, job: Uuid, secret: Option<&str>, expires: u64) -> String {
    let base = base.trim_end_matches('/');
    match secret {
        None => format!("{base}{}", path(job)),
        Some(secret) => {
            let sig = sign(secret, job, expires, "");
            format!("{base}/media/tasks/{job}/{expires}-{sig}/task.iso")
        }
    }
}

/// The signature of both forms; only the query has room for an address.
fn sign(secret: &str, job: Uuid, expires: u64, ip: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(mac(secret, job, expires, ip).finalize().into_bytes())
}

/// The job of a URL of ours, in either form, whatever host it names.
pub fn job_of(url: &str) -> Option<Uuid> {
    let (_, rest) = url.split_once("/media/tasks/")?;
    let rest = rest.split(['?', '#']).next()?;
    let (job, file) = rest.split_once('/')?;
    (file.rsplit('/').next() == Some("task.iso")).then(|| job_id(job))?
}

/// Reads the segments after `media`, and a query.
pub fn asked<'a>(segments: &[&str], query: impl Fn(&str) -> Option<String> + 'a) -> Option<Asked> {
    let (job, signature) = match *segments {
        ["tasks", job, "task.iso"] => {
            let signature = query("sig").map(|sig| Signature {
                // A time that cannot be read has passed.
                expires: query("expires").and_then(|text| number(&text)).unwrap_or(0),
                sig,
                ip: query("ip").unwrap_or_default(),
            });
            (job, signature)
        }
        ["tasks", job, signed, "task.iso"] => {
            let (expires, sig) = signed.split_once('-')?;
            let signature = Signature {
                expires: number(expires)?,
                sig: sig.to_owned(),
                ip: String::new(),
            };
            (job, Some(signature))
        }
        _ => return None,
    };
    Some(Asked {
        job: job_id(job)?,
        signature,
    })
}

/// Whether `client` may have what it asked for. Without a secret everybody may.
pub fn check(
    asked: &Asked,
    secret: Option<&str>,
    bind_address: bool,
    client: IpAddr,
    now: u64,
) -> Result<(), Denied> {
    let Some(secret) = secret else {
        return Ok(());
    };
    let signature = asked.signature.as_ref().ok_or(Denied::NotSigned)?;
    let decoded = BASE64_URL_SAFE_NO_PAD
        .decode(&signature.sig)
        .or_else(|_| BASE64_URL_SAFE.decode(&signature.sig))
        .map_err(|_| Denied::Wrong)?;
    mac(secret, asked.job, signature.expires, &signature.ip)
        .verify_slice(&decoded)
        .map_err(|_| Denied::Wrong)?;
    if now > signature.expires.saturating_add(SKEW_SECONDS) {
        return Err(Denied::Expired);
    }
    let is_bound = bind_address && !signature.ip.is_empty();
    if is_bound && signature.ip.parse() != Ok(client.to_canonical()) {
        return Err(Denied::OtherClient);
    }
    Ok(())
}

/// Whether the job has been over for too long: complete since `complete_since`, and `ttl_seconds`
/// have passed. Without a secret nothing ever is.
pub fn check_job(
    complete_since: Option<u64>,
    secret: Option<&str>,
    ttl_seconds: u64,
    now: u64,
) -> Result<(), Denied> {
    let is_over = complete_since.is_some_and(|since| now > since.saturating_add(ttl_seconds));
    match secret {
        Some(_) if is_over => Err(Denied::Expired),
        _ => Ok(()),
    }
}

fn mac(secret: &str, job: Uuid, expires: u64, ip: &str) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key may have any length");
    mac.update(format!("GET\n{}\n{expires}\n{ip}", path(job)).as_bytes());
    mac
}

/// The one spelling of an id that is ours.
fn job_id(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    (id.to_string() == text).then_some(id)
}

fn number(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const JOB: Uuid = Uuid::from_u128(0x0b6b2a5e_8c4f_4d27_9e55_1a5b6f2f4c11);
    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    fn by_query(expires: &str, sig: &str, ip: &str) -> Asked {
        let job = JOB.to_string();
        let query = |key: &str| {
            let value = match key {
                "expires" => expires,
                "sig" => sig,
                _ => ip,
            };
            (!value.is_empty()).then(|| value.to_owned())
        };
        asked(&["tasks", &job, "task.iso"], query).expect("a task's path")
    }

    #[test]
    fn both_forms_of_a_signature_open_until_their_time() {
        let url = task_url("http://host:8080/", JOB, Some("key"), 1000);
        assert_eq!(job_of(&url), Some(JOB));
        let segments: Vec<&str> = url
            .strip_prefix("http://host:8080/media/")
            .expect("our base")
            .split('/')
            .collect();
        let by_path = asked(&segments, |_| None).expect("a task's path");
        let sig = sign("key", JOB, 1000, "");
        for asked in [
            by_path,
            by_query("1000", &sig, ""),
            by_query("1000", &format!("{sig}="), ""),
        ] {
            let at = |now| check(&asked, Some("key"), true, CLIENT, now);
            assert_eq!(at(1060), Ok(()));
            assert_eq!(at(1061), Err(Denied::Expired));
            assert_eq!(
                check(&asked, Some("other"), true, CLIENT, 0),
                Err(Denied::Wrong)
            );
        }
        assert_eq!(
            check(&by_query("1001", &sig, ""), Some("key"), false, CLIENT, 0),
            Err(Denied::Wrong)
        );
        assert_eq!(
            check(&by_query("", "", ""), Some("key"), false, CLIENT, 0),
            Err(Denied::NotSigned)
        );
        assert_eq!(check(&by_query("", "", ""), None, false, CLIENT, 0), Ok(()));
    }

    #[test]
    fn a_signed_address_is_compared_where_that_is_wanted() {
        let for_other = by_query("1000", &sign("key", JOB, 1000, "10.0.0.8"), "10.0.0.8");
        let at = |bind| check(&for_other, Some("key"), bind, CLIENT, 0);
        assert_eq!((at(true), at(false)), (Err(Denied::OtherClient), Ok(())));
        let mapped: IpAddr = "::ffff:10.0.0.8".parse().expect("an address");
        assert_eq!(check(&for_other, Some("key"), true, mapped, 0), Ok(()));
    }

    #[test]
    fn what_is_signed_ends_with_its_job_and_the_rest_of_its_time() {
        let at = |complete_since, secret, now| check_job(complete_since, secret, 30, now);
        assert_eq!(at(Some(100), Some("key"), 130), Ok(()));
        assert_eq!(at(Some(100), Some("key"), 131), Err(Denied::Expired));
        assert_eq!(at(None, Some("key"), 131), Ok(()));
        assert_eq!(at(Some(100), None, 131), Ok(()));
    }

    #[test]
    fn the_signature_is_the_documented_one() {
        // printf 'GET\n/media/tasks/<job>/task.iso\n1000\n' | openssl dgst -sha256 -hmac key -binary | basenc --base64url
        assert_eq!(
            sign("key", JOB, 1000, ""),
            "HT2BO-yjaYO_FOqK5wwFXSXd9QPLqOu4TsPprzam8PQ"
        );
    }

    proptest! {
        #[test]
        fn any_path_and_url_is_read_or_not(text in "\\PC{0,60}") {
            let segments: Vec<&str> = text.split('/').collect();
            let _ = asked(&segments, |_| Some(text.clone()));
            let _ = job_of(&text);
            let _ = job_of(&format!("http://h/media/tasks/{text}/task.iso"));
        }
    }
}
