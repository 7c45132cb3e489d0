//! `Credentials`: the name and password for one registry, from where they are kept.
//!
//! A password is never an argument, which every user of the machine could read in the list of
//! processes. Reads files and is told the environment; the decision which login is meant is pure.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;

use super::source::Source;

/// What goes into `Authorization`. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

/// Where the command line and the environment say that credentials are.
#[derive(Debug, Default, Clone)]
pub struct Places {
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    /// `PULL_PASSWORD`.
    pub password: Option<String>,
    /// `--auth-file` or `REGISTRY_AUTH_FILE`: it has to be there.
    pub auth_file: Option<PathBuf>,
    /// Where podman and docker keep logins: it may be there.
    pub usual_auth_files: Vec<PathBuf>,
}

/// Why the credentials cannot be had.
#[derive(Debug)]
pub enum CredentialsError {
    /// One half without the other.
    Half {
        there: &'static str,
        wanted: &'static str,
    },
    /// It would end at the colon.
    ColonInName,
    Unreadable {
        path: PathBuf,
        source: io::Error,
    },
    /// Not the format of podman and docker; the reason holds nothing of the content.
    Malformed {
        path: PathBuf,
        reason: String,
    },
}

impl Credentials {
    /// The credentials for `source`, if there are any.
    pub fn find(places: &Places, source: &Source) -> Result<Option<Credentials>, CredentialsError> {
        if let Some(user) = &places.username {
            let password = places.read_password()?;
            return Credentials::new(user, &password).map(Some);
        }
        if places.password_file.is_some() {
            return Err(CredentialsError::Half {
                there: "--password-file",
                wanted: "--username",
            });
        }
        if let Some(path) = &places.auth_file {
            return from_file(path, &read(path)?, source);
        }
        for path in &places.usual_auth_files {
            match fs::read_to_string(path) {
                Ok(text) => {
                    if let Some(found) = from_file(path, &text, source)? {
                        return Ok(Some(found));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(CredentialsError::Unreadable {
                        path: path.clone(),
                        source: error,
                    });
                }
            }
        }
        Ok(None)
    }

    fn new(user: &str, password: &str) -> Result<Credentials, CredentialsError> {
        if user.contains(':') {
            return Err(CredentialsError::ColonInName);
        }
        Ok(Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// The value of `Authorization`.
    pub fn header(&self) -> String {
        let text = format!("{}:{}", self.user, self.password);
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        format!("Basic {encoded}")
    }
}

impl Places {
    fn read_password(&self) -> Result<String, CredentialsError> {
        match (&self.password_file, &self.password) {
            // As editors and `echo` leave it: one line end is not part of the password.
            (Some(path), _) => {
                let text = read(path)?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
            }
            (None, Some(password)) => Ok(password.clone()),
            (None, None) => Err(CredentialsError::Half {
                there: "--username",
                wanted: "--password-file or PULL_PASSWORD",
            }),
        }
    }
}

fn read(path: &Path) -> Result<String, CredentialsError> {
    fs::read_to_string(path).map_err(|source| CredentialsError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Login>,
}

#[derive(Deserialize)]
struct Login {
    auth: Option<String>,
}

/// The login for `source` in the text of a file: that of the longest name which leads to the
/// repository, as podman has it.
fn from_file(
    path: &Path,
    text: &str,
    source: &Source,
) -> Result<Option<Credentials>, CredentialsError> {
    let malformed = |reason: String| CredentialsError::Malformed {
        path: path.to_owned(),
        reason,
    };
    let file: AuthFile = serde_json::from_str(text).map_err(|error| {
        // Not serde's own words: they quote, and what they quote may be a password.
        malformed(format!(
            "expected JSON with the member \"auths\" (line {}, column {})",
            error.line(),
            error.column()
        ))
    })?;
    let whole = format!("{}/{}", source.host, source.repository);
    let fits = file
        .auths
        .iter()
        .filter(|(name, login)| login.auth.is_some() && leads_to(name, &whole));
    let Some((name, login)) = fits.max_by_key(|(name, _)| bare(name).len()) else {
        return Ok(None);
    };
    let encoded = login.auth.as_deref().unwrap_or_default();
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
    let text = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = text.as_deref().and_then(|text| text.split_once(':'));
    match pair {
        Some((user, password)) => Credentials::new(user, password).map(Some),
        None => Err(malformed(format!(
            "\"auth\" of {name:?} must be the base64 of name:password"
        ))),
    }
}

/// Docker writes `https://host/v1/` for some registries.
fn bare(name: &str) -> &str {
    let name = name
        .strip_prefix("https://")
        .or(name.strip_prefix("http://"))
        .unwrap_or(name);
    name.trim_end_matches('/')
        .trim_end_matches("/v1")
        .trim_end_matches("/v2")
}

fn leads_to(name: &str, whole: &str) -> bool {
    whole
        .strip_prefix(bare(name))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?})", self.user)
    }
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialsError::Half { there, wanted } => {
                write!(f, "{there} is given without {wanted}")
            }
            CredentialsError::ColonInName => {
                f.write_str("--username holds a colon, which ends a name in HTTP")
            }
            CredentialsError::Unreadable { path, source } => {
                write!(f, "{}: {source}", path.display())
            }
            CredentialsError::Malformed { path, reason } => {
                write!(f, "{}: {reason}", path.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, source: &str) -> Result<Option<String>, String> {
        let source = Source::parse(source).unwrap();
        from_file(Path::new("auth.json"), text, &source)
            .map(|found| found.map(|it| format!("{}:{}", it.user, it.password)))
            .map_err(|error| error.to_string())
    }

    const FILE: &str = r#"{"auths": {
        "r.example:8080": {"auth": "YTpvbmU="},
        "r.example:8080/os": {"auth": "YTp0d286Yg=="},
        "https://d.example/v1/": {"auth": "YTp0aHJlZQ=="},
        "helper.example": {}
    }, "credsStore": "x"}"#;

    #[test]
    fn the_login_of_the_longest_name_that_leads_there_is_taken() {
        let is = |source: &str, wanted: Option<&str>| {
            assert_eq!(found(FILE, source).unwrap().as_deref(), wanted, "{source}");
        };
        is("r.example:8080/tools/a", Some("a:one"));
        is("r.example:8080/os/ubuntu:v1", Some("a:two:b"));
        is("r.example:8080/os-images/a", Some("a:one"));
        is("d.example/a", Some("a:three"));
        is("r.example:80/a", None);
        is("helper.example/a", None);
    }

    #[test]
    fn a_file_that_is_none_is_named_and_not_quoted() {
        let refused = found(r#"{"auths": {"r.example": "hunter2"}}"#, "r.example/a").unwrap_err();
        assert!(
            refused.contains("auth.json") && !refused.contains("hunter2"),
            "{refused}"
        );
        let refused = found(
            r#"{"auths": {"r.example": {"auth": "hunter2"}}}"#,
            "r.example/a",
        );
        let refused = refused.unwrap_err();
        assert!(
            refused.contains("r.example") && !refused.contains("hunter2"),
            "{refused}"
        );
    }

    #[test]
    fn half_a_login_is_an_error_and_none_is_none() {
        let source = Source::parse("r.example/a").unwrap();
        let find = |places: Places| Credentials::find(&places, &source);
        assert!(find(Places::default()).unwrap().is_none());
        let name_alone = Places {
            username: Some("a".into()),
            ..Places::default()
        };
        assert!(find(name_alone).is_err());
        let file_alone = Places {
            password_file: Some("/nowhere".into()),
            ..Places::default()
        };
        assert!(find(file_alone).is_err());
        let with_colon = Places {
            username: Some("a:b".into()),
            password: Some("c".into()),
            ..Places::default()
        };
        assert!(find(with_colon).is_err());
        let absent = Places {
            auth_file: Some("/nowhere/auth.json".into()),
            ..Places::default()
        };
        assert!(find(absent).is_err());
        let both = Places {
            username: Some("a".into()),
            password: Some("b".into()),
            ..Places::default()
        };
        assert_eq!(find(both).unwrap().unwrap().header(), "Basic YTpi");
    }
}
