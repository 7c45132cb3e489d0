//! Logging in and out: a session where the BMC has them, else the password with every request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::document::link;
use super::http::{Answer, Proof};
use super::origin::{Link, Origin};

/// A BMC's token is shorter.
const TOKEN_BYTES_MAX: usize = 4096;

/// Who logs in.
#[derive(Clone)]
pub struct Login {
    user: String,
    password: String,
}

/// A session that is open.
#[derive(Debug)]
pub struct Session {
    pub token: String,
    /// Where it is closed.
    pub link: Option<Link>,
}

impl Login {
    pub fn new(user: &str, password: &str) -> Login {
        Login {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    pub fn basic(&self) -> Proof {
        let pair = format!("{}:{}", self.user, self.password);
        Proof::Basic(format!("Basic {}", BASE64.encode(pair)))
    }

    pub fn password(&self) -> &str {
        &self.password
    }

    pub fn body(&self) -> Value {
        json!({"UserName": self.user, "Password": self.password})
    }
}

/// Where sessions are opened, from the service root; `None`: the BMC names no such place.
pub fn place(root: &Value, origin: &Origin) -> Option<Link> {
    let named = link(root, &["Links", "Sessions"]).and_then(|text| origin.link(text).ok());
    let service = || link(root, &["SessionService"]).and_then(|text| origin.link(text).ok());
    named.or_else(|| Some(service()?.below("Sessions")))
}

/// The session that an answer brings.
pub fn opened(answer: &Answer, origin: &Origin) -> Option<Session> {
    if !(200..300).contains(&answer.status) {
        return None;
    }
    let sound = |token: &&String| {
        let visible = token.bytes().all(|byte| (0x21..0x7f).contains(&byte));
        visible && !token.is_empty() && token.len() <= TOKEN_BYTES_MAX
    };
    let token = answer.token.as_ref().filter(sound)?.clone();
    let in_body = answer.body.as_ref().ok();
    let link = answer
        .location
        .as_deref()
        .or_else(|| in_body.and_then(|body| body.get("@odata.id")?.as_str()))
        .and_then(|text| origin.link(text).ok());
    Some(Session { token, link })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, token: Option<&str>, location: Option<&str>) -> Answer {
        Answer {
            status,
            tag: None,
            location: location.map(str::to_owned),
            token: token.map(str::to_owned),
            retry_after: None,
            body: Ok(Value::Null),
        }
    }

    #[test]
    fn sessions_are_opened_where_the_root_says() {
        let origin = Origin::parse("https://bmc").unwrap();
        let at = |root: Value| place(&root, &origin).map(|link| link.to_string());
        let named = json!({"Links": {"Sessions": {"@odata.id": "/s"}}, "SessionService": {"@odata.id": "/x"}});
        assert_eq!(at(named).as_deref(), Some("/s"));
        let service = json!({"SessionService": {"@odata.id": "/x/"}});
        assert_eq!(at(service).as_deref(), Some("/x/Sessions"));
        assert_eq!(at(json!({})), None);
        let foreign = json!({"Links": {"Sessions": {"@odata.id": "https://evil/s"}}});
        assert_eq!(at(foreign), None);
    }

    #[test]
    fn a_session_has_a_token_that_can_be_sent() {
        let origin = Origin::parse("https://bmc").unwrap();
        let session = opened(&answer(201, Some("t"), Some("https://bmc/s/1")), &origin).unwrap();
        assert_eq!(session.token, "t");
        assert_eq!(session.link.unwrap().as_str(), "/s/1");
        let foreign = opened(&answer(201, Some("t"), Some("https://evil/s")), &origin).unwrap();
        assert!(foreign.link.is_none());
        let long = "t".repeat(TOKEN_BYTES_MAX + 1);
        for (status, token) in [
            (201, None),
            (201, Some("a b")),
            (400, Some("t")),
            (201, Some(&long[..])),
        ] {
            assert!(opened(&answer(status, token, None), &origin).is_none());
        }
    }
}
