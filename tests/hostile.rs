//! Clients that mean it ill, or are only slow, against the real process: what one of them takes
//! must leave the others enough.
//!
//! Run by `cargo x test`; each test prints what it measured.

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::http::{Connection, basic, push_noise};
use support::noise::Noise;
use support::server::Plan;
use support::{GIB, MIB, proc_facts, scratch, tool};

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

fn start_upload(address: SocketAddr) -> String {
    Connection::open(address)
        .ask("POST", "/v2/tools/a/blobs/uploads/", &[], b"")
        .expect(202)
        .location()
}

/// Begins to send a body that will be long in coming.
fn begin_body(address: SocketAddr, method: &str, target: &str, length: u64) -> Connection {
    let mut connection = Connection::open(address);
    let length = length.to_string();
    connection
        .send_head(method, target, &[("Content-Length", &length)])
        .expect("head sent");
    connection
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

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn as_many_uploads_as_buffers_do_not_wait_for_each_other_for_ever() {
    /// More than a core has buffers.
    const UPLOADS: usize = 25;
    let length = 8 * MIB;
    let folder = scratch("buffers");
    let server = Plan::new(&folder.path().join("oci"))
        .set("CONTROLLER_CORES", "1")
        .set("REGISTRY_MAX_CONCURRENT_UPLOADS", "100")
        .start();
    let noise = Noise::new(21);
    let locations: Vec<_> = (0..UPLOADS).map(|_| start_upload(server.address)).collect();
    // Each gets a buffer before any has filled its own; the last find none left.
    let mut bodies: Vec<_> = locations
        .iter()
        .map(|location| begin_body(server.address, "PATCH", location, length))
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    for body in &mut bodies {
        body.send_noise(noise, 0..MIB).expect("a first buffer full");
    }
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for mut body in bodies {
            scope.spawn(move || {
                let patience = Some(Duration::from_secs(20));
                let stream = body.stream();
                stream.set_read_timeout(patience).expect("a timeout");
                stream.set_write_timeout(patience).expect("a timeout");
                body.send_noise(noise, MIB..length).expect("the rest");
                body.read_answer("PATCH").expect("an answer").expect(202);
            });
        }
    });
    println!("  all ended after {} ms", begun.elapsed().as_millis());
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn uploads_that_trickle_leave_the_buffers_to_others() {
    const TRICKLING: usize = 40;
    let folder = scratch("trickle");
    let server = Plan::new(&folder.path().join("oci"))
        .set("CONTROLLER_CORES", "1")
        .set("REGISTRY_MAX_CONCURRENT_UPLOADS", "100")
        .start();
    let address = server.address;
    let mut bodies: Vec<_> = (0..TRICKLING)
        .map(|_| begin_body(address, "PATCH", &start_upload(address), 50 * MIB))
        .collect();
    let trickling = Meanwhile::start(move || {
        for body in &mut bodies {
            let _ = body.send(b"x");
        }
        std::thread::sleep(Duration::from_millis(300));
    });
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    push_noise(address, "tools/a", Noise::new(22), 32 * MIB);
    let took = begun.elapsed();
    println!(
        "  32 MiB beside {TRICKLING} of them in {} ms",
        took.as_millis()
    );
    drop(trickling);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// What the files below `folder` take of the disk, with what is set aside beyond their ends.
fn blocks_bytes(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("the storage");
    let sizes = entries.flatten().map(|entry| {
        let meta = entry.metadata().expect("nothing is removed meanwhile");
        match meta.is_dir() {
            true => blocks_bytes(&entry.path()),
            false => std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
        }
    });
    sizes.sum()
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn an_upload_that_announces_the_whole_disk_keeps_little_of_it() {
    let folder = scratch("announce");
    let root = folder.path().join("oci");
    let server = Plan::new(&root).start();
    let free = rustix::fs::statvfs(folder.path()).expect("a file system");
    let free = free.f_bavail * free.f_frsize;
    // More than there is: refused before a byte of it is sent.
    let mut body = begin_body(
        server.address,
        "PATCH",
        &start_upload(server.address),
        free + 64 * GIB,
    );
    let refused = body.read_answer("PATCH").expect("an answer");
    assert_eq!(refused.status(), 507, "{}", refused.text());
    // Most of what there is.
    let mut body = begin_body(
        server.address,
        "PATCH",
        &start_upload(server.address),
        free * 9 / 10,
    );
    body.send_noise(Noise::new(24), 0..8 * MIB).expect("taken");
    std::thread::sleep(Duration::from_millis(500));
    let beginning = blocks_bytes(&root);
    std::thread::sleep(Duration::from_secs(3));
    let silent = blocks_bytes(&root);
    body.send_noise(Noise::new(24), 8 * MIB..9 * MIB)
        .expect("taken after a silence");
    drop(body);
    std::thread::sleep(Duration::from_millis(500));
    let left = blocks_bytes(&root);
    println!(
        "  {} GiB announced: {} MiB set aside at first, {} when silent, {} when it has left",
        free * 9 / 10 / GIB,
        beginning / MIB,
        silent / MIB,
        left / MIB
    );
    assert!(beginning <= 1040 * MIB, "{beginning}");
    assert!(silent <= 16 * MIB && left <= 16 * MIB, "{silent}, {left}");
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn an_upload_that_trickles_lets_others_have_its_place() {
    let folder = scratch("place");
    let server = Plan::new(&folder.path().join("oci"))
        .set("REGISTRY_MAX_CONCURRENT_UPLOADS", "1")
        .start();
    let address = server.address;
    let location = start_upload(address);
    let mut body = begin_body(address, "PATCH", &location, 50 * MIB);
    let trickling = Meanwhile::start(move || {
        let _ = body.send(b"x");
        std::thread::sleep(Duration::from_millis(500));
    });
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    push_noise(address, "tools/a", Noise::new(23), MIB);
    let waited = begun.elapsed();
    println!("  waited {:.1} s for the place", waited.as_secs_f64());
    drop(trickling);
    assert!(waited < Duration::from_secs(15), "{waited:?}");
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn manifests_that_never_end_are_held_within_a_bound() {
    const UNFINISHED: usize = 60;
    let folder = scratch("manifests");
    let server = Plan::new(&folder.path().join("oci"))
        .set("CONTROLLER_CORES", "1")
        .start();
    let address = server.address;
    let content = vec![b' '; 4 * MIB as usize - 1024];
    let bodies: Vec<_> = (0..UNFINISHED)
        .map(|_| {
            let mut body = begin_body(address, "PUT", "/v2/tools/a/manifests/x", 4 * MIB);
            let patience = Some(Duration::from_millis(200));
            body.stream()
                .set_write_timeout(patience)
                .expect("a timeout");
            // One that is not read from cannot send it all.
            let _ = body.send(&content);
            body
        })
        .collect();
    let high_water = proc_facts::memory_bytes(server.pid(), "VmHWM");
    println!("  {} MiB with {UNFINISHED} of them", high_water / MIB);
    assert!(high_water < 100 * MIB, "{high_water} bytes");
    // A manifest as they are is answered meanwhile.
    let asked = Instant::now();
    Connection::open(address)
        .ask("PUT", "/v2/tools/a/manifests/x", &[], b"{}")
        .expect(400);
    assert!(asked.elapsed() < Duration::from_secs(1));
    drop(bodies);
}

/// Answers to `count` requests that are sent before the first is answered.
fn statuses_at_once(
    address: SocketAddr,
    count: usize,
    login: impl Fn(usize) -> String,
) -> Vec<u16> {
    let mut asked: Vec<_> = (0..count)
        .map(|index| {
            let mut connection = Connection::open(address);
            connection
                .send_head("GET", "/v2/", &[("Authorization", &login(index))])
                .expect("head sent");
            connection
        })
        .collect();
    let answers = asked.iter_mut().map(|connection| connection.read_head());
    answers
        .map(|head| head.expect("an answer").status)
        .collect()
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn logins_that_come_all_at_once_cost_what_a_few_do() {
    let folder = scratch("logins");
    let line =
        tool::run(tool::command("htpasswd", folder.path()).args(["-BbnC10", "admin", "secret"]));
    let file = folder.path().join("registry.htpasswd");
    std::fs::write(&file, line).expect("the scratch folder is ours");
    let plan = Plan::new(&folder.path().join("oci"))
        .set("REGISTRY_AUTH_MODE", "htpasswd")
        .set("REGISTRY_HTPASSWD_FILE", file.to_string_lossy());
    let server = plan.start();
    // A room that starts with one login: none of it is refused.
    let begun = Instant::now();
    let nodes = statuses_at_once(server.address, 100, |_| basic("admin", "secret"));
    println!("  100 nodes after {} ms", begun.elapsed().as_millis());
    assert!(nodes.iter().all(|status| *status == 200), "{nodes:?}");
    // One that guesses is looked at a few times, and then told to wait.
    let begun = Instant::now();
    let guesses = statuses_at_once(server.address, 300, |guess| {
        basic("admin", &guess.to_string())
    });
    let looked_at = guesses.iter().filter(|status| **status == 401).count();
    println!(
        "  300 guesses after {} ms, {looked_at} looked at",
        begun.elapsed().as_millis()
    );
    assert!(
        looked_at < 30 && guesses.iter().all(|status| [401, 429].contains(status)),
        "{guesses:?}"
    );
    assert_eq!(
        statuses_at_once(server.address, 1, |_| basic("admin", "secret")),
        [200]
    );
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn connections_to_the_metrics_port_leave_the_registry_its_descriptors() {
    let folder = scratch("metrics");
    let server = Plan::new(&folder.path().join("oci")).start();
    let files = |pid: u32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
        open.expect("our own child").count()
    };
    assert_eq!(server.counter("registry_inflight_uploads", &[]), 0);
    let before = files(server.pid());
    // Held up, so that all of them are there when the first is accepted.
    server.signal(Signal::STOP);
    let idle: Vec<_> = (0..500)
        .map(|_| Connection::open(server.metrics_address))
        .collect();
    server.signal(Signal::CONT);
    std::thread::sleep(Duration::from_millis(500));
    let taken = files(server.pid()) - before;
    println!("  {} idle connections take {taken} descriptors", idle.len());
    assert!(taken < 200, "{taken}");
    drop(idle);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(server.counter("registry_inflight_uploads", &[]), 0);
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn connections_that_say_nothing_make_room_for_one_that_does() {
    let folder = scratch("crowd");
    let plan = Plan::new(&folder.path().join("oci")).open_files_max(1024);
    let server = plan.start();
    // More than the server takes; the rest wait in the kernel's queue.
    let idle: Vec<_> = (0..500).map(|_| Connection::open(server.address)).collect();
    let begun = Instant::now();
    let mut connection = Connection::open(server.address);
    connection
        .stream()
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a timeout");
    connection.ask("GET", "/v2/", &[], b"").expect(200);
    let waited = begun.elapsed();
    println!(
        "  behind {} idle ones: {} ms",
        idle.len(),
        waited.as_millis()
    );
    assert!(waited < Duration::from_secs(30), "{waited:?}");
    assert!(
        server.log().contains("limit of open files is low"),
        "{}",
        server.log()
    );
}

#[test]
#[ignore = "starts real processes; run by cargo x test"]
fn a_stop_reaches_every_one_of_many_idle_connections() {
    let folder = scratch("stop-many");
    let mut server = Plan::new(&folder.path().join("oci")).start();
    let idle: Vec<_> = (0..1000)
        .map(|_| {
            let mut connection = Connection::open(server.address);
            connection.ask("GET", "/v2/", &[], b"").expect(200);
            connection
        })
        .collect();
    let asked = Instant::now();
    server.ask_to_stop();
    let status = server.wait_for_end(Duration::from_secs(30));
    println!(
        "  {} of them: {} ms",
        idle.len(),
        asked.elapsed().as_millis()
    );
    assert!(status.success(), "{status}");
    assert!(asked.elapsed() < Duration::from_secs(5));
}
