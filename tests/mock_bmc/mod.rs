//! A BMC for tests: a machine's state behind a small HTTP server of our own, with the habits of
//! real ones as switches. Every request is kept, so that a test counts what was done to the
//! machine and not only what the client says of it.
#![allow(dead_code)] // each suite that includes this folder uses its own part of it

mod machine;
mod wire;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

pub use machine::{Machine, Slot};
pub use wire::{Answer, Request};

pub const USER: &str = "root";
pub const PASSWORD: &str = "calvin";

/// What this BMC does that the standard would not have it do.
#[derive(Debug, Clone, Default)]
pub struct Habits {
    /// It has no SessionService.
    pub no_sessions: bool,
    /// The service is named and answers with this.
    pub session_status: Option<u16>,
    /// A token is good for so many requests.
    pub session_requests: Option<u32>,
    /// `VirtualMedia` hangs under the System.
    pub media_under_system: bool,
    /// Insertions with one of these are refused, by name.
    pub refused_properties: Vec<&'static str>,
    /// Insertions without this are refused, by name.
    pub wanted_property: Option<&'static str>,
    /// Slots have no actions; their properties can be changed.
    pub no_media_actions: bool,
    /// A slot shows its medium only so many readings after the insertion.
    pub shown_after_reads: u32,
    /// A medium is taken and never appears.
    pub never_shown: bool,
    /// Media are shown under this name.
    pub shown_image: Option<&'static str>,
    /// The tag that documents carry is not the one that is accepted.
    pub wrong_tag: bool,
    /// The system's own tag, else none.
    pub tag: Option<&'static str>,
    /// `BootSourceOverrideMode` is refused.
    pub no_boot_mode: bool,
    /// The boot target reads back as this.
    pub boot_reads: Option<(&'static str, &'static str)>,
    /// Resets that are refused with 400 though they are allowed.
    pub refused_resets: Vec<&'static str>,
    pub allowed_resets: Option<Vec<&'static str>>,
    /// The system tells when it was reset last.
    pub last_reset_time: bool,
    pub manufacturer: Option<&'static str>,
    /// Before every answer.
    pub delay: Duration,
}

/// Something that happens to requests whose method and path begin so, a number of times.
#[derive(Debug, Clone)]
pub struct Fault {
    pub method: &'static str,
    pub path: &'static str,
    /// How many times; `u32::MAX`: always.
    pub times: u32,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    /// This answer, and nothing is done.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// It is done, and the connection ends without an answer.
    DoneUnanswered,
    /// It is done, and the answer says that it failed.
    DoneFailing(u16),
    /// Nothing is done, and the connection ends without an answer.
    Dropped,
    /// Nothing is done and nothing answered, for so long.
    Hung(Duration),
    /// It is done, and nothing answered for so long.
    DoneHung(Duration),
}

impl Fault {
    pub fn status(method: &'static str, path: &'static str, times: u32, status: u16) -> Fault {
        let what = What::Answer(status, Vec::new(), "{}".to_owned());
        Fault {
            method,
            path,
            times,
            what,
        }
    }
}

/// All that changes.
pub struct State {
    pub machine: Machine,
    pub habits: Habits,
    pub faults: Vec<Fault>,
    /// Every request, in order of arrival.
    pub requests: Vec<Request>,
    /// Requests that each open session has left.
    sessions: Vec<(String, u32)>,
    sessions_opened: u32,
}

/// A running BMC; it ends with this value.
pub struct MockBmc {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

impl MockBmc {
    pub fn start(machine: Machine, habits: Habits) -> MockBmc {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State {
            machine,
            habits,
            faults: Vec::new(),
            requests: Vec::new(),
            sessions: Vec::new(),
            sessions_opened: 0,
        }));
        let ended = Arc::new(AtomicBool::new(false));
        let (of_thread, is_ended) = (state.clone(), ended.clone());
        thread::spawn(move || {
            for connection in listener.incoming() {
                if is_ended.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(connection), state) = (connection, of_thread.clone()) else {
                    continue;
                };
                thread::spawn(move || serve(connection, &state));
            }
        });
        MockBmc {
            address,
            state,
            ended,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics in here")
    }

    pub fn fault(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// How many requests had this method and a path that ends so.
    pub fn count(&self, method: &str, path_end: &str) -> usize {
        let state = self.state();
        let is_it =
            |request: &&Request| request.method == method && request.path.ends_with(path_end);
        state.requests.iter().filter(is_it).count()
    }

    /// Requests that change something, sessions aside.
    pub fn writes(&self) -> Vec<String> {
        let state = self.state();
        let writes = state.requests.iter().filter(|request| {
            request.method != "GET" && !request.path.contains("/SessionService/")
        });
        writes
            .map(|request| format!("{} {}", request.method, request.path))
            .collect()
    }
}

impl Drop for MockBmc {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut connection: TcpStream, state: &Mutex<State>) {
    while let Some(request) = wire::read_request(&mut connection) {
        let delay = {
            let mut state = state.lock().expect("no test panics in here");
            state.requests.push(request.clone());
            state.habits.delay
        };
        thread::sleep(delay);
        let fault = take_fault(&mut state.lock().expect("as above"), &request);
        let answer = match fault {
            Some(What::Answer(status, headers, body)) => {
                let headers = headers
                    .into_iter()
                    .map(|(n, v)| (n.to_owned(), v))
                    .collect();
                Answer {
                    status,
                    headers,
                    body: body.into_bytes(),
                }
            }
            Some(What::Hung(time)) => {
                thread::sleep(time);
                return;
            }
            Some(What::DoneHung(time)) => {
                state.lock().expect("as above").answer(&request);
                thread::sleep(time);
                return;
            }
            Some(What::DoneFailing(status)) => {
                state.lock().expect("as above").answer(&request);
                Answer::json(status, &json!({"error": {"message": "failed"}}))
            }
            Some(What::Dropped) => return,
            Some(What::DoneUnanswered) => {
                state.lock().expect("as above").answer(&request);
                return;
            }
            None => state.lock().expect("as above").answer(&request),
        };
        if wire::write_answer(&mut connection, &answer).is_none() {
            return;
        }
    }
}

fn take_fault(state: &mut State, request: &Request) -> Option<What> {
    let fault = state.faults.iter_mut().find(|fault| {
        fault.times > 0 && fault.method == request.method && request.path.starts_with(fault.path)
    })?;
    if fault.times != u32::MAX {
        fault.times -= 1;
    }
    Some(fault.what.clone())
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        let path = request.path.trim_end_matches('/');
        if path == "/redfish/v1" && request.method == "GET" {
            return Answer::json(200, &self.root());
        }
        if path.starts_with("/redfish/v1/SessionService") && request.method == "POST" {
            return self.open_session(request);
        }
        if !self.is_known(request) {
            return Answer::json(401, &json!({"error": {"message": "log in"}}));
        }
        if path.starts_with("/redfish/v1/SessionService") {
            let token = request
                .header("X-Auth-Token")
                .unwrap_or_default()
                .to_owned();
            self.sessions.retain(|(open, _)| *open != token);
            return Answer::empty(204);
        }
        let habits = self.habits.clone();
        self.machine.answer(&habits, request)
    }

    fn root(&self) -> Value {
        let mut root = json!({
            "Id": "RootService",
            "Systems": {"@odata.id": "/redfish/v1/Systems"},
            "Managers": {"@odata.id": "/redfish/v1/Managers"},
        });
        if !self.habits.no_sessions {
            let sessions = "/redfish/v1/SessionService/Sessions";
            root["SessionService"] = json!({"@odata.id": "/redfish/v1/SessionService"});
            root["Links"] = json!({"Sessions": {"@odata.id": sessions}});
        }
        root
    }

    fn open_session(&mut self, request: &Request) -> Answer {
        if let Some(status) = self.habits.session_status {
            return Answer::json(status, &json!({"error": {"message": "no session"}}));
        }
        let body = request.json();
        if body["UserName"] != USER || body["Password"] != PASSWORD {
            return Answer::json(401, &json!({"error": {"message": "wrong"}}));
        }
        self.sessions_opened += 1;
        let number = self.sessions_opened;
        let left = self.habits.session_requests.unwrap_or(u32::MAX);
        self.sessions.push((format!("token-{number}"), left));
        let mut answer = Answer::json(201, &json!({"Id": number.to_string()}));
        answer.set("X-Auth-Token", format!("token-{number}"));
        answer.set(
            "Location",
            format!("/redfish/v1/SessionService/Sessions/{number}"),
        );
        answer
    }

    fn is_known(&mut self, request: &Request) -> bool {
        if let Some(token) = request.header("X-Auth-Token") {
            let open = self.sessions.iter_mut().find(|(open, _)| open == token);
            let Some((_, left)) = open.filter(|(_, left)| *left > 0) else {
                return false;
            };
            *left = left.saturating_sub(u32::from(*left != u32::MAX));
            return true;
        }
        // `root:calvin`
        request.header("Authorization") == Some("Basic cm9vdDpjYWx2aW4=")
    }

    pub fn sessions_open(&self) -> usize {
        self.sessions.len()
    }
}
