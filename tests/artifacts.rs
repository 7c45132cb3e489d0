//! The images of jobs, in the real binary: found and held from the moment a job is made until it is
//! complete, whatever clients delete, collections find and processes are killed.

mod support;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::http::{Answer, Connection, push_noise};
use support::noise::Noise;
use support::server::{Plan, Server};
use support::{MIB, scratch, sha256_of};

const SECRET: &str = "webhook-secret";
const HOST: &str = "controller.test:8080";
const REPOSITORY: &str = "os-images/debian";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const PATIENCE: Duration = Duration::from_secs(60);

/// A controller that keeps nothing for a moment longer than somebody needs it.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new(name: &str) -> Site {
        Site {
            folder: scratch(name),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plan(&self) -> Plan {
        let text = |name: &str| self.path(name).display().to_string();
        Plan::new(&self.path("oci"))
            .set("CONTROLLER_DB", text("db/controller.db"))
            .set("TASK_ISO_DIR", text("isos"))
            .set("MAINTENANCE_ISO_URL", "http://files.test/maintenance.iso")
            .set("MEDIA_BASE_URL", format!("http://{HOST}"))
            .set("WEBHOOK_SECRET", SECRET)
            .set("REGISTRY_GC_GRACE_PERIOD", "0")
            .set("REGISTRY_GC_LEASE", "0")
            .set("REGISTRY_GC_INTERVAL", "0")
    }

    /// The recipe on the CD of a job.
    fn recipe_on_cd(&self, job: &str) -> Value {
        let image = std::fs::read(self.path("isos").join(job).join("task.iso")).expect("a CD");
        let text = String::from_utf8_lossy(&image);
        let at = text.find("{\"").expect("a recipe stands on it");
        let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
        values.next().expect("a value").expect("a recipe")
    }
}

fn ask(server: &Server, method: &str, target: &str, body: &str) -> Answer {
    Connection::open(server.address).ask(method, target, &[], body.as_bytes())
}

fn read(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("not JSON: {}", answer.text()))
}

/// An image of one layer; its content is the seed's.
struct Image {
    manifest: String,
    config: String,
    layer: String,
    bytes: u64,
}

const LAYER_BYTES: u64 = 3 * MIB;

fn push_image(server: &Server, seed: u64, tag: &str) -> Image {
    let config = push_noise(server.address, REPOSITORY, Noise::new(seed ^ 0xc0), 64);
    let layer = push_noise(server.address, REPOSITORY, Noise::new(seed), LAYER_BYTES);
    let document = manifest(&config, &layer, LAYER_BYTES);
    put_manifest(server, tag, &document).expect(201);
    Image {
        manifest: sha256_of(document.as_bytes()),
        config,
        layer,
        bytes: LAYER_BYTES + 64 + document.len() as u64,
    }
}

fn manifest(config: &str, layer: &str, layer_bytes: u64) -> String {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.shoal.rootfs.tar.gz",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 64},
        "layers": [{"mediaType": "application/gzip", "digest": layer, "size": layer_bytes}],
    })
    .to_string()
}

fn put_manifest(server: &Server, tag: &str, document: &str) -> Answer {
    Connection::open(server.address).ask(
        "PUT",
        &format!("/v2/{REPOSITORY}/manifests/{tag}"),
        &[("Content-Type", MANIFEST)],
        document.as_bytes(),
    )
}

fn put_server(server: &Server, serial: &str) {
    let body =
        json!({"bmc_address": "https://192.0.2.10", "bmc_username": "root", "bmc_password": "x"});
    let target = format!("/api/v1/servers/{serial}");
    ask(server, "PUT", &target, &body.to_string()).expect(201);
}

fn body(serial: &str, image: &str) -> String {
    json!({
        "server_serial": serial,
        "recipe": {
            "task_target": "install-linux.target",
            "target_disk": "/dev/sda",
            "oci_url": image,
            "partition_layout": [{"size": "100%", "format": "ext4", "mountpoint": "/"}],
        },
    })
    .to_string()
}

fn post_job(server: &Server, serial: &str, image: &str) -> Answer {
    ask(server, "POST", "/api/v1/jobs", &body(serial, image))
}

#[track_caller]
fn made_job(server: &Server, serial: &str, image: &str) -> String {
    let answer = post_job(server, serial, image).expect(202);
    read(&answer)["job_id"].as_str().expect("an id").to_owned()
}

fn job(server: &Server, id: &str) -> Value {
    read(&ask(server, "GET", &format!("/api/v1/jobs/{id}"), "").expect(200))
}

#[track_caller]
fn wait_for_phase(server: &Server, id: &str, phase: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let job = job(server, id);
        if job["phase"] == phase {
            return job;
        }
        assert!(Instant::now() < deadline, "not {phase}: {job:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn complete(server: &Server, serial: &str, id: &str) {
    wait_for_phase(server, id, "await_report");
    let target = format!("/api/v1/status-webhook/{serial}");
    Connection::open(server.address)
        .ask(
            "POST",
            &target,
            &[("X-Webhook-Secret", SECRET)],
            br#"{"status":"success"}"#,
        )
        .expect(200);
    wait_for_phase(server, id, "done");
}

/// One collection after the other: what the first finds the second removes, members before content.
fn collect(server: &Server) {
    for _ in 0..3 {
        let report = read(&ask(server, "POST", "/admin/gc", "").expect(200));
        assert_eq!(report["errors"], json!([]), "{report}");
    }
}

fn status(server: &Server, target: &str) -> u16 {
    ask(server, "GET", target, "").status()
}

fn manifest_target(reference: &str) -> String {
    format!("/v2/{REPOSITORY}/manifests/{reference}")
}

fn blob_target(digest: &str) -> String {
    format!("/v2/{REPOSITORY}/blobs/{digest}")
}

#[track_caller]
fn expect_image(server: &Server, image: &Image, wanted: u16) {
    for target in [
        manifest_target(&image.manifest),
        blob_target(&image.config),
        blob_target(&image.layer),
    ] {
        assert_eq!(status(server, &target), wanted, "{target}");
    }
}

#[track_caller]
fn expect_delete_refused(server: &Server, target: &str, job: &str) {
    let refused = ask(server, "DELETE", target, "").expect(409);
    let error = &read(&refused)["errors"][0];
    assert_eq!(error["code"], "DENIED", "{target}");
    assert_eq!(error["detail"]["heldBy"], format!("job {job}"), "{target}");
}

#[test]
fn an_image_outlives_its_tag_and_every_collection_until_its_job_is_complete() {
    let site = Site::new("pinned");
    let server = site.plan().start();
    put_server(&server, "XF-1");
    let image = push_image(&server, 1, "13");
    let submitted = format!("Controller.TEST:8080/{REPOSITORY}:13");
    let id = made_job(&server, "XF-1", &submitted);
    let made = wait_for_phase(&server, &id, "await_report");
    let artifact = json!({"ref": submitted, "digest": image.manifest, "size": image.bytes});
    assert_eq!(made["artifact"], artifact);
    let listed = read(&ask(&server, "GET", "/api/v1/jobs", "").expect(200));
    assert_eq!(listed["jobs"][0]["artifact"], artifact);
    let steps = made["events"].as_array().expect("events");
    assert!(
        steps.iter().any(|event| event["step"] == "artifact.pinned"),
        "{made:#}"
    );
    let recipe = site.recipe_on_cd(&id);
    assert_eq!(
        recipe["oci_url"],
        format!("Controller.TEST:8080/{REPOSITORY}@{}", image.manifest)
    );
    assert_eq!(recipe["metadata"]["submitted_oci_url"], submitted);

    for target in [
        manifest_target(&image.manifest),
        blob_target(&image.layer),
        blob_target(&image.config),
    ] {
        expect_delete_refused(&server, &target, &id);
    }
    ask(&server, "DELETE", &manifest_target("13"), "").expect(202);
    collect(&server);
    expect_image(&server, &image, 200);
    // One more is of the same mind about another image of the repository.
    let other = push_image(&server, 2, "other");
    ask(&server, "DELETE", &manifest_target(&other.manifest), "").expect(202);
    complete(&server, "XF-1", &id);
    collect(&server);
    expect_image(&server, &image, 404);
    assert_eq!(
        job(&server, &id)["artifact"],
        artifact,
        "the job still says"
    );
}

#[test]
fn an_image_is_held_again_after_a_kill_before_anybody_asks() {
    let site = Site::new("pinned-killed");
    let plan = site.plan();
    let server = plan.start();
    for serial in ["XF-1", "XF-2"] {
        put_server(&server, serial);
    }
    let image = push_image(&server, 1, "13");
    let named = format!("{HOST}/{REPOSITORY}:13");
    let first = made_job(&server, "XF-1", &named);
    let second = made_job(&server, "XF-2", &named);
    ask(&server, "DELETE", &manifest_target("13"), "").expect(202);
    wait_for_phase(&server, &first, "await_report");
    server.kill();

    let server = plan.start();
    let refused = ask(&server, "DELETE", &blob_target(&image.layer), "").expect(409);
    assert!(refused.text().contains("job "), "{}", refused.text());
    collect(&server);
    expect_image(&server, &image, 200);
    complete(&server, "XF-1", &first);
    collect(&server);
    expect_image(&server, &image, 200);
    expect_delete_refused(&server, &manifest_target(&image.manifest), &second);
    complete(&server, "XF-2", &second);
    server.kill();

    let server = plan.start();
    collect(&server);
    expect_image(&server, &image, 404);
}

#[test]
fn an_image_that_is_not_there_or_not_whole_makes_no_job_and_nothing_is_held() {
    let site = Site::new("not-whole");
    let server = site.plan().start();
    put_server(&server, "XF-1");
    let image = push_image(&server, 1, "13");
    let refused = |image: &str, why: &str| {
        let answer = post_job(&server, "XF-1", image).expect(400);
        let said = read(&answer);
        assert_eq!(said["error"], "invalid_recipe", "{said}");
        assert_eq!(said["details"][0]["field"], "oci_url", "{said}");
        let message = said["message"].as_str().expect("a message");
        assert!(message.contains(why), "{message}");
    };
    refused(
        &format!("{HOST}/{REPOSITORY}:12"),
        "debian:12; push it first",
    );
    refused(
        &format!("{HOST}/os-images/none"),
        "none:latest; push it first",
    );
    let nothing = format!("sha256:{}", "ab".repeat(32));
    refused(&format!("{HOST}/{REPOSITORY}@{nothing}"), &nothing);
    // A recipe that is wrong is said before a server that is unknown.
    let answer = post_job(&server, "XF-9", &format!("{HOST}/{REPOSITORY}:12"));
    answer.expect(400);
    post_job(&server, "XF-9", &format!("{HOST}/{REPOSITORY}:13")).expect(404);
    // That job was not made, so nothing is held.
    ask(&server, "DELETE", &blob_target(&image.layer), "").expect(202);
    refused(&format!("{HOST}/{REPOSITORY}:13"), &image.layer);
    let layer = push_noise(server.address, REPOSITORY, Noise::new(9), 64);
    let wrong_size = manifest(&image.config, &layer, 65);
    put_manifest(&server, "wrong", &wrong_size).expect(201);
    refused(
        &format!("{HOST}/{REPOSITORY}:wrong"),
        "64 bytes and should have 65",
    );
    ask(&server, "DELETE", &manifest_target(&image.manifest), "").expect(202);
    let listed = read(&ask(&server, "GET", "/api/v1/jobs", "").expect(200));
    assert_eq!(listed, json!({"jobs": []}));
}

#[test]
fn a_key_gives_its_job_again_also_when_the_tag_is_gone() {
    let site = Site::new("pinned-again");
    let server = site.plan().start();
    put_server(&server, "XF-1");
    let image = push_image(&server, 1, "13");
    let post = || {
        Connection::open(server.address).ask(
            "POST",
            "/api/v1/jobs",
            &[("Idempotency-Key", "one")],
            body("XF-1", &format!("{HOST}/{REPOSITORY}:13")).as_bytes(),
        )
    };
    let first = read(&post().expect(202));
    ask(&server, "DELETE", &manifest_target("13"), "").expect(202);
    let again = read(&post().expect(200));
    assert_eq!(again["job_id"], first["job_id"]);
    // Neither the repetition nor a refused one has let go of what the job holds.
    put_manifest(
        &server,
        "13",
        &manifest(&image.config, &image.layer, LAYER_BYTES),
    )
    .expect(201);
    post_job(&server, "XF-1", &format!("{HOST}/{REPOSITORY}:13")).expect(409);
    let id = first["job_id"].as_str().expect("an id");
    expect_delete_refused(&server, &manifest_target(&image.manifest), id);
}

#[test]
fn only_images_under_our_own_names_are_looked_for() {
    let site = Site::new("foreign");
    let plan = site
        .plan()
        .set("REGISTRY_NAMES", "images.test, Other.test:5000");
    let server = plan.start();
    for serial in ["XF-1", "XF-2"] {
        put_server(&server, serial);
    }
    for ours in [HOST, "images.test", "other.test:5000"] {
        post_job(&server, "XF-1", &format!("{ours}/{REPOSITORY}:13")).expect(400);
    }
    let foreign = format!("other.test/{REPOSITORY}:13");
    let id = made_job(&server, "XF-2", &foreign);
    let made = wait_for_phase(&server, &id, "await_report");
    let events = made["events"].as_array().expect("events");
    let warned = events
        .iter()
        .find(|event| event["step"] == "artifact.foreign")
        .expect("it is said");
    assert_eq!(warned["level"], "warn");
    assert_eq!(made.get("artifact"), None);
    assert_eq!(site.recipe_on_cd(&id)["oci_url"], foreign);
}

/// Jobs are made while their images are deleted and collections never pause: each is refused, or
/// has its image whole until the end.
#[test]
fn a_job_that_is_made_has_its_image_whatever_happens_at_that_moment() {
    const ROUNDS: u64 = 40;
    let site = Site::new("pinned-races");
    let server = site.plan().start();
    let (over, pushing) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut made, mut refused, mut cycles) = (Vec::new(), 0, 0);
    std::thread::scope(|scope| {
        // A round that fails ends the collections too.
        let ending = RaisedAtEnd(&over);
        let collector = scope.spawn(|| {
            let mut cycles = 0_u64;
            while !over.load(Ordering::Relaxed) {
                // Without a lease no push comes through beside collections that never pause; the
                // race is the job's.
                if pushing.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_micros(100));
                    continue;
                }
                ask(&server, "POST", "/admin/gc", "").expect(200);
                cycles += 1;
            }
            cycles
        });
        for round in 0..ROUNDS {
            let (serial, tag) = (format!("XF-{round}"), format!("r{round}"));
            put_server(&server, &serial);
            pushing.store(true, Ordering::Relaxed);
            let image = push_through(&server, round, &tag);
            pushing.store(false, Ordering::Relaxed);
            let delete = scope.spawn({
                let (server, target) = (&server, manifest_target(&image.manifest));
                let tag = manifest_target(&tag);
                move || {
                    std::thread::sleep(Duration::from_micros(round % 8 * 400));
                    let by_digest = ask(server, "DELETE", &target, "").status();
                    // What is refused by digest loses its tag.
                    (by_digest, ask(server, "DELETE", &tag, "").status())
                }
            });
            let answer = post_job(&server, &serial, &format!("{HOST}/{REPOSITORY}:{tag}"));
            let (by_digest, by_tag) = delete.join().expect("it only asks");
            match (answer.status(), by_digest, by_tag) {
                (202, 409, 202) => made.push(image),
                (400, 202, 404) => refused += 1,
                // Deleted with its tag before the job asked, or refused for a hold that came to
                // nothing since a part was gone.
                (400, _, _) => refused += 1,
                other => panic!("round {round}: {other:?} {}", answer.text()),
            }
        }
        drop(ending);
        cycles = collector.join().expect("it only asks");
    });
    println!(
        "{} made, {refused} refused, {cycles} collections",
        made.len()
    );
    collect(&server);
    for image in &made {
        expect_image(&server, image, 200);
    }
    assert!(cycles > ROUNDS / 2, "the collections did not keep up");
    assert!(!made.is_empty() && refused > 0, "no race was run");
}

struct RaisedAtEnd<'a>(&'a AtomicBool);

impl Drop for RaisedAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Nothing is promised here for a moment, so a push may find its blobs gone by a collection that was
/// under way, and goes again.
fn push_through(server: &Server, seed: u64, tag: &str) -> Image {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let config = push_noise(server.address, REPOSITORY, Noise::new(seed ^ 0xc0), 64);
        let layer = push_noise(server.address, REPOSITORY, Noise::new(seed), LAYER_BYTES);
        let document = manifest(&config, &layer, LAYER_BYTES);
        if put_manifest(server, tag, &document).status() == 201 {
            return Image {
                manifest: sha256_of(document.as_bytes()),
                config,
                layer,
                bytes: LAYER_BYTES + 64 + document.len() as u64,
            };
        }
        assert!(Instant::now() < deadline, "no push comes through");
    }
}
