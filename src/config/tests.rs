//! Settings as an operator meets them: whole environments in, a configuration or messages out.

use super::*;

fn load(pairs: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    Config::from_env(
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn problem(pairs: &[(&str, &str)]) -> String {
    load(pairs).expect_err("this must not start").to_string()
}

#[test]
fn nothing_set_is_the_guide_s_default() {
    let config = load(&[]).expect("the defaults are valid").config;
    assert_eq!(config.store.root, PathBuf::from("/var/lib/shoal/oci"));
    assert_eq!(config.server.http_address.port(), 8080);
    assert_eq!(config.registry.concurrent_uploads_max.get(), 8);
    assert_eq!(config.registry.upload_timeout, Duration::from_secs(3600));
    assert!(matches!(config.access, AccessConfig::Open));
    assert_eq!(config.store.blob_bytes_max, None);
}

#[test]
fn each_setting_has_its_effect() {
    let loaded = load(&[
        ("CONTROLLER_HTTP_ADDR", "127.0.0.1:5000"),
        ("METRICS_ADDR", "127.0.0.1:5001"),
        ("CONTROLLER_CORES", "3"),
        ("LOG_LEVEL", "debug"),
        ("ENABLE_REGISTRY", "F"),
        ("REGISTRY_STORAGE", "./var/oci"),
        ("REGISTRY_AUTH_MODE", "basic"),
        ("BASIC_USER", "admin"),
        ("BASIC_PASS", "secret"),
        ("REGISTRY_ALLOW_ANON", "1"),
        ("REGISTRY_MAX_CONCURRENCY", "20"),
        ("REGISTRY_UPLOAD_TIMEOUT", "1h30m"),
        ("REGISTRY_DOWNLOAD_TIMEOUT", "90s"),
        ("REGISTRY_READ_TIMEOUT", "5s"),
        ("REGISTRY_STOP_TIMEOUT", "0"),
        ("REGISTRY_MAX_BLOB_SIZE", "1000"),
        ("REGISTRY_IMMUTABLE_TAGS", "tools,os-images"),
        ("REGISTRY_ALLOW_SPARSE", "true"),
        ("REGISTRY_GC_INTERVAL", "15m"),
        ("REGISTRY_GC_GRACE_PERIOD", "1h"),
        ("REGISTRY_GC_LEASE", "10m"),
        ("ENABLE_ADMIN", "false"),
        ("REDFISH_TIMEOUT", "45s"),
        ("REDFISH_RETRIES", "0"),
        ("REDFISH_INSECURE_TLS", "1"),
    ])
    .expect("all of it is valid");
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.server.cores.map(NonZeroUsize::get), Some(3));
    assert_eq!(config.server.log_level, tracing::Level::DEBUG);
    assert!(!config.registry.enabled);
    assert_eq!(config.store.root, PathBuf::from("./var/oci"));
    let AccessConfig::Login {
        basic: Some(basic),
        anonymous_pull: true,
        ..
    } = config.access
    else {
        panic!("a login is wanted");
    };
    assert!(
        matches!(basic.secret, BasicSecret::Password(password) if password.expose() == "secret")
    );
    assert_eq!(config.registry.concurrent_uploads_max.get(), 20);
    assert_eq!(config.registry.upload_timeout, Duration::from_secs(5400));
    assert_eq!(config.registry.download_timeout, Duration::from_secs(90));
    assert_eq!(config.server.read_timeout, Duration::from_secs(5));
    assert_eq!(config.server.stop_timeout, Duration::ZERO);
    assert_eq!(config.store.blob_bytes_max, Some(1000));
    assert!(config.store.immutable_tags.covers("tools/alpine"));
    assert!(config.store.allow_sparse);
    assert_eq!(config.gc.interval, Some(Duration::from_secs(900)));
    assert_eq!(config.gc.grace, Duration::from_secs(3600));
    assert_eq!(config.store.lease, Duration::from_secs(600));
    assert!(!config.server.enable_admin);
    assert_eq!(config.redfish.timeout, Duration::from_secs(45));
    assert_eq!(config.redfish.retries, 0);
    assert!(config.redfish.insecure_tls);
}

#[test]
fn a_short_grace_is_warned_of_and_no_interval_means_on_request() {
    let loaded = load(&[
        ("REGISTRY_GC_GRACE_PERIOD", "0"),
        ("REGISTRY_GC_INTERVAL", "0"),
    ])
    .expect("both are valid");
    assert_eq!(loaded.config.gc.interval, None);
    let [warning] = &loaded.warnings[..] else {
        panic!("one warning: {:?}", loaded.warnings);
    };
    assert!(warning.to_string().contains("REGISTRY_GC_GRACE_PERIOD"));
}

#[test]
fn a_bad_value_is_named_with_what_would_be_right_and_all_at_once() {
    let text = problem(&[
        ("REGISTRY_UPLOAD_TIMEOUT", "5"),
        ("REGISTRY_AUTH_MODE", "ldap"),
    ]);
    assert!(
        text.contains("REGISTRY_UPLOAD_TIMEOUT=5: expected a duration"),
        "{text}"
    );
    assert!(
        text.contains("REGISTRY_AUTH_MODE=ldap: expected none, basic or htpasswd"),
        "{text}"
    );
    for (name, value) in [
        ("REGISTRY_STORAGE", ""),
        ("REGISTRY_MAX_CONCURRENT_UPLOADS", "0"),
        ("REGISTRY_MAX_CONCURRENT_UPLOADS", "101"),
        ("CONTROLLER_CORES", "0"),
        ("CONTROLLER_HTTP_ADDR", "8080"),
        ("LOG_LEVEL", "loud"),
        ("REGISTRY_ALLOW_SPARSE", "yes"),
        ("REGISTRY_MAX_BLOB_SIZE", "-1"),
        ("REGISTRY_READ_TIMEOUT", "0"),
        ("REDFISH_TIMEOUT", "0"),
        ("REDFISH_RETRIES", "101"),
    ] {
        assert!(
            problem(&[(name, value)]).starts_with(&format!("{name}={value}: ")),
            "{name}"
        );
    }
}

#[test]
fn a_feature_that_does_not_exist_yet_is_refused_and_its_default_is_not() {
    let text = problem(&[("TLS_CERT_FILE", "/etc/cert.pem")]);
    assert!(text.contains("not available in this version"), "{text}");
    assert!(problem(&[("REGISTRY_RETENTION_TOOLS_KEEP", "5")]).contains("not available"));
    assert!(load(&[("REGISTRY_AUDIT_LOG_PATH", "stdout"), ("AUTH_MODE", "none")]).is_ok());
}

#[test]
fn an_unknown_name_is_warned_of_with_the_nearest_known() {
    let loaded = load(&[("REGISTRY_STORAGGE", "x"), ("HOME", "/root")]).expect("it starts");
    let nearest = Some("REGISTRY_STORAGE");
    let variable = "REGISTRY_STORAGGE".to_owned();
    assert_eq!(
        loaded.warnings,
        [ConfigWarning::Unknown { variable, nearest }]
    );
}

#[test]
fn logins_that_cannot_work_are_refused() {
    let mode = ("REGISTRY_AUTH_MODE", "basic");
    assert!(problem(&[mode]).contains("REGISTRY_HTPASSWD_FILE"));
    assert!(problem(&[mode, ("BASIC_USER", "a")]).contains("BASIC_PASS"));
    assert!(problem(&[mode, ("BASIC_PASS", "a")]).contains("BASIC_USER"));
    assert!(problem(&[("REGISTRY_AUTH_MODE", "htpasswd")]).contains("REGISTRY_HTPASSWD_FILE"));
}

#[test]
fn secrets_are_shown_nowhere() {
    let pairs = [
        ("REGISTRY_AUTH_MODE", "basic"),
        ("BASIC_USER", "admin"),
        ("BASIC_PASS", "hunter2"),
    ];
    let config = load(&pairs).expect("it is valid").config;
    assert!(!config.print().contains("hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!problem(&[("BASIC_PASS_HASH", "hunter2")]).contains("hunter2"));
}

#[test]
fn the_page_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, page()).expect("docs/ can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/configuration.md is stale: run UPDATE_DOCS=1 cargo test"
    );
}

#[test]
fn provisioning_is_off_until_it_has_a_database_and_then_wants_what_it_needs() {
    assert!(load(&[]).expect("it is valid").config.provision.is_none());
    let warned = load(&[("WEBHOOK_SECRET", "x")])
        .expect("it starts")
        .warnings;
    assert!(matches!(
        warned[..],
        [ConfigWarning::NoEffect {
            variable: "WEBHOOK_SECRET",
            ..
        }]
    ));
    let on = [
        ("CONTROLLER_DB", "/var/lib/shoal/controller.db"),
        ("MAINTENANCE_ISO_URL", "http://host:8080/m.iso"),
        ("WEBHOOK_SECRET", "hunter2"),
    ];
    let config = load(&on).expect("it is valid").config;
    assert!(!config.print().contains("hunter2") && !format!("{config:?}").contains("hunter2"));
    let provision = config.provision.expect("it is on");
    assert_eq!(
        provision.key_file,
        PathBuf::from("/var/lib/shoal/controller.db.key")
    );
    assert_eq!(provision.media.base_url, "http://host:8080");
    assert_eq!(
        provision.media.iso_folder,
        PathBuf::from("/var/lib/shoal/task-isos")
    );
    assert_eq!(provision.jobs.workers.get(), 4);
    assert_eq!(provision.jobs.lease, Duration::from_secs(600));
    assert_eq!(provision.jobs.stuck_timeout, Duration::from_secs(4 * 3600));
    assert_eq!(provision.jobs.retention_days, 14);
    for (name, value) in [
        ("MAINTENANCE_ISO_URL", "ftp://host/x"),
        ("TRUSTED_PROXIES", "10.0.0.0/33"),
        ("RATE_LIMIT_RPM", "0"),
        ("WORKER_CONCURRENCY", "101"),
        ("JOB_LEASE_TTL", "1s"),
        ("JOB_RETENTION_DAYS", "-1"),
        ("AUTH_MODE", "digest"),
        ("TASK_ISO_DIR", ""),
    ] {
        let text = problem(&[(name, value)]);
        assert!(
            text.starts_with(&format!("{name}={value}: expected ")),
            "{text}"
        );
    }
}
