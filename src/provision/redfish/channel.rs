//! The way to one BMC: logged in, patient within its time, and everything odd noted.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, TryRecvError};
use serde_json::Value;

use super::boot;
use super::discretion::Discretion;
use super::document::{MEMBERS_MAX, at, links, shown};
use super::http::{Answer, Ask, Http, Proof, Silence};
use super::meter::{Asked, Meter, Op, Unmetered};
use super::note::Note;
use super::origin::{Link, Origin};
use super::refusal;
use super::retry::{self, Next, Outcome, Patience};
use super::session::{self, Login, Session};
use super::vendor::{self, Habits};
use crate::config::RedfishConfig;
use crate::provision::bmc::{BmcError, BmcNote};

/// A BMC that is sent from place to place more often does not know where it is.
const REDIRECTS_MAX: u32 = 3;
/// Notes kept until somebody takes them.
const NOTES_MAX: usize = 64;
/// The longest pause between two looks at what a request should have brought about.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Closing a session is a courtesy.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(5);

/// Why an exchange came to nothing.
#[derive(Debug)]
pub enum Trouble {
    /// It may have been carried out.
    AnswerLost(String),
    Failed(BmcError),
}

/// How the BMC knows us.
enum Standing {
    Stranger,
    Guest(Session),
    /// By the password in every request.
    Basic,
}

pub struct Channel {
    http: Http,
    origin: Origin,
    login: Login,
    standing: Standing,
    pub habits: &'static Habits,
    settings: RedfishConfig,
    /// How long one call of a job may take, with all its requests and pauses.
    call_time_max: Duration,
    deadline: Instant,
    /// Disconnected when the program is to stop.
    stop: Receiver<()>,
    notes: Vec<BmcNote>,
    discretion: Discretion,
    pub meter: Arc<dyn Meter>,
    /// What the requests are part of.
    op: Op,
}

impl Channel {
    pub fn new(
        origin: Origin,
        login: Login,
        settings: &RedfishConfig,
        call_time_max: Duration,
        stop: Receiver<()>,
    ) -> Channel {
        let mut discretion = Discretion::default();
        discretion.keep(login.password());
        if let Proof::Basic(value) = login.basic() {
            discretion.keep(value.trim_start_matches("Basic "));
        }
        Channel {
            http: Http::new(origin.clone(), settings.insecure_tls),
            origin,
            login,
            standing: Standing::Stranger,
            habits: &vendor::STANDARD,
            settings: settings.clone(),
            call_time_max,
            deadline: Instant::now() + call_time_max,
            stop,
            notes: Vec::new(),
            discretion,
            meter: Arc::new(Unmetered),
            op: Op::Discover,
        }
    }

    /// From here on the time of a call runs.
    pub fn begin_call(&mut self, op: Op) {
        self.op = op;
        self.deadline = Instant::now() + self.call_time_max;
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub fn retries(&self) -> u32 {
        self.settings.retries.max(self.habits.retries_min)
    }

    pub fn note(&mut self, note: Note) {
        let note = note.into();
        if self.notes.len() < NOTES_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// What is odd about the way itself.
    pub fn note_connection(&mut self) {
        if !self.origin.is_https() {
            self.note(Note::PlainHttp);
        } else if self.settings.insecure_tls {
            self.note(Note::NotVerified);
        }
    }

    pub fn take_notes(&mut self) -> Vec<BmcNote> {
        let notes = std::mem::take(&mut self.notes);
        let shown = notes.into_iter().map(|note| BmcNote {
            message: self.discretion.show(&note.message),
            ..note
        });
        shown.collect()
    }

    /// A URL that the BMC is told, and that may be signed.
    pub fn keep_url(&mut self, url: &str) {
        self.discretion.keep_url(url);
    }

    /// What a call came to, as it may be shown.
    pub fn told<T>(&self, done: Result<T, Trouble>) -> Result<T, BmcError> {
        done.map_err(|trouble| BmcError::from(trouble).in_words(|text| self.discretion.show(&text)))
    }

    /// A link that the BMC gave.
    pub fn link(&self, given: &str) -> Result<Link, Trouble> {
        self.origin
            .link(given)
            .map_err(|error| not_understood(format!("{}: {error}", shown(given))))
    }

    /// Asks, logged in, until there is an answer that is one; its status may be any.
    ///
    /// `repeatable`: carried out twice it is as good as once.
    pub fn exchange(&mut self, ask: &Ask<'_>, repeatable: bool) -> Result<Answer, Trouble> {
        let mut renewed = false;
        loop {
            let proof = self.proof()?;
            let answer = self.repeat(ask, repeatable, &proof)?;
            if answer.status != 401 {
                return Ok(answer);
            }
            // A password that is wrong stays so, and BMCs lock accounts.
            if renewed || !matches!(self.standing, Standing::Guest(_)) {
                return Err(Trouble::Failed(BmcError::Login));
            }
            self.standing = Standing::Stranger;
            self.note(Note::SessionRenewed);
            renewed = true;
        }
    }

    /// The document at `link`, and its tag.
    pub fn document(&mut self, link: &Link) -> Result<(Value, Option<String>), Trouble> {
        let mut place = link.clone();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.exchange(&Ask::get(&place), true)?;
            match (answer.status, &answer.location) {
                (301 | 302 | 307 | 308, Some(location)) => place = self.link(location)?,
                (200, _) => return understood(&place, answer),
                _ => return Err(refused(&format!("GET {place}"), &answer, &[])),
            }
        }
        Err(not_understood(format!("{link}: it redirects without end")))
    }

    /// The members of a collection, over all its pages.
    pub fn members(&mut self, collection: &Link) -> Result<Vec<Link>, Trouble> {
        let mut members = Vec::new();
        let mut page = Some(collection.clone());
        let mut pages_left = MEMBERS_MAX;
        while let Some(link) = page.take().filter(|_| pages_left > 0) {
            pages_left -= 1;
            let (document, _) = self.document(&link)?;
            for member in links(&document, &["Members"]) {
                members.push(self.link(member)?);
            }
            if members.len() < MEMBERS_MAX {
                let next = at(&document, &["Members@odata.nextLink"]);
                page = match next.and_then(Value::as_str) {
                    Some(next) => Some(self.link(next)?),
                    None => None,
                };
            }
        }
        members.truncate(MEMBERS_MAX);
        Ok(members)
    }

    /// Reads the document until `is_so`, for as long as a request may take; whether it came so.
    pub fn look_until(
        &mut self,
        link: &Link,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<(bool, Value), Trouble> {
        let end = Instant::now() + self.settings.timeout;
        for tries in 1.. {
            let (document, _) = self.document(link)?;
            if is_so(&document) {
                return Ok((true, document));
            }
            if Instant::now() >= end {
                return Ok((false, document));
            }
            self.pause(retry::pause(tries, LOOK_PAUSE_MAX, jitter()))?;
        }
        unreachable!("the clock does not stand still for four thousand million looks")
    }

    /// The pause before the try after so many that came to nothing.
    pub fn pause_after(&mut self, tries: u32) -> Result<(), Trouble> {
        self.pause(retry::pause(tries, self.habits.pause_max, jitter()))?;
        self.meter.asked_again();
        Ok(())
    }

    /// Asks until the outcome is one; a 401 is.
    fn repeat(
        &mut self,
        ask: &Ask<'_>,
        repeatable: bool,
        proof: &Proof,
    ) -> Result<Answer, Trouble> {
        for tries in 1.. {
            let asked = self.ask(ask, proof)?;
            let patience = Patience {
                retries: self.retries(),
                pause_max: self.habits.pause_max,
            };
            let outcome = outcome(&asked);
            match retry::next(outcome, repeatable, tries, &patience, jitter()) {
                Next::Again { after } => {
                    self.note_repetition(&asked, after);
                    self.pause(after)?;
                    self.meter.asked_again();
                }
                Next::Take | Next::GiveUp => return asked_at_last(ask, asked),
            }
        }
        unreachable!("the number of tries is bounded by a number of the same kind")
    }

    fn ask(&mut self, ask: &Ask<'_>, proof: &Proof) -> Result<Result<Answer, Silence>, Trouble> {
        let time_max = self.settings.timeout.min(self.time_left()?);
        Ok(self.ask_within(ask, proof, time_max))
    }

    /// Asks once, and is counted.
    fn ask_within(
        &self,
        ask: &Ask<'_>,
        proof: &Proof,
        time_max: Duration,
    ) -> Result<Answer, Silence> {
        let begun = Instant::now();
        let asked = self.http.ask(ask, proof, time_max);
        let (took, status) = (begun.elapsed(), asked.as_ref().ok().map(|one| one.status));
        self.meter.asked(&Asked {
            op: self.op,
            status,
            vendor: self.habits.word(),
            took,
        });
        tracing::debug!(
            bmc = %self.origin,
            method = %ask.method,
            path = %ask.link,
            status = status.unwrap_or(0),
            millis = took.as_millis() as u64,
            "redfish"
        );
        asked
    }

    fn note_repetition(&mut self, asked: &Result<Answer, Silence>, after: Duration) {
        match asked {
            Ok(answer) => self.note(Note::Waited {
                status: answer.status,
                after,
            }),
            Err(Silence::NotSent(problem) | Silence::AnswerLost(problem)) => {
                self.note(Note::NotReached {
                    problem: problem.clone(),
                });
            }
            Err(Silence::Untrusted(_)) => {}
        }
    }

    fn time_left(&self) -> Result<Duration, Trouble> {
        if self.stop.try_recv() == Err(TryRecvError::Disconnected) {
            return Err(stopped());
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Trouble::Failed(BmcError::Unreachable {
                message: format!("it took longer than {} s", self.call_time_max.as_secs()),
            }));
        }
        Ok(left)
    }

    fn pause(&mut self, pause: Duration) -> Result<(), Trouble> {
        let left = self.time_left()?;
        if pause > left {
            return Err(Trouble::Failed(BmcError::Busy {
                message: format!(
                    "it wants to be left alone for {} s, and {} s are left",
                    pause.as_secs(),
                    left.as_secs()
                ),
            }));
        }
        match self.stop.recv_timeout(pause) {
            Err(RecvTimeoutError::Disconnected) => Err(stopped()),
            Ok(()) | Err(RecvTimeoutError::Timeout) => Ok(()),
        }
    }

    fn proof(&mut self) -> Result<Proof, Trouble> {
        if let Standing::Stranger = self.standing {
            self.standing = self.log_in()?;
        }
        Ok(match &self.standing {
            Standing::Guest(session) => Proof::Token(session.token.clone()),
            Standing::Stranger | Standing::Basic => self.login.basic(),
        })
    }

    fn log_in(&mut self) -> Result<Standing, Trouble> {
        // Open to everybody by the standard; where it is not, Basic will do.
        let root = self.repeat(&Ask::get(&Link::service_root()), true, &Proof::Nobody)?;
        let root = root.body.unwrap_or_default();
        let Some(place) = session::place(&root, &self.origin) else {
            return Ok(Standing::Basic);
        };
        let body = self.login.body();
        match self.repeat(&Ask::post(&place, &body), false, &Proof::Nobody) {
            Ok(answer) => match session::opened(&answer, &self.origin) {
                Some(session) => {
                    self.discretion.keep(&session.token);
                    Ok(Standing::Guest(session))
                }
                None if answer.status == 401 => Err(Trouble::Failed(BmcError::Login)),
                None => {
                    self.note(Note::SessionUnavailable {
                        status: answer.status,
                    });
                    Ok(Standing::Basic)
                }
            },
            Err(Trouble::AnswerLost(problem)) => {
                self.note(Note::AnswerLost { problem });
                Ok(Standing::Basic)
            }
            Err(failed) => Err(failed),
        }
    }
}

impl Drop for Channel {
    /// BMCs have few sessions and keep a forgotten one for half an hour.
    fn drop(&mut self) {
        let Standing::Guest(Session {
            token,
            link: Some(link),
        }) = std::mem::replace(&mut self.standing, Standing::Stranger)
        else {
            return;
        };
        let ask = Ask {
            method: http::Method::DELETE,
            ..Ask::get(&link)
        };
        let time_max = GOODBYE_TIME_MAX.min(self.settings.timeout);
        let proof = Proof::Token(token);
        self.op = Op::LogOut;
        if let Err(error) = self.ask_within(&ask, &proof, time_max) {
            tracing::debug!(bmc = %self.origin, ?error, "the session stays open");
        }
    }
}

fn outcome(asked: &Result<Answer, Silence>) -> Outcome {
    match asked {
        Ok(answer) => Outcome::Answered {
            status: answer.status,
            retry_after: answer.retry_after,
        },
        Err(Silence::NotSent(_)) => Outcome::NotSent,
        Err(Silence::AnswerLost(_)) => Outcome::AnswerLost,
        Err(Silence::Untrusted(_)) => Outcome::Untrusted,
    }
}

fn asked_at_last(ask: &Ask<'_>, asked: Result<Answer, Silence>) -> Result<Answer, Trouble> {
    let what = format!("{} {}", ask.method, ask.link);
    match asked {
        Ok(answer) if matches!(answer.status, 429 | 503) => Err(Trouble::Failed(BmcError::Busy {
            message: format!("{what}: status {}", answer.status),
        })),
        Ok(answer) => Ok(answer),
        Err(Silence::AnswerLost(problem)) => Err(Trouble::AnswerLost(format!("{what}: {problem}"))),
        Err(Silence::NotSent(problem)) => Err(Trouble::Failed(BmcError::Unreachable {
            message: format!("{what}: {problem}"),
        })),
        Err(Silence::Untrusted(problem)) => Err(Trouble::Failed(BmcError::Unreachable {
            message: format!(
                "its certificate is not trusted: {problem}; add its CA to this machine's trust \
                 store, or set REDFISH_INSECURE_TLS=true"
            ),
        })),
    }
}

fn understood(place: &Link, answer: Answer) -> Result<(Value, Option<String>), Trouble> {
    match answer.body {
        Ok(document) if document.is_object() => {
            let tag = boot::tag(answer.tag.as_deref(), &document);
            Ok((document, tag))
        }
        Ok(_) => Err(not_understood(format!("{place}: not a JSON object"))),
        Err(problem) => Err(not_understood(format!("{place}: {problem}"))),
    }
}

/// The refusal that `answer` is; `known` are the properties that were sent.
pub fn refused(what: &str, answer: &Answer, known: &[&str]) -> Trouble {
    let refusal = refusal::read(answer.body.as_ref().unwrap_or(&Value::Null), known);
    Trouble::Failed(BmcError::Refused {
        status: answer.status,
        message: format!("{what}: {}", refusal.reason),
    })
}

pub fn not_understood(message: String) -> Trouble {
    Trouble::Failed(BmcError::Answer { message })
}

pub fn missing(what: &str) -> Trouble {
    Trouble::Failed(BmcError::Missing {
        what: what.to_owned(),
    })
}

fn stopped() -> Trouble {
    Trouble::Failed(BmcError::Unreachable {
        message: "the program is being stopped".to_owned(),
    })
}

/// From 0 to 1, another each time.
fn jitter() -> f64 {
    let random = RandomState::new().hash_one(0u8);
    f64::from(random as u32) / f64::from(u32::MAX)
}

impl From<Trouble> for BmcError {
    fn from(trouble: Trouble) -> BmcError {
        match trouble {
            Trouble::AnswerLost(message) => BmcError::Unreachable { message },
            Trouble::Failed(error) => error,
        }
    }
}
