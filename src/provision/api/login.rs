//! Who may use the API: nobody asked, Basic, or a signed token. Clients that fail often wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::Sha256;

use super::error::{ApiError, Scheme};
use crate::access::{Access, Decision, Permission};
use crate::config::{FailedLogins, JwtConfig, Network};
use crate::io::{Io, Moment};

/// Clients watched; beyond it those that have been forgiven are dropped, then all.
const CLIENTS_MAX: usize = 10_000;
/// Longest token looked at.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Who decides about a request to the API.
pub struct Gate {
    pub login: Login,
    pub failures: Failures,
}

pub enum Login {
    Open,
    Basic(Box<Access>),
    Jwt(JwtConfig),
}

impl Gate {
    /// Whether the request may be answered at all.
    pub async fn admit<I: Io>(
        &self,
        io: &I,
        header: Option<&str>,
        client: IpAddr,
    ) -> Result<(), ApiError> {
        let scheme = match &self.login {
            Login::Open => return Ok(()),
            Login::Basic(_) => Scheme::Basic,
            Login::Jwt(_) => Scheme::Bearer,
        };
        let Some(header) = header else {
            return Err(ApiError::LoginWanted { scheme });
        };
        let is_right = match &self.login {
            Login::Open => true,
            Login::Jwt(config) => {
                let now = io.wall_clock().duration_since(std::time::UNIX_EPOCH);
                let now = now.map_or(0, |passed| passed.as_secs());
                let is_valid = is_valid_bearer(header, config, now);
                if !is_valid {
                    self.failures.check(client, io.now())?;
                }
                is_valid
            }
            Login::Basic(access) => self.compare(io, access, header, client).await?,
        };
        if is_right {
            return Ok(());
        }
        self.failures.failed(client, io.now());
        Err(ApiError::LoginWanted { scheme })
    }

    /// A password that is known costs nothing; another costs a hash, computed off the cores, and
    /// is not looked at while the client waits for its failures.
    async fn compare<I: Io>(
        &self,
        io: &I,
        access: &Access,
        header: &str,
        client: IpAddr,
    ) -> Result<bool, ApiError> {
        let decide = || access.authorize(Some(header), Permission::Push, client);
        let mut decision = decide();
        let mut _turn = None;
        if let Decision::Pending(_) = decision {
            _turn = Some(access.turn().await);
            decision = decide();
        }
        match decision {
            Decision::Granted(_) => Ok(true),
            Decision::Refused(refusal) => {
                self.failures.check(client, io.now())?;
                match ApiError::of_refusal(refusal) {
                    ApiError::LoginWanted { .. } => Ok(false),
                    error => Err(error),
                }
            }
            Decision::Pending(pending) => {
                self.failures.check(client, io.now())?;
                let verdict = io.offload(move || pending.verify()).await;
                Ok(access.complete(verdict, client).is_ok())
            }
        }
    }
}

/// Failures of each client, forgiven by and by.
pub struct Failures {
    rules: FailedLogins,
    clients: Mutex<HashMap<IpAddr, (f64, Moment)>>,
}

impl Failures {
    pub fn new(rules: FailedLogins) -> Failures {
        Failures {
            rules,
            clients: Mutex::default(),
        }
    }

    fn check(&self, client: IpAddr, now: Moment) -> Result<(), ApiError> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let held = clients
            .get(&client)
            .map_or(0.0, |entry| self.left(entry, now));
        if held + 1.0 > f64::from(self.rules.at_once) {
            return Err(ApiError::TooManyFailures);
        }
        Ok(())
    }

    fn failed(&self, client: IpAddr, now: Moment) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS_MAX {
            clients.retain(|_, entry| self.left(entry, now) > 0.0);
            if clients.len() >= CLIENTS_MAX {
                clients.clear();
            }
        }
        let held = clients
            .get(&client)
            .map_or(0.0, |entry| self.left(entry, now));
        clients.insert(client, (held + 1.0, now));
    }

    fn left(&self, (held, since): &(f64, Moment), now: Moment) -> f64 {
        let passed: Duration = now.since(*since);
        let forgiven = passed.as_secs_f64() * f64::from(self.rules.per_minute) / 60.0;
        (held - forgiven).max(0.0)
    }
}

/// Who sent a request: the peer, or the last hop that no trusted proxy vouches for.
pub fn client_of<'a>(
    peer: IpAddr,
    forwarded: impl Iterator<Item = &'a str>,
    trusted: &[Network],
) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.holds(address));
    let mut client = peer.to_canonical();
    let hops: Vec<&str> = forwarded.flat_map(|line| line.split(',')).collect();
    for hop in hops.iter().rev() {
        if !is_trusted(client) {
            break;
        }
        match hop.trim().parse::<IpAddr>() {
            Ok(address) => client = address.to_canonical(),
            // What cannot be read vouches for nobody.
            Err(_) => break,
        }
    }
    client
}

/// Members that would have the token choose its own key or rules; none is ours to follow.
const CHOOSING_MEMBERS: [&str; 6] = ["jwk", "jku", "x5c", "x5u", "kid", "crit"];

#[derive(Deserialize)]
struct TokenHead {
    alg: String,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Value>,
}

/// RFC 7519 and 7515, HS256 alone; the algorithm is ours and never the token's.
fn is_valid_bearer(header: &str, config: &JwtConfig, now: u64) -> bool {
    let Some((scheme, token)) = header.split_once(' ') else {
        return false;
    };
    scheme.eq_ignore_ascii_case("bearer") && claims_hold(token.trim(), config, now).is_some()
}

fn claims_hold(token: &str, config: &JwtConfig, now: u64) -> Option<()> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (head, claims) = signed.split_once('.')?;
    let mut mac = Hmac::<Sha256>::new_from_slice(config.secret.expose().as_bytes())
        .expect("a key may have any length");
    mac.update(signed.as_bytes());
    mac.verify_slice(&BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?)
        .ok()?;
    let head: TokenHead =
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
    let chooses = CHOOSING_MEMBERS
        .iter()
        .any(|member| head.others.contains_key(*member));
    if head.alg != "HS256" || chooses {
        return None;
    }
    let claims: Claims =
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let now = now as f64;
    let in_time = claims.exp > now && claims.nbf.is_none_or(|since| since <= now);
    let issuer_fits = config.issuer.is_none() || config.issuer == claims.iss;
    let audience_fits = config
        .audience
        .as_ref()
        .is_none_or(|wanted| match claims.aud {
            Some(Value::String(audience)) => audience == *wanted,
            Some(Value::Array(audiences)) => audiences.iter().any(|one| one == wanted.as_str()),
            _ => false,
        });
    (!claims.sub.is_empty() && in_time && issuer_fits && audience_fits).then_some(())
}

/// Compares without telling by its time how much is right.
pub fn is_same_secret(shown: &str, secret: &str) -> bool {
    let mac = |text: &str| {
        // Not as the key: that is filled up with NULs, so that some texts would be alike.
        let mut mac =
            Hmac::<Sha256>::new_from_slice(b"X-Webhook-Secret").expect("a key may have any length");
        mac.update(text.as_bytes());
        mac
    };
    mac(secret)
        .verify_slice(&mac(shown).finalize().into_bytes())
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const CLAIMS: &str = r#"{"sub":"ops","exp":2000,"nbf":1000,"iss":"me","aud":["a","b"]}"#;
    const HEAD: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    fn token(head: &str, claims: &str, secret: &str) -> String {
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", encode(head), encode(claims));
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key may have any length");
        mac.update(signed.as_bytes());
        let signature = BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        format!("Bearer {signed}.{signature}")
    }

    fn is_valid(header: &str, now: u64) -> bool {
        let config = JwtConfig {
            secret: Secret::new(SECRET),
            issuer: Some("me".to_owned()),
            audience: Some("b".to_owned()),
        };
        is_valid_bearer(header, &config, now)
    }

    #[test]
    fn a_token_is_good_in_its_time_and_for_its_audience() {
        let good = token(HEAD, CLAIMS, SECRET);
        assert!(is_valid(&good, 1500) && is_valid(&good.replace("Bearer", "bearer"), 1500));
        assert!(!is_valid(&good, 999) && !is_valid(&good, 2000));
        for (right, wrong) in [
            (r#""sub":"ops""#, r#""sub":"""#),
            (r#""sub":"ops","#, ""),
            (r#""exp":2000,"#, ""),
            (r#""exp":2000"#, r#""exp":"2000""#),
            (r#""iss":"me""#, r#""iss":"you""#),
            (r#"["a","b"]"#, r#""a""#),
            (r#"["a","b"]"#, "7"),
            (r#""exp":2000"#, r#""exp":1,"exp":2000"#),
        ] {
            let claims = CLAIMS.replace(right, wrong);
            assert_ne!(claims, CLAIMS);
            assert!(!is_valid(&token(HEAD, &claims, SECRET), 1500), "{claims}");
        }
        let one = CLAIMS.replace(r#"["a","b"]"#, r#""b""#);
        assert!(is_valid(&token(HEAD, &one, SECRET), 1500));
    }

    #[test]
    fn a_token_does_not_choose_its_algorithm_or_key() {
        for head in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"HS512"}"#,
            r#"{"alg":"hs256"}"#,
            r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AA"}}"#,
            r#"{"alg":"HS256","kid":"../../dev/null"}"#,
            r#"{"alg":"HS256","x5c":[]}"#,
            r#"{"alg":"HS256","crit":["exp"]}"#,
            "{}",
        ] {
            assert!(!is_valid(&token(head, CLAIMS, SECRET), 1500), "{head}");
        }
        assert!(!is_valid(
            &token(HEAD, CLAIMS, "another-key-another-key-another-k"),
            1500
        ));
        let good = token(HEAD, CLAIMS, SECRET);
        let unsigned = &good[..=good.rfind('.').expect("two dots")];
        assert!(!is_valid(unsigned, 1500));
        for other in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer a.b",
            "Basic x",
            "Bearer ....",
        ] {
            assert!(!is_valid(other, 1500), "{other}");
        }
    }

    #[test]
    fn who_fails_waits_and_is_forgiven_by_and_by() {
        let rules = FailedLogins {
            per_minute: 10,
            at_once: 5,
        };
        let failures = Failures::new(rules);
        let client: IpAddr = [10, 0, 0, 1].into();
        let at = |seconds| Moment::from_start(Duration::from_secs(seconds));
        for _ in 0..5 {
            assert!(failures.check(client, at(0)).is_ok());
            failures.failed(client, at(0));
        }
        assert!(failures.check(client, at(5)).is_err());
        assert!(failures.check([10, 0, 0, 2].into(), at(5)).is_ok());
        assert!(failures.check(client, at(6)).is_ok());
    }

    #[test]
    fn only_trusted_proxies_name_a_client() {
        let config = crate::config::Config::from_env([
            ("TRUSTED_PROXIES".to_owned(), "10.0.0.0/8".to_owned()),
            ("CONTROLLER_DB".to_owned(), "db".to_owned()),
            (
                "MAINTENANCE_ISO_URL".to_owned(),
                "http://h/m.iso".to_owned(),
            ),
            ("WEBHOOK_SECRET".to_owned(), "w".to_owned()),
        ]);
        let config = config.expect("it is valid").config;
        let trusted = config.provision.expect("it is on").api.trusted_proxies;
        let client = |peer: &str, lines: &[&str]| {
            client_of(
                peer.parse().expect("an address"),
                lines.iter().copied(),
                &trusted,
            )
            .to_string()
        };
        assert_eq!(client("192.0.2.1", &["1.1.1.1"]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 2.2.2.2"]), "2.2.2.2");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "10.0.0.9"]), "1.1.1.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, rubbish"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn secrets_are_equal_or_not() {
        assert!(is_same_secret("a", "a"));
        assert!(!is_same_secret("a", "b") && !is_same_secret("", "a") && !is_same_secret("a", ""));
    }
}
