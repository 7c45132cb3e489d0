//! Stub.
mod values;
pub use values::*;
use std::{num::NonZeroUsize, path::PathBuf, time::Duration};
pub struct Config { pub server: ServerConfig, pub registry: RegistryConfig, pub store: StoreConfig, pub access: AccessConfig }
pub struct ServerConfig { pub http_address: ListenAddress, pub metrics_address: ListenAddress, pub cores: Option<NonZeroUsize>, pub log_level: tracing::Level, pub read_timeout: Duration, pub stop_timeout: Duration, pub upload_timeout: Duration, pub download_timeout: Duration, pub concurrent_uploads_max: NonZeroUsize }
pub struct RegistryConfig { pub enabled: bool, pub blob_bytes_max: Option<u64>, pub allow_sparse: bool, pub immutable_tags: ImmutableTags }
pub struct StoreConfig { pub root: PathBuf }
pub struct AccessConfig;
pub struct Loaded { pub config: Config, pub warnings: Vec<String> }
impl Config {
    pub fn from_env(e: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, String> {
        let e: std::collections::BTreeMap<_, _> = e.into_iter().collect();
        let addr = |n: &str, d: &str| ListenAddress::parse(e.get(n).map_or(d, |s| s.as_str())).unwrap();
        Ok(Loaded { warnings: vec![], config: Config {
            server: ServerConfig { http_address: addr("CONTROLLER_HTTP_ADDR", ":8080"), metrics_address: addr("METRICS_ADDR", ":9090"), cores: e.get("CONTROLLER_CORES").map(|s| s.parse().unwrap()), log_level: e.get("LOG_LEVEL").map_or(tracing::Level::INFO, |l| l.parse().unwrap()), read_timeout: Duration::from_secs(30), stop_timeout: Duration::from_secs(10), upload_timeout: Duration::from_secs(3600), download_timeout: Duration::from_secs(1800), concurrent_uploads_max: NonZeroUsize::new(8).unwrap() },
            registry: RegistryConfig { enabled: true, blob_bytes_max: None, allow_sparse: e.get("REGISTRY_ALLOW_SPARSE").is_some(), immutable_tags: ImmutableTags::None },
            store: StoreConfig { root: e.get("REGISTRY_STORAGE").map_or("/var/lib/shoal/oci".into(), |s| s.into()) }, access: AccessConfig } })
    }
    pub fn print(&self) -> String { String::new() }
}
pub fn process_environment() -> impl Iterator<Item = (String, String)> { std::env::vars() }
