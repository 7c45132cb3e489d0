//! Who may do what: credentials in, a [`Grant`] or a refusal out.
//!
//! A right password costs a bcrypt or argon2id once; after that a keyed hash of it is known. The slow part
//! is a value ([`Pending`]) that the caller runs off the cores. Nothing here logs a header or a
//! password.

mod argon2id;
mod credentials;
mod throttle;
mod verified;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_lock::{Semaphore, SemaphoreGuard};
use bytes::Bytes;
use http::StatusCode;

use crate::config::{AccessConfig, BasicLogin, BasicSecret};
use crate::io::uring::{self, Stamp};
use crate::io::{Io, system_moment};
use credentials::{LineError, PasswordHash, Users, parse_basic, parse_htpasswd};
use throttle::Throttle;
use verified::{Fingerprint, Key, Verified};

const HTPASSWD_BYTES_MAX: usize = 16 << 20;
/// Passwords compared at a time; see [`Access::turn`].
const COMPARISONS_MAX: usize = 2;
const CHALLENGE: &str = r#"Basic realm="Shoal Registry""#;

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Ask whether this is a registry, and whether it wants a login.
    Ping,
    /// See the names of all repositories.
    Catalog,
    Pull,
    Push,
    Delete,
    /// What changes no content a client names, and all of the storage.
    Administer,
}

/// The right to do what was asked; made here and nowhere else.
#[derive(Debug)]
pub struct Grant {
    user: Option<String>,
}

impl Grant {
    /// Who was granted it; `None` for somebody unnamed.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    Granted(Grant),
    Refused(Refusal),
    /// The password has not been seen before: wait for a [`turn`](Access::turn), ask again, and
    /// if it still has not, run [`Pending::verify`] off the cores, then [`Access::complete`].
    Pending(Pending),
}

/// Why not, as it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 401: a login is wanted, or the one given is wrong.
    LoginWanted,
    /// 429: too many wrong ones.
    TooManyFailures { wait: Duration },
}

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Refusal::LoginWanted => StatusCode::UNAUTHORIZED,
            Refusal::TooManyFailures { .. } => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    pub fn headers(&self) -> Vec<(&'static str, String)> {
        match self {
            Refusal::LoginWanted => vec![("WWW-Authenticate", CHALLENGE.to_owned())],
            Refusal::TooManyFailures { wait } => {
                vec![("Retry-After", (wait.as_secs() + 1).to_string())]
            }
        }
    }

    pub fn body(&self) -> Bytes {
        Bytes::from_static(match self {
            Refusal::LoginWanted => {
                br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#
            }
            Refusal::TooManyFailures { .. } => {
                br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"too many failed logins"}]}"#
            }
        })
    }
}

/// A password still to be compared.
pub struct Pending {
    user: String,
    password: String,
    stored: PasswordHash,
    is_known: bool,
    fingerprint: Fingerprint,
}

impl fmt::Debug for Pending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pending")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Pending {
    /// Compares; takes as long as the hash is meant to, for unknown users too.
    pub fn verify(self) -> Verdict {
        let matches = self.stored.verify(&self.password);
        let right = (matches && self.is_known).then_some(self.fingerprint);
        Verdict {
            user: self.user,
            is_known: self.is_known,
            right,
        }
    }
}

/// What a comparison came to.
pub struct Verdict {
    user: String,
    is_known: bool,
    right: Option<Fingerprint>,
}

/// Why the users could not be read.
#[derive(Debug)]
pub enum AccessError {
    Unreadable { path: PathBuf, source: io::Error },
    Line { path: PathBuf, error: LineError },
    Hash,
}

impl fmt::Display for AccessError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccessError::Unreadable { path, source } => {
                write!(
                    formatter,
                    "REGISTRY_HTPASSWD_FILE={}: {source}",
                    path.display()
                )
            }
            AccessError::Line { path, error } => {
                write!(
                    formatter,
                    "REGISTRY_HTPASSWD_FILE={}: {error}",
                    path.display()
                )
            }
            AccessError::Hash => write!(
                formatter,
                "BASIC_PASS_HASH: expected a bcrypt hash ($2a$, $2b$ or $2y$) of cost 16 or less, as \
                 htpasswd -B makes it, or an argon2id hash ($argon2id$v=19$m=…,t=…,p=…$…$…) of at \
                 most 256 MiB (m=262144), m times t at most 2097152, and 16 lanes"
            ),
        }
    }
}

impl std::error::Error for AccessError {}

/// The one who decides; shared by all cores.
pub struct Access {
    /// `None`: everybody may do everything.
    login: Option<Login>,
}

impl Access {
    /// Reads the users. `key` is random and for this process alone.
    pub fn open(config: AccessConfig, key: [u8; 32]) -> Result<Self, AccessError> {
        let login = match config {
            AccessConfig::Open => None,
            AccessConfig::Login {
                basic,
                htpasswd_file,
                anonymous_pull,
            } => {
                let source = Source {
                    basic,
                    htpasswd_file,
                };
                let (users, stamp) = source.read()?;
                let state = State {
                    users: Arc::new(users),
                    stamp,
                    verified: Verified::default(),
                    throttle: Throttle::default(),
                };
                Some(Login {
                    source,
                    anonymous_pull,
                    key: Key::new(key),
                    comparisons: Semaphore::new(COMPARISONS_MAX),
                    state: Mutex::new(state),
                })
            }
        };
        Ok(Self { login })
    }

    /// Decides, comparing a password off the core where one has to be compared.
    pub async fn admit<I: Io>(
        &self,
        io: &I,
        header: Option<&str>,
        permission: Permission,
        client: IpAddr,
    ) -> Result<Grant, Refusal> {
        let mut decision = self.authorize(header, permission, client);
        let mut _turn = None;
        if let Decision::Pending(_) = decision {
            _turn = Some(self.turn().await);
            decision = self.authorize(header, permission, client);
        }
        match decision {
            Decision::Granted(grant) => Ok(grant),
            Decision::Refused(refusal) => Err(refusal),
            Decision::Pending(pending) => {
                let verdict = io.offload(move || pending.verify()).await;
                self.complete(verdict, client)
            }
        }
    }

    /// Decides by the `Authorization` header, as far as that costs nothing.
    pub fn authorize(
        &self,
        header: Option<&str>,
        permission: Permission,
        client: IpAddr,
    ) -> Decision {
        match &self.login {
            None => Decision::Granted(Grant { user: None }),
            Some(login) => login.authorize(header, permission, client),
        }
    }

    /// Waits until a password may be compared, in the order of asking.
    ///
    /// Passwords that come all at once would otherwise all be compared before the first of them
    /// has counted: a guesser's, however many, and those of a hundred nodes that start together
    /// with one login.
    pub async fn turn(&self) -> Option<SemaphoreGuard<'_>> {
        match &self.login {
            None => None,
            Some(login) => Some(login.comparisons.acquire().await),
        }
    }

    /// Decides by what the comparison came to.
    pub fn complete(&self, verdict: Verdict, client: IpAddr) -> Result<Grant, Refusal> {
        match &self.login {
            None => Ok(Grant { user: None }),
            Some(login) => login.complete(verdict, client),
        }
    }

    /// Takes a changed file up; one that cannot be read leaves the users as they are. Blocks.
    pub fn reload_if_changed(&self) {
        if let Some(login) = &self.login {
            login.reload_if_changed();
        }
    }
}

/// What is known where a login is wanted.
struct Login {
    source: Source,
    /// Pull without login; all else still asks for one, the ping too.
    anonymous_pull: bool,
    key: Key,
    comparisons: Semaphore,
    /// Held for a look-up, never while something is hashed.
    state: Mutex<State>,
}

struct State {
    users: Arc<Users>,
    stamp: Option<Stamp>,
    verified: Verified,
    throttle: Throttle,
}

impl Login {
    fn authorize(&self, header: Option<&str>, permission: Permission, client: IpAddr) -> Decision {
        let credentials = header.and_then(parse_basic);
        let is_anonymous = match &credentials {
            None => header.is_none(),
            Some((user, password)) => user.is_empty() && password.is_empty(),
        };
        if is_anonymous && permission == Permission::Pull && self.anonymous_pull {
            return Decision::Granted(Grant { user: None });
        }
        let Some((user, password)) = credentials.filter(|_| !is_anonymous) else {
            return Decision::Refused(Refusal::LoginWanted);
        };
        let users = self.lock().users.clone();
        let (stored, is_known) = users.hash_of(&user);
        let fingerprint = self.key.fingerprint(&user, &password, stored);
        let state = self.lock();
        if is_known && state.verified.knows(&fingerprint) {
            return Decision::Granted(Grant { user: Some(user) });
        }
        if let Some(wait) = state.throttle.wait_of(client, system_moment()) {
            return Decision::Refused(Refusal::TooManyFailures { wait });
        }
        let stored = stored.clone();
        Decision::Pending(Pending {
            user,
            password,
            stored,
            is_known,
            fingerprint,
        })
    }

    fn complete(&self, verdict: Verdict, client: IpAddr) -> Result<Grant, Refusal> {
        let mut state = self.lock();
        match verdict.right {
            Some(fingerprint) => {
                state.verified.keep(fingerprint);
                state.throttle.succeeded(client);
                Ok(Grant {
                    user: Some(verdict.user),
                })
            }
            None => {
                state.throttle.failed(client, system_moment());
                drop(state);
                // A name nobody has may be a password typed into the wrong field.
                let user = if verdict.is_known {
                    verdict.user.as_str()
                } else {
                    "(unknown)"
                };
                tracing::warn!(user, %client, "auth: authentication failed");
                Err(Refusal::LoginWanted)
            }
        }
    }

    fn reload_if_changed(&self) {
        let Some(path) = &self.source.htpasswd_file else {
            return;
        };
        // `None` stands for a file that is gone: it is noted, and the users stay.
        let stamp = uring::stamp(path).ok();
        if self.lock().stamp == stamp {
            return;
        }
        match self.source.read() {
            Ok((users, stamp)) => {
                let mut state = self.lock();
                state.users = Arc::new(users);
                state.stamp = stamp;
                state.verified.forget_all();
                tracing::info!("auth: the password file was read again");
            }
            Err(error) => {
                // Noted as seen, so that it is said once and not every second.
                self.lock().stamp = stamp;
                tracing::error!(%error, "auth: the password file has changed and is not used");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the users come from.
struct Source {
    basic: Option<BasicLogin>,
    htpasswd_file: Option<PathBuf>,
}

impl Source {
    fn read(&self) -> Result<(Users, Option<Stamp>), AccessError> {
        let mut users = Vec::new();
        let mut found = None;
        if let Some(path) = &self.htpasswd_file {
            let unreadable = |source| AccessError::Unreadable {
                path: path.clone(),
                source,
            };
            found = Some(uring::stamp(path).map_err(unreadable)?);
            let content = uring::read_small(path, HTPASSWD_BYTES_MAX).map_err(unreadable)?;
            let lines = parse_htpasswd(&String::from_utf8_lossy(&content));
            users = lines.map_err(|error| AccessError::Line {
                path: path.clone(),
                error,
            })?;
        }
        if let Some(login) = &self.basic {
            let hash = match &login.secret {
                BasicSecret::Hash(hash) => PasswordHash::parse(hash.expose()),
                BasicSecret::Password(password) => PasswordHash::of(password.expose(), &users),
            };
            users.push((login.user.clone(), hash.ok_or(AccessError::Hash)?));
        }
        Ok((Users::new(users), found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const ADMIN: &str = "Basic YWRtaW46c2VjcmV0"; // admin:secret
    const WRONG: &str = "Basic YWRtaW46d3Jvbmc="; // admin:wrong
    const ROOT: &str = "Basic cm9vdDpzZWNyZXQ="; // root:secret

    fn access(anonymous_pull: bool) -> Access {
        let hash = bcrypt::hash("secret", 4).expect("cost 4 is allowed");
        let basic = Some(BasicLogin {
            user: "admin".to_owned(),
            secret: BasicSecret::Hash(Secret::new(hash)),
        });
        let config = AccessConfig::Login {
            basic,
            htpasswd_file: None,
            anonymous_pull,
        };
        Access::open(config, [1; 32]).expect("the hash is valid")
    }

    fn client() -> IpAddr {
        [127, 0, 0, 1].into()
    }

    fn is_granted(access: &Access, header: Option<&str>, permission: Permission) -> bool {
        match access.authorize(header, permission, client()) {
            Decision::Granted(_) => true,
            Decision::Refused(_) => false,
            Decision::Pending(pending) => access.complete(pending.verify(), client()).is_ok(),
        }
    }

    #[test]
    fn the_right_password_is_verified_once_and_known_from_then_on() {
        let access = access(false);
        let first = access.authorize(Some(ADMIN), Permission::Push, client());
        assert!(matches!(first, Decision::Pending(_)));
        assert!(is_granted(&access, Some(ADMIN), Permission::Push));
        let second = access.authorize(Some(ADMIN), Permission::Push, client());
        assert!(matches!(second, Decision::Granted(grant) if grant.user() == Some("admin")));
    }

    #[test]
    fn wrong_unknown_and_missing_credentials_are_refused() {
        let access = access(false);
        for header in [
            None,
            Some(WRONG),
            Some(ROOT),
            Some("Basic Og=="),
            Some("Bearer x"),
        ] {
            for permission in [Permission::Ping, Permission::Pull, Permission::Push] {
                assert!(
                    !is_granted(&access, header, permission),
                    "{header:?} {permission:?}"
                );
            }
        }
    }

    #[test]
    fn anonymous_pull_is_for_pulling_alone() {
        let access = access(true);
        for header in [None, Some("Basic Og==")] {
            assert!(is_granted(&access, header, Permission::Pull));
            assert!(!is_granted(&access, header, Permission::Ping));
            assert!(!is_granted(&access, header, Permission::Catalog));
            assert!(!is_granted(&access, header, Permission::Push));
        }
        assert!(!is_granted(&access, Some(WRONG), Permission::Pull));
    }

    #[test]
    fn a_guesser_is_told_to_wait_and_a_known_login_still_works() {
        let access = access(false);
        assert!(is_granted(&access, Some(ADMIN), Permission::Pull));
        for _ in 0..20 {
            assert!(!is_granted(&access, Some(WRONG), Permission::Pull));
        }
        let refused = access.authorize(Some(WRONG), Permission::Pull, client());
        assert!(matches!(
            refused,
            Decision::Refused(Refusal::TooManyFailures { .. })
        ));
        assert!(is_granted(&access, Some(ADMIN), Permission::Pull));
    }
}
