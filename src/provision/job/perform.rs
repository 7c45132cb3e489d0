//! One effect of a job against one [`Bmc`]: look first, then act.
//!
//! An image that is in its slot already is not inserted again, so an insertion that was cut short
//! can be repeated; where the BMC has one slot, the task is left to the node. What belongs to another
//! job that is alive is never replaced, and clean-up ejects only what the job has inserted: what bears
//! its URL, or is shown as it was shown when the job had inserted it.

use std::fmt;

use uuid::Uuid;

use super::machine::{Certainty, Effect, Event, Failure, Inserted, Step};
use super::one_slot::OneSlot;
use crate::provision::bmc::{Bmc, BmcError, Restart, Slot, SlotKind};
use crate::provision::media;

/// What a job puts where.
pub struct Media<'a> {
    pub job: Uuid,
    pub maintenance_url: &'a str,
    pub task_url: &'a str,
    pub one_slot: OneSlot,
    /// What the effect is about, if the job has inserted it.
    pub inserted: Option<&'a Inserted>,
    /// Whether another job that is not complete has this id.
    pub is_alive: &'a dyn Fn(Uuid) -> bool,
}

impl fmt::Debug for Media<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The task's URL is signed.
        out.debug_struct("Media")
            .field("job", &self.job)
            .finish_non_exhaustive()
    }
}

/// Carries `effect` out and says what came of it. [`Effect::BuildIso`] is none of a BMC's.
pub fn perform(effect: Effect, bmc: &mut dyn Bmc, serial: &str, media: &Media<'_>) -> Event {
    let done = match effect {
        Effect::Discover => bmc.discover(serial).map(|_| ()).map_err(Failure::from),
        Effect::BuildIso => Ok(()),
        Effect::InsertMaintenance => {
            return insert(bmc, Place::Maintenance, media).unwrap_or_else(Event::Failed);
        }
        Effect::InsertTask => {
            return insert(bmc, Place::Task, media).unwrap_or_else(Event::Failed);
        }
        Effect::BootOnce => bmc.boot_once_from_cd().map_err(Failure::from),
        Effect::Reset => bmc.reset(Restart::Gentle).map_err(Failure::from),
        // What runs is the maintenance image, whose node has said that it is done, or shall be.
        Effect::ResetAfter => bmc.reset(Restart::Forced).map_err(Failure::from),
        Effect::LookAtPower => {
            return match bmc.power() {
                Ok(power) => Event::Power(power),
                Err(error) => Event::Failed(error.into()),
            };
        }
        Effect::EjectTask => eject(bmc, media, |image| media::job_of(image) == Some(media.job)),
        Effect::EjectMaintenance => eject_maintenance(bmc, media),
    };
    match done {
        Ok(()) => Event::Done,
        Err(failure) => Event::Failed(failure),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Maintenance,
    Task,
}

fn insert(bmc: &mut dyn Bmc, place: Place, media: &Media<'_>) -> Result<Event, Failure> {
    let slots = bmc.media()?;
    let slot = match slot_for(place, &slots) {
        Some(slot) => slot,
        None => return without_slot(place, &slots, media.one_slot),
    };
    if let Some(image) = &slot.image {
        let is_there = match place {
            Place::Maintenance => image == media.maintenance_url,
            // By the job: the same task may have been signed anew.
            Place::Task => media::job_of(image) == Some(media.job),
        };
        if is_there {
            return Ok(Event::Inserted(Inserted {
                slot: slot.id.clone(),
                image: image.clone(),
            }));
        }
        let owner = media::job_of(image).filter(|job| *job != media.job);
        if let Some(job) = owner.filter(|job| (media.is_alive)(*job)) {
            return Err(Failure {
                certainty: Certainty::Refused,
                step: Some(Step::ConflictActiveJob),
                message: format!(
                    "slot {} holds the task of job {job}, which is active",
                    slot.id
                ),
            });
        }
    }
    let url = match place {
        Place::Maintenance => media.maintenance_url,
        Place::Task => media.task_url,
    };
    let image = bmc.insert(&slot.id, url)?;
    Ok(Event::Inserted(Inserted {
        slot: slot.id.clone(),
        image,
    }))
}

/// The machine boots from the first CD; the task may stand in a stick as well.
fn slot_for(place: Place, slots: &[Slot]) -> Option<&Slot> {
    let mut discs = slots.iter().filter(|slot| slot.kind == SlotKind::Cd);
    let first = discs.next();
    match place {
        Place::Maintenance => first,
        Place::Task => discs.next().or_else(|| {
            slots
                .iter()
                .find(|slot| slot.kind == SlotKind::UsbStick)
                .filter(|_| first.is_some())
        }),
    }
}

fn without_slot(place: Place, slots: &[Slot], one_slot: OneSlot) -> Result<Event, Failure> {
    let has_cd = slots.iter().any(|slot| slot.kind == SlotKind::Cd);
    let what = match place {
        Place::Task if has_cd => match one_slot.lacking() {
            None => return Ok(Event::LeftToNode),
            Some(what) => what,
        },
        Place::Task | Place::Maintenance => "slot for a virtual CD",
    };
    Err(BmcError::Missing {
        what: what.to_owned(),
    }
    .into())
}

/// Where another job that is alive has its task, the machine starts from this medium for that one:
/// two servers whose BMC is the same.
fn eject_maintenance(bmc: &mut dyn Bmc, media: &Media<'_>) -> Result<(), Failure> {
    let slots = bmc.media()?;
    let images = slots.iter().filter_map(|slot| slot.image.as_deref());
    let others = images
        .filter_map(media::job_of)
        .find(|job| *job != media.job);
    if others.is_some_and(|job| (media.is_alive)(job)) {
        return Ok(());
    }
    eject(bmc, media, |image| image == media.maintenance_url)
}

fn eject(
    bmc: &mut dyn Bmc,
    media: &Media<'_>,
    is_ours: impl Fn(&str) -> bool,
) -> Result<(), Failure> {
    for slot in bmc.media()? {
        let Some(image) = &slot.image else { continue };
        let is_as_it_was = |ours: &Inserted| ours.slot == slot.id && ours.image == *image;
        if is_ours(image) || media.inserted.is_some_and(is_as_it_was) {
            bmc.eject(&slot.id)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provision::bmc::{Machine, Power, SlotId};
    use crate::provision::job::machine::{Ending, Job, Next, Outcome, Phase, Status};
    use proptest::prelude::*;

    const MAINTENANCE: &str = "http://host/maintenance.iso";
    const JOB: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    /// The process ends at its `left`th call, before or after the call had its effect.
    struct Fragile {
        slots: Vec<Slot>,
        left: usize,
        ends_after_effect: bool,
        inserts: usize,
        ejects: usize,
        resets: usize,
        /// In place of a medium's URL.
        shown_as: Option<&'static str>,
        one_slot: OneSlot,
    }

    struct ProcessEnd;

    impl Fragile {
        fn with(images: &[Option<String>]) -> Fragile {
            let slots = images.iter().enumerate().map(|(index, image)| Slot {
                id: SlotId(format!("CD{index}")),
                kind: SlotKind::Cd,
                image: image.clone(),
            });
            Fragile {
                slots: slots.collect(),
                left: usize::MAX,
                ends_after_effect: false,
                inserts: 0,
                ejects: 0,
                resets: 0,
                shown_as: None,
                one_slot: OneSlot::NodeFetches,
            }
        }

        fn call<T>(&mut self, effect: impl FnOnce(&mut Fragile) -> T) -> Result<T, BmcError> {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                if self.ends_after_effect {
                    effect(self);
                }
                // As a process ends: without a word.
                std::panic::resume_unwind(Box::new(ProcessEnd));
            }
            Ok(effect(self))
        }

        fn images(&self) -> Vec<Option<&str>> {
            self.slots
                .iter()
                .map(|slot| slot.image.as_deref())
                .collect()
        }
    }

    impl Bmc for Fragile {
        fn discover(&mut self, serial: &str) -> Result<Machine, BmcError> {
            self.call(|_| Machine {
                serial: serial.to_owned(),
                vendor: None,
                power: Power::On,
            })
        }

        fn media(&mut self) -> Result<Vec<Slot>, BmcError> {
            self.call(|bmc| bmc.slots.clone())
        }

        fn insert(&mut self, slot: &SlotId, url: &str) -> Result<String, BmcError> {
            self.call(|bmc| {
                bmc.inserts += 1;
                let shown = bmc.shown_as.unwrap_or(url).to_owned();
                let found = bmc.slots.iter_mut().find(|found| found.id == *slot);
                found.expect("a slot of ours").image = Some(shown.clone());
                shown
            })
        }

        fn eject(&mut self, slot: &SlotId) -> Result<(), BmcError> {
            self.call(|bmc| {
                bmc.ejects += 1;
                let found = bmc.slots.iter_mut().find(|found| found.id == *slot);
                found.expect("a slot of ours").image = None;
            })
        }

        fn boot_once_from_cd(&mut self) -> Result<(), BmcError> {
            self.call(|_| ())
        }

        fn reset(&mut self, _: Restart) -> Result<(), BmcError> {
            self.call(|bmc| bmc.resets += 1)
        }

        fn power(&mut self) -> Result<Power, BmcError> {
            self.call(|_| Power::On)
        }
    }

    fn task_of(job: Uuid) -> String {
        format!("http://host/media/tasks/{job}/task.iso")
    }

    fn perform_here(effect: Effect, bmc: &mut Fragile, alive: bool) -> Event {
        perform_knowing(effect, bmc, alive, None)
    }

    fn perform_knowing(
        effect: Effect,
        bmc: &mut Fragile,
        alive: bool,
        inserted: Option<&Inserted>,
    ) -> Event {
        let task_url = task_of(JOB);
        let media = Media {
            job: JOB,
            maintenance_url: MAINTENANCE,
            task_url: &task_url,
            one_slot: bmc.one_slot,
            inserted,
            is_alive: &|_| alive,
        };
        perform(effect, bmc, "XF-1", &media)
    }

    fn is_inserted(event: Event) -> bool {
        matches!(event, Event::Inserted(_))
    }

    /// A job's whole life on a machine where the process ends at the given calls.
    fn live(bmc: &mut Fragile, ends: &[(usize, bool)]) -> Job {
        let mut job = Job::new(Ending::Report, 14_400, 0);
        let mut ends = ends.iter();
        let mut now = 0;
        (bmc.left, bmc.ends_after_effect) = ends.next().copied().unwrap_or((usize::MAX, false));
        for _ in 0..200 {
            now += 1;
            let Next::Perform(effect) = job.next(now) else {
                if job.status() == Status::Complete {
                    return job;
                }
                if job
                    .apply(Event::Report(super::super::machine::Report::Success), now)
                    .is_err()
                {
                    now = job.due().unwrap_or(now);
                }
                continue;
            };
            // As the worker does it: written down, done, written down.
            job.apply(Event::Begun, now).expect("it was offered");
            let performed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                perform_knowing(effect, bmc, false, job.inserted(effect))
            }));
            let event = match performed {
                Ok(event) => event,
                Err(end) => {
                    assert!(end.is::<ProcessEnd>());
                    (bmc.left, bmc.ends_after_effect) =
                        ends.next().copied().unwrap_or((usize::MAX, false));
                    Event::Interrupted
                }
            };
            job.apply(event, now).expect("it was begun");
        }
        panic!("the job does not end: {job:?}");
    }

    proptest! {
        #[test]
        fn wherever_the_process_ends_nothing_is_inserted_or_reset_twice(
            ends in prop::collection::vec((1_usize..9, any::<bool>()), 0..4),
            slots in 1_usize..=2,
        ) {
            let mut bmc = Fragile::with(&vec![None; slots]);
            let job = live(&mut bmc, &ends);
            prop_assert_eq!(job.outcome(), Some(Outcome::Succeeded));
            prop_assert_eq!(bmc.inserts, slots);
            prop_assert!(bmc.resets <= 2);
            prop_assert_eq!(bmc.ejects, slots);
            prop_assert_eq!(bmc.images(), vec![None; slots]);
        }
    }

    #[test]
    fn what_was_left_behind_is_replaced_and_a_living_job_s_task_is_not() {
        let left =
            || Fragile::with(&[Some("http://host/old.iso".to_owned()), Some(task_of(OTHER))]);
        let mut bmc = left();
        assert!(is_inserted(perform_here(
            Effect::InsertMaintenance,
            &mut bmc,
            false
        )));
        assert!(is_inserted(perform_here(
            Effect::InsertTask,
            &mut bmc,
            false
        )));
        assert_eq!(
            bmc.images(),
            [Some(MAINTENANCE), Some(task_of(JOB).as_str())]
        );

        let mut bmc = left();
        let event = perform_here(Effect::InsertTask, &mut bmc, true);
        assert!(
            matches!(&event, Event::Failed(failure) if failure.step == Some(Step::ConflictActiveJob)),
            "{event:?}"
        );
        assert_eq!((bmc.inserts, bmc.ejects), (0, 0));
    }

    #[test]
    fn clean_up_leaves_what_others_inserted() {
        let mut bmc = Fragile::with(&[
            Some("http://host/theirs.iso".to_owned()),
            Some(task_of(OTHER)),
        ]);
        assert_eq!(
            perform_here(Effect::EjectTask, &mut bmc, false),
            Event::Done
        );
        assert_eq!(
            perform_here(Effect::EjectMaintenance, &mut bmc, false),
            Event::Done
        );
        assert_eq!(bmc.ejects, 0);
    }

    #[test]
    fn clean_up_knows_its_media_where_the_bmc_shows_them_in_its_own_way() {
        let mut bmc = Fragile::with(&[None, None]);
        bmc.shown_as = Some("task.iso");
        let Event::Inserted(task) = perform_here(Effect::InsertTask, &mut bmc, false) else {
            panic!("it was not inserted");
        };
        bmc.slots[0].image = Some("task.iso".to_owned());
        assert_eq!(
            perform_knowing(Effect::EjectTask, &mut bmc, false, Some(&task)),
            Event::Done
        );
        assert_eq!(bmc.images(), [Some("task.iso"), None]);
    }

    #[test]
    fn the_medium_that_a_living_job_s_machine_starts_from_stays() {
        let images = [Some(MAINTENANCE.to_owned()), Some(task_of(OTHER))];
        for (alive, left) in [(true, Some(MAINTENANCE)), (false, None)] {
            let mut bmc = Fragile::with(&images);
            assert!(is_inserted(perform_here(
                Effect::InsertMaintenance,
                &mut bmc,
                alive
            )));
            let ejected = perform_here(Effect::EjectMaintenance, &mut bmc, alive);
            assert_eq!(ejected, Event::Done);
            assert_eq!(bmc.images()[0], left);
        }
    }

    #[test]
    fn with_one_slot_the_task_is_left_to_a_node_that_can_fetch_it() {
        let mut bmc = Fragile::with(&[None]);
        assert!(is_inserted(perform_here(
            Effect::InsertMaintenance,
            &mut bmc,
            false
        )));
        let mut insert_task = |one_slot| {
            bmc.one_slot = one_slot;
            perform_here(Effect::InsertTask, &mut bmc, false)
        };
        assert_eq!(insert_task(OneSlot::NodeFetches), Event::LeftToNode);
        for (one_slot, word) in [
            (OneSlot::NoSecret, "WEBHOOK_SECRET"),
            (OneSlot::NoReport, "ESXi"),
        ] {
            let event = insert_task(one_slot);
            assert!(
                matches!(&event, Event::Failed(failure) if failure.message.contains(word)),
                "{event:?}"
            );
        }
        assert_eq!(bmc.images(), [Some(MAINTENANCE)]);
        bmc.slots.push(Slot {
            id: SlotId("USB".to_owned()),
            kind: SlotKind::UsbStick,
            image: None,
        });
        assert!(is_inserted(perform_here(
            Effect::InsertTask,
            &mut bmc,
            false
        )));
        bmc.slots.remove(0);
        let event = perform_here(Effect::InsertTask, &mut bmc, false);
        assert!(
            matches!(event, Event::Failed(_)),
            "without the maintenance ISO: {event:?}"
        );
    }

    #[test]
    fn a_task_that_went_into_a_slot_that_was_then_gone_is_ejected_all_the_same() {
        let mut bmc = Fragile::with(&[None, None]);
        let mut job = Job::new(Ending::Report, 14_400, 0);
        let step = |job: &mut Job, bmc: &mut Fragile| {
            let Next::Perform(effect) = job.next(1) else {
                panic!("nothing to do: {job:?}");
            };
            job.apply(Event::Begun, 1).expect("it was offered");
            perform_knowing(effect, bmc, false, job.inserted(effect))
        };
        while job.phase() != Phase::InsertTask {
            let event = step(&mut job, &mut bmc);
            job.apply(event, 1).expect("it was begun");
        }
        // Done, and the process ended before it was written down.
        assert!(is_inserted(step(&mut job, &mut bmc)));
        job.apply(Event::Interrupted, 1).expect("it was begun");
        let hidden = bmc.slots.pop().expect("the second slot");
        let event = step(&mut job, &mut bmc);
        assert_eq!(event, Event::LeftToNode);
        job.apply(event, 1).expect("it was begun");
        bmc.slots.push(hidden);
        job.apply(Event::Cancel, 1).expect("it has no outcome");
        while job.phase() != Phase::Done {
            let event = step(&mut job, &mut bmc);
            job.apply(event, 1).expect("it was begun");
        }
        assert_eq!(bmc.images(), [None, None]);
    }
}
