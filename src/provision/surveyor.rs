//! Asks a BMC what a job would find, for somebody who waits for the answer: few at a time, each on a
//! thread of its own and for a bounded time, so that no core and no worker waits for a BMC.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use futures_channel::oneshot;

use super::job::store::Server;
use super::redfish::{Meter, Redfish, Target};
use crate::config::{RedfishConfig, Secret};

/// Somebody waits.
const TIME_MAX: Duration = Duration::from_secs(20);
const AT_ONCE_MAX: usize = 4;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Surveyed {
    /// BMCs are not spoken to here.
    NotAsked,
    /// What a job would miss; nothing, if it could run.
    Answered {
        lacking: Vec<&'static str>,
        has_one_slot: bool,
    },
    Failed {
        message: String,
    },
    /// So many are under way.
    TooMany,
}

/// Who asks.
pub struct Surveyor {
    /// `None`: nobody.
    settings: Option<RedfishConfig>,
    meter: Arc<dyn Meter>,
    under_way: Arc<AtomicUsize>,
}

/// One of the few.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(under_way: &Arc<AtomicUsize>) -> Option<Place> {
        let taken = under_way.fetch_add(1, Relaxed);
        // Given back when this is dropped, also where it was one too many.
        let place = Place(under_way.clone());
        (taken < AT_ONCE_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Surveyor {
    pub fn new(settings: Option<RedfishConfig>, meter: Arc<dyn Meter>) -> Surveyor {
        Surveyor {
            settings,
            meter,
            under_way: Arc::default(),
        }
    }

    pub async fn ask(&self, server: Server, password: Secret) -> io::Result<Surveyed> {
        let Some(mut settings) = self.settings.clone() else {
            return Ok(Surveyed::NotAsked);
        };
        let Some(place) = Place::take(&self.under_way) else {
            return Ok(Surveyed::TooMany);
        };
        settings.timeout = settings.timeout.min(TIME_MAX);
        let (answer, answered) = oneshot::channel();
        let meter = self.meter.clone();
        thread::Builder::new()
            .name("bmc-survey".to_owned())
            .spawn(move || {
                let surveyed = survey(&server, &password, &settings, meter);
                drop(place);
                // Whoever asked may have left.
                let _ = answer.send(surveyed);
            })?;
        let lost = |_| io::Error::other("the survey of a BMC has failed");
        answered.await.map_err(lost)
    }
}

fn survey(
    server: &Server,
    password: &Secret,
    settings: &RedfishConfig,
    meter: Arc<dyn Meter>,
) -> Surveyed {
    let failed = |message: String| Surveyed::Failed { message };
    let (address, user) = (&server.bmc_address, &server.bmc_username);
    let target = Target::new(address, user, password.expose(), server.vendor.clone());
    let target = match target {
        Ok(target) => target,
        Err(message) => return failed(message),
    };
    let never = crossbeam::channel::never();
    let mut bmc = Redfish::new(target, settings, TIME_MAX, never).metered(meter);
    match bmc.survey(Some(&server.serial)) {
        Ok(survey) => Surveyed::Answered {
            lacking: survey.lacking,
            has_one_slot: survey.has_one_slot,
        },
        Err(error) => failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_was_one_too_many_takes_none_away() {
        let under_way = Arc::default();
        let mut places: Vec<Place> = (0..AT_ONCE_MAX)
            .map(|_| Place::take(&under_way).expect("there is one"))
            .collect();
        for _ in 0..3 {
            assert!(Place::take(&under_way).is_none());
        }
        places.pop();
        assert!(Place::take(&under_way).is_some());
    }
}
