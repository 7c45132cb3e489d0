//! Who may log in: the lines of an htpasswd file, and the one login of the environment.
//!
//! bcrypt (`$2a$`, `$2b$`, `$2y$`), in the environment argon2id as well, since whatever else
//! htpasswd writes can be guessed at the speed of the disk. A line that cannot be used is named by its number: a user who is left
//! out in silence is one who finds out at night.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::argon2id::Argon2id;

/// The cost at which an unknown user's password is hashed, if no line gives a higher one.
const COST_MIN: u32 = 10;
/// A hash of a higher cost takes many seconds to compare, for unknown users too: it would be a way
/// to stop the server with one line.
const COST_MAX: u32 = 16;

/// A hash of a password.
#[derive(Clone)]
pub struct PasswordHash {
    text: String,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// In its 60-character form.
    Bcrypt {
        cost: u32,
    },
    Argon2id(Arc<Argon2id>),
}

impl PasswordHash {
    /// Takes a bcrypt or an argon2id hash that can be compared in a bounded time.
    pub fn parse(text: &str) -> Option<Self> {
        let argon2id = Argon2id::parse(text).map(|hash| Self {
            text: text.to_owned(),
            kind: Kind::Argon2id(Arc::new(hash)),
        });
        argon2id.or_else(|| Self::parse_bcrypt(text))
    }

    /// Takes a hash that [`bcrypt::verify`] can read; everything else is `None`.
    pub fn parse_bcrypt(text: &str) -> Option<Self> {
        // Checked before the library sees it: some of its versions panicked on odd bytes.
        let is_plain = text.len() == 60 && text.is_ascii();
        let known = ["$2a$", "$2b$", "$2y$"]
            .iter()
            .any(|kind| text.starts_with(kind));
        let is_hash = is_plain && known && text.parse::<bcrypt::HashParts>().is_ok();
        if !is_hash {
            return None;
        }
        let cost = text[4..6].parse().ok().filter(|cost| *cost <= COST_MAX)?;
        Some(Self {
            text: text.to_owned(),
            kind: Kind::Bcrypt { cost },
        })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Of two of one kind, the dearer takes longer to compare; argon2id counts as the dearer kind.
    fn expense(&self) -> (u64, u64) {
        match &self.kind {
            Kind::Bcrypt { cost } => (0, u64::from(*cost)),
            Kind::Argon2id(hash) => (1, hash.work_kib()),
        }
    }

    /// A hash that no password has, as slow to compare as this one.
    fn of_nobody(&self) -> Option<Self> {
        match &self.kind {
            Kind::Bcrypt { cost } => Self::bcrypt_of_nobody(*cost),
            Kind::Argon2id(hash) => Self::parse(&hash.of_nobody()),
        }
    }

    fn bcrypt_of_nobody(cost: u32) -> Option<Self> {
        // No name leads to it, so it does not matter whose password it is.
        let parts = bcrypt::hash_with_salt("nobody", cost, [0; 16]).ok()?;
        Self::parse_bcrypt(&parts.to_string())
    }

    /// Hashes `password` by bcrypt as expensively as the dearest of `others`, so that the time a login
    /// takes does not tell the users apart.
    pub fn of(password: &str, others: &[(String, PasswordHash)]) -> Option<Self> {
        let costs = others.iter().filter_map(|(_, hash)| match hash.kind {
            Kind::Bcrypt { cost } => Some(cost),
            Kind::Argon2id(_) => None,
        });
        let cost = costs.max().unwrap_or(COST_MIN);
        Self::parse_bcrypt(&bcrypt::hash(password, cost).ok()?)
    }

    /// Whether `password` has this hash. Slow by intent: not for a core's thread.
    pub fn verify(&self, password: &str) -> bool {
        match &self.kind {
            Kind::Bcrypt { .. } => bcrypt::verify(password, &self.text).unwrap_or(false),
            Kind::Argon2id(hash) => hash.verify(password),
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PasswordHash(..)")
    }
}

/// Users and their hashes.
#[derive(Debug, Clone)]
pub struct Users {
    hashes: HashMap<String, PasswordHash>,
    /// What the password of an unknown user is compared to, so that it takes as long.
    nobody: PasswordHash,
}

impl Users {
    pub fn new(users: impl IntoIterator<Item = (String, PasswordHash)>) -> Self {
        let hashes: HashMap<_, _> = users.into_iter().collect();
        let dearest = hashes.values().max_by_key(|hash| hash.expense());
        let nobody = match dearest {
            Some(dearest) => dearest.of_nobody(),
            None => PasswordHash::bcrypt_of_nobody(COST_MIN),
        };
        let nobody = nobody.expect("the cost is that of a valid hash");
        Self { hashes, nobody }
    }

    /// The hash to compare with, and whether a match would mean anything.
    pub fn hash_of(&self, user: &str) -> (&PasswordHash, bool) {
        match self.hashes.get(user) {
            Some(hash) => (hash, true),
            None => (&self.nobody, false),
        }
    }
}

/// A line of an htpasswd file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    pub line: usize,
    pub problem: &'static str,
}

impl fmt::Display for LineError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: {}", self.line, self.problem)
    }
}

/// Reads an htpasswd file. The last line of a user counts.
pub fn parse_htpasswd(text: &str) -> Result<Vec<(String, PasswordHash)>, LineError> {
    let mut users = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let problem = |problem| LineError {
            line: index + 1,
            problem,
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (user, hash) = line
            .split_once(':')
            .ok_or_else(|| problem("expected <user>:<bcrypt hash>"))?;
        if user.is_empty() {
            return Err(problem("the user's name is missing before the colon"));
        }
        let hash = PasswordHash::parse_bcrypt(hash).ok_or_else(|| {
            problem(
                "not a bcrypt hash ($2a$, $2b$ or $2y$) of cost 16 or less: make it with htpasswd -B",
            )
        })?;
        users.push((user.to_owned(), hash));
    }
    Ok(users)
}

/// The user and password of a `Basic` header; `None` if it is none.
pub fn parse_basic(header: &str) -> Option<(String, String)> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(password: &str) -> String {
        bcrypt::hash(password, 4).expect("cost 4 is allowed")
    }

    #[test]
    fn a_file_as_htpasswd_writes_it_is_read() {
        let file = format!(
            "# staff\n\nadmin:{}\n",
            hash("secret").replacen("$2b$", "$2y$", 1)
        );
        let users = Users::new(parse_htpasswd(&file).expect("it is valid"));
        let (found, known) = users.hash_of("admin");
        assert!(known && found.verify("secret") && !found.verify("Secret"));
        assert!(!users.hash_of("root").1);
    }

    #[test]
    fn a_line_that_cannot_be_used_is_named_and_never_panics() {
        let bad = ["admin", ":x", "a:$apr1$x$y", "a:{SHA}abc", "a:plain"];
        let dear = format!("a:$2b$31${}", "a".repeat(53));
        for line in bad.into_iter().chain([dear.as_str()]) {
            let text = format!("# one\n{line}\n");
            assert_eq!(parse_htpasswd(&text).expect_err(line).line, 2);
        }
        // 60 bytes, some of them of many-byte characters.
        let odd = format!("a:$2b$04$é{}", "x".repeat(51));
        assert_eq!(parse_htpasswd(&odd).expect_err("not ASCII").line, 1);
    }

    #[test]
    fn an_unknown_user_s_password_costs_what_the_dearest_known_one_s_does() {
        let argon2id =
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        let expense = |hashes: &[&str]| {
            let users = hashes.iter().enumerate().map(|(index, hash)| {
                let hash = PasswordHash::parse(hash).expect("it is one");
                (index.to_string(), hash)
            });
            let users = Users::new(users);
            let (nobody, known) = users.hash_of("somebody else");
            assert!(!known && !nobody.verify("password"));
            nobody.expense()
        };
        let bcrypt = hash("password");
        assert_eq!(expense(&[&bcrypt]), (0, 4));
        assert_eq!(expense(&[&bcrypt, argon2id]), (1, 512));
        assert_eq!(expense(&[]), (0, 10));
        let line = format!("a:{argon2id}");
        assert_eq!(parse_htpasswd(&line).expect_err("bcrypt alone").line, 1);
    }

    #[test]
    fn a_basic_header_is_read_whatever_its_case() {
        let known = Some(("admin".to_owned(), "a:b".to_owned()));
        assert_eq!(parse_basic("Basic YWRtaW46YTpi"), known);
        assert_eq!(parse_basic("basic YWRtaW46YTpi"), known);
        assert_eq!(
            parse_basic("Basic Og=="),
            Some((String::new(), String::new()))
        );
        for bad in ["Basic", "Bearer abc", "Basic !!!", "Basic YWRtaW4="] {
            assert_eq!(parse_basic(bad), None, "{bad}");
        }
    }
}
