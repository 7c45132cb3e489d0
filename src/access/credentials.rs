//! Who may log in: the lines of an htpasswd file, and the one login of the environment.
//!
//! bcrypt alone (`$2a$`, `$2b$`, `$2y$`), since whatever else htpasswd writes can be guessed at
//! the speed of the disk. A line that cannot be used is named by its number: a user who is left
//! out in silence is one who finds out at night.

use std::collections::HashMap;
use std::fmt;

/// The cost at which an unknown user's password is hashed, if no line gives a higher one.
const COST_MIN: u32 = 10;
/// A hash of a higher cost takes many seconds to compare, for unknown users too: it would be a way
/// to stop the server with one line.
const COST_MAX: u32 = 16;

/// A bcrypt hash in its 60-character form.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Takes a hash that [`bcrypt::verify`] can read; everything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        // Checked before the library sees it: some of its versions panicked on odd bytes.
        let is_plain = text.len() == 60 && text.is_ascii();
        let known = ["$2a$", "$2b$", "$2y$"]
            .iter()
            .any(|kind| text.starts_with(kind));
        let is_hash = is_plain && known && text.parse::<bcrypt::HashParts>().is_ok();
        let hash = is_hash.then(|| Self(text.to_owned()))?;
        (hash.cost() <= COST_MAX).then_some(hash)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn cost(&self) -> u32 {
        self.0[4..6].parse().unwrap_or(COST_MIN)
    }

    /// Hashes `password` as expensively as the dearest of `others`, so that the time a login takes
    /// does not tell the users apart.
    pub fn of(password: &str, others: &[(String, PasswordHash)]) -> Option<Self> {
        let cost = others
            .iter()
            .map(|(_, hash)| hash.cost())
            .max()
            .unwrap_or(COST_MIN);
        Self::parse(&bcrypt::hash(password, cost).ok()?)
    }

    /// Whether `password` has this hash. Slow by intent: not for a core's thread.
    pub fn verify(&self, password: &str) -> bool {
        bcrypt::verify(password, &self.0).unwrap_or(false)
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
        let cost = hashes
            .values()
            .map(PasswordHash::cost)
            .max()
            .unwrap_or(COST_MIN);
        // No name leads to it, so it does not matter whose password it is.
        let nobody = bcrypt::hash_with_salt("nobody", cost, [0; 16])
            .ok()
            .and_then(|parts| PasswordHash::parse(&parts.to_string()))
            .expect("the cost is that of a valid hash");
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
        let hash = PasswordHash::parse(hash).ok_or_else(|| {
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
