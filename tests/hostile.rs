//! Clients that mean it ill, or are only slow, against the real process: what one of them takes
//! must leave the others enough.
//!
//! Run by `cargo x test`; each test prints what it measured.

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::http::Connection;
use support::scratch;
use support::server::Plan;

/// What `work` does again and again until this is dropped.
struct Meanwhile {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Meanwhile {
    fn start(mut work: impl FnMut() + Send + 'static) -> Meanwhile {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                work();
            }
        });
        Meanwhile {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Meanwhile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("dropped once");
        let _ = thread.join();
    }
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn requests_without_end_on_one_connection_leave_others_their_turn() {
    let folder = scratch("endless");
    let server = Plan::new(&folder.path().join("oci"))
        .set("CONTROLLER_CORES", "1")
        .start();
    let connection = Connection::open(server.address);
    let reading = connection.stream().try_clone().expect("a second handle");
    let writing = connection.stream().try_clone().expect("a second handle");
    let requests = b"GET /healthz HTTP/1.1\r\nHost: registry.test\r\n\r\n".repeat(2000);
    let mut answers = vec![0; 1 << 20];
    let reader = Meanwhile::start(move || {
        let _ = (&reading).read(&mut answers);
    });
    let writer = Meanwhile::start(move || {
        let _ = (&writing).write_all(&requests);
    });
    std::thread::sleep(Duration::from_millis(500));
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        let asked = Instant::now();
        Connection::open(server.address)
            .ask("GET", "/v2/", &[], b"")
            .expect(200);
        longest = longest.max(asked.elapsed());
    }
    println!("  others waited {} ms at most", longest.as_millis());
    let _ = connection.stream().shutdown(std::net::Shutdown::Both);
    drop((reader, writer));
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}
