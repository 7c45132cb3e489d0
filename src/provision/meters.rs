//! What happens to jobs and BMCs, put into the numbers of telemetry.

use std::time::Duration;

use super::job::machine::Job;
use super::job::store::JobRow;
use super::redfish::{Asked, Meter};
use crate::telemetry::ProvisionMetrics;

impl Meter for ProvisionMetrics {
    fn asked(&self, asked: &Asked) {
        self.bmc_asked(asked.op.name(), asked.status, asked.vendor, asked.took);
    }

    fn asked_again(&self) {
        self.bmc_asked_again();
    }
}

/// Counts what an event has made of a job, which was `before`; the event is on the disk. Times are
/// the database's, whole seconds, since a phase outlives the process.
pub fn job_moved(metrics: &ProvisionMetrics, before: &Job, row: &JobRow) {
    let after = &row.machine;
    let seconds = |since: u64| Duration::from_secs(row.updated.saturating_sub(since));
    if before.phase() != after.phase() {
        metrics.phase_took(before.phase().name(), seconds(before.since()));
    }
    if let (None, Some(outcome)) = (before.outcome(), after.outcome()) {
        metrics.job_ended(outcome.name(), &row.task_target, seconds(row.created));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provision::job::machine::{Ending, Event};
    use crate::telemetry::Telemetry;
    use uuid::Uuid;

    #[test]
    fn a_phase_is_timed_when_it_is_left_and_a_job_when_it_has_its_outcome() {
        let telemetry = Telemetry::new(1);
        let metrics = telemetry.provision();
        let mut row = JobRow {
            id: Uuid::nil(),
            serial: "XF-1".to_owned(),
            task_target: "install-linux.target".to_owned(),
            machine: Job::new(Ending::Report, 14_400, 100),
            created: 100,
            updated: 100,
            iso: None,
            artifact: None,
        };
        for (event, now) in [
            (Event::Begun, 107),
            (Event::Done, 110),
            (Event::Begun, 110),
            (Event::Cancel, 111),
            (Event::Done, 140),
        ] {
            let before = row.machine.clone();
            row.machine.apply(event, now).expect("it is expected");
            row.updated = now;
            job_moved(&metrics, &before, &row);
        }
        let text = telemetry.render();
        let name = "shoal_provisioner_provisioning_phase_duration_seconds";
        for (phase, seconds) in [("queued", 7), ("discover", 3), ("build_iso", 30)] {
            let line = format!("{name}_sum{{phase=\"{phase}\"}} {seconds}\n");
            assert!(text.contains(&line), "{line}{text}");
            assert!(text.contains(&format!("{name}_count{{phase=\"{phase}\"}} 1\n")));
        }
        let labels = r#"outcome="cancelled",task_target="install-linux.target""#;
        assert!(text.contains(&format!("job_duration_seconds_sum{{{labels}}} 11\n")));
        assert!(text.contains("job_total{status=\"cancelled\"} 1\n"));
    }
}
