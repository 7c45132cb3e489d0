//! `docs/metrics.md`, written from the same rows as the scrape.

use super::metrics::FAMILIES;

/// The text of `docs/metrics.md`.
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         `GET /metrics` on the listener of its own (`METRICS_ADDR`, by default port 9090), in the \
         Prometheus text format, without login. This page is written by the program from the rows \
         in `src/telemetry/metrics.rs`; a test fails while it is stale (to write it anew: \
         `UPDATE_DOCS=1 cargo test --lib telemetry`).\n\n\
         | Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n",
    );
    for family in FAMILIES {
        let labels: Vec<String> = family
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        page.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            family.name,
            family.kind.word(),
            labels.join(", "),
            family.help
        ));
    }
    page.push_str(
        "\nA series of `http_requests_total`, `http_request_duration_seconds`, \
         `controller_core_requests_total` and `shoal_provisioner_redfish_requests_total` appears \
         with its first request, one of `job_duration_seconds` and of the phases with the first job \
         that has ended or passed; every other family is complete from the first scrape. The values of \
         `route`:\n\n",
    );
    let routes: Vec<String> = super::RouteClass::ALL
        .iter()
        .map(|route| format!("`{}`", route.label()))
        .collect();
    page.push_str(&routes.join(", "));
    page.push_str(
        ".\n\nHow many blobs a push really sent: the sum of `http_requests_total` over \
         `upload_start`, `upload_single` and `upload_mount` is the number of upload POSTs.\n",
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{RouteClass, Telemetry};

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");

    #[test]
    fn the_page_in_docs_is_fresh() {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(PATH, page()).expect("docs/metrics.md can be written");
        }
        let written = std::fs::read_to_string(PATH).unwrap_or_default();
        assert!(
            written == page(),
            "docs/metrics.md is stale: UPDATE_DOCS=1 cargo test --lib telemetry"
        );
    }

    #[test]
    fn every_rendered_family_is_on_the_page_and_every_row_is_rendered() {
        let telemetry = Telemetry::new(1);
        telemetry.core(0).answered(RouteClass::Ping, 200);
        telemetry
            .core(0)
            .answer_took(RouteClass::Ping, std::time::Duration::ZERO);
        telemetry.set_disk_free("/srv", 1);
        let (provision, took) = (telemetry.provision(), std::time::Duration::ZERO);
        provision.job_ended("failed", "", took);
        provision.phase_took("reset", took);
        provision.bmc_asked("reset", None, "other", took);
        let text = telemetry.render();
        let rendered: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let rows: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(rendered, rows);
        for name in rendered {
            assert!(page().contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
