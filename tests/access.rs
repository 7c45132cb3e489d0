//! The password file on the disk: read at the start, and again when it changes.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use provisioner_controller::access::{Access, Decision, Permission};
use provisioner_controller::config::AccessConfig;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SECRET: &str = "Basic YWRtaW46c2VjcmV0"; // admin:secret
const OTHER: &str = "Basic YWRtaW46b3RoZXI="; // admin:other

fn open(path: &Path) -> Result<Access, String> {
    let config = AccessConfig::Login {
        basic: None,
        htpasswd_file: Some(path.to_owned()),
        anonymous_pull: false,
    };
    Access::open(config, [1; 32]).map_err(|error| error.to_string())
}

fn may_push(access: &Access, header: &str) -> bool {
    match access.authorize(Some(header), Permission::Push, CLIENT) {
        Decision::Granted(_) => true,
        Decision::Refused(_) => false,
        Decision::Pending(pending) => access.complete(pending.verify(), CLIENT).is_ok(),
    }
}

fn line(password: &str) -> String {
    let hash = bcrypt::hash(password, 4).expect("cost 4 is allowed");
    format!("admin:{hash}\n")
}

#[test]
fn a_changed_file_is_taken_up_and_a_broken_or_missing_one_is_not() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("htpasswd");
    let write = |text: &str| std::fs::write(&path, text).expect("the folder can be written");
    write(&line("secret"));
    let access = open(&path).expect("the file is valid");
    assert!(may_push(&access, SECRET));

    write("admin:plain, and longer than before, so that the change is seen");
    access.reload_if_changed();
    assert!(
        may_push(&access, SECRET),
        "a broken file takes nobody's login away"
    );

    write(&format!("# changed\n{}", line("other")));
    access.reload_if_changed();
    assert!(
        !may_push(&access, SECRET),
        "a known login dies with its password"
    );
    assert!(may_push(&access, OTHER));

    std::fs::remove_file(&path).expect("it was there");
    access.reload_if_changed();
    assert!(may_push(&access, OTHER));
}

#[test]
fn a_line_that_cannot_be_used_stops_the_start_and_is_named() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("htpasswd");
    std::fs::write(&path, format!("{}root:$apr1$a$b\n", line("secret")))
        .expect("it can be written");
    let problem = open(&path)
        .err()
        .expect("the second line is no bcrypt hash");
    assert!(problem.contains("line 2"), "{problem}");
    assert!(open(&folder.path().join("absent")).is_err());
}
