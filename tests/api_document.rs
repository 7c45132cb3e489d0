//! The API does what its own document says: schemathesis makes requests from it, right ones and
//! wrong ones, alone and one after the other, and looks at each answer.

mod support;

use support::http::Connection;
use support::server::{Plan, WEBHOOK_SECRET};
use support::{scratch, tool};

#[test]
#[ignore = "needs schemathesis; run by cargo x test"]
fn every_answer_is_one_that_the_document_names() {
    let folder = scratch("api-document");
    let server = Plan::new(&folder.path().join("oci"))
        .provisioning(folder.path())
        .start();
    let body = br#"{"bmc_address":"https://192.0.2.1","bmc_username":"u","bmc_password":"p"}"#;
    Connection::open(server.address)
        .ask("PUT", "/api/v1/servers/XF-1", &[], body)
        .expect(201);
    let base = format!("http://{}", server.address);
    let seed = std::env::var("TEST_SEED").unwrap_or_else(|_| "1".to_owned());
    let mut command = tool::command("schemathesis", folder.path());
    command
        .args([
            "run",
            &format!("{base}/api/v1/openapi.json"),
            "--url",
            &base,
        ])
        .args(["--checks", "all"])
        // A cursor, a recipe and a job's id are more than a schema can say.
        .args(["--exclude-checks", "positive_data_acceptance"])
        // It has no end; tests/events.rs reads it.
        .args(["--exclude-path", "/api/v1/events"])
        .args(["--max-examples", "100", "--no-color", "--seed", &seed])
        .args(["-H", &format!("X-Webhook-Secret: {WEBHOOK_SECRET}")]);
    let said = tool::run(&mut command);
    let summary = said.find("SUMMARY").map_or(said.as_str(), |at| &said[at..]);
    println!("{summary}");
    assert!(
        said.contains("Tested: 12"),
        "operations were left out:\n{said}"
    );
}
