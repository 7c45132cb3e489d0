//! What happens to jobs, for whoever listens: a ring of frames, each made once, that listeners read at
//! their own pace. Frames are those of server-sent events (WHATWG HTML 9.2).
//!
//! A listener costs the ring nothing but being counted. One that falls behind the ring's oldest frame
//! has lost some and is told so.
//!
//! Note: design/0017-watching.md.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use super::job::store::{NumberedEvent, Standing};
use super::shown::{shown_event, shown_progress, shown_standing};
use super::watch::Progress;

/// Frames that are kept for those who have not read them yet.
const FRAMES_MAX: usize = 8192;
/// All their bytes.
const BYTES_MAX: usize = 4 << 20;
/// Listeners at once.
pub const LISTENERS_MAX: usize = 256;

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub job: Uuid,
    pub serial: String,
    /// Of an event in the database; a listener that comes back says which was its last.
    pub number: Option<u64>,
    pub text: Bytes,
}

impl Frame {
    /// A line of the job's.
    pub fn of_event(event: &NumberedEvent) -> Frame {
        let mut data = shown_event(&event.event);
        data["job_id"] = json!(event.job.to_string());
        data["server_serial"] = json!(event.serial);
        let number = Some(event.number);
        Frame::new(event.job, &event.serial, number, "job-event", &data)
    }

    /// Where the job stands now.
    pub fn of_standing(job: Uuid, standing: &Standing) -> Frame {
        let data = shown_standing(job, standing);
        Frame::new(job, &standing.serial, None, "job", &data)
    }

    /// How far its node's pull is.
    pub fn of_progress(job: Uuid, serial: &str, progress: &Progress) -> Frame {
        let mut data = shown_progress(progress);
        data["job_id"] = json!(job.to_string());
        data["server_serial"] = json!(serial);
        Frame::new(job, serial, None, "progress", &data)
    }

    fn new(job: Uuid, serial: &str, number: Option<u64>, kind: &str, data: &Value) -> Frame {
        let id = number.map_or(String::new(), |number| format!("id: {number}\n"));
        // JSON as it is written here holds no line break.
        let text = format!("{id}event: {kind}\ndata: {data}\n\n");
        Frame {
            job,
            serial: serial.to_owned(),
            number,
            text: Bytes::from(text),
        }
    }
}

/// The ring; clones are the same one.
#[derive(Clone, Default)]
pub struct Feed(Arc<Mutex<Ring>>);

#[derive(Default)]
struct Ring {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    /// Frames that have gone at the old end.
    gone: u64,
    listeners: usize,
}

impl Ring {
    fn end(&self) -> u64 {
        self.gone + self.frames.len() as u64
    }
}

/// The listener has missed something.
#[derive(Debug, PartialEq, Eq)]
pub struct FellBehind;

impl Feed {
    pub fn tell(&self, frames: Vec<Frame>) {
        let mut kept = self.locked();
        for frame in frames {
            kept.bytes += frame.text.len();
            kept.frames.push_back(Arc::new(frame));
            while kept.frames.len() > FRAMES_MAX || kept.bytes > BYTES_MAX {
                let Some(oldest) = kept.frames.pop_front() else {
                    break;
                };
                kept.bytes -= oldest.text.len();
                kept.gone += 1;
            }
        }
    }

    pub fn has_listeners(&self) -> bool {
        self.locked().listeners > 0
    }

    /// From now on; `None` when enough listen.
    pub fn listen(&self) -> Option<Listener> {
        let mut kept = self.locked();
        if kept.listeners == LISTENERS_MAX {
            return None;
        }
        kept.listeners += 1;
        Some(Listener {
            next: kept.end(),
            feed: self.clone(),
        })
    }

    fn locked(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the ring.
pub struct Listener {
    feed: Feed,
    next: u64,
}

impl Listener {
    /// What came since the last call, at most `frames_max`; empty: nothing.
    pub fn take(&mut self, frames_max: usize) -> Result<Vec<Arc<Frame>>, FellBehind> {
        let kept = self.feed.locked();
        let Some(read) = self.next.checked_sub(kept.gone) else {
            return Err(FellBehind);
        };
        let unread = kept.frames.iter().skip(read as usize);
        let taken: Vec<_> = unread.take(frames_max).cloned().collect();
        self.next += taken.len() as u64;
        Ok(taken)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.feed.locked().listeners -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u64, text_bytes: usize) -> Frame {
        Frame {
            job: Uuid::nil(),
            serial: "XF-1".to_owned(),
            number: Some(number),
            text: Bytes::from(vec![b'x'; text_bytes]),
        }
    }

    const NONE: [u64; 0] = [];

    fn numbers(taken: &[Arc<Frame>]) -> Vec<u64> {
        taken.iter().filter_map(|frame| frame.number).collect()
    }

    #[test]
    fn a_listener_hears_what_comes_after_it_once_and_in_order() {
        let feed = Feed::default();
        feed.tell(vec![frame(1, 10)]);
        let mut one = feed.listen().expect("room");
        assert_eq!(numbers(&one.take(10).expect("nothing lost")), NONE);
        feed.tell(vec![frame(2, 10), frame(3, 10), frame(4, 10)]);
        let mut other = feed.listen().expect("room");
        assert_eq!(numbers(&one.take(2).expect("nothing lost")), [2, 3]);
        assert_eq!(numbers(&one.take(2).expect("nothing lost")), [4]);
        assert_eq!(numbers(&one.take(2).expect("nothing lost")), NONE);
        assert_eq!(numbers(&other.take(2).expect("nothing lost")), NONE);
    }

    #[test]
    fn the_ring_has_bounds_and_who_falls_behind_them_is_told() {
        let feed = Feed::default();
        let (mut slow, mut large) = (feed.listen().expect("room"), feed.listen().expect("room"));
        for number in 0..FRAMES_MAX as u64 {
            feed.tell(vec![frame(number, 10)]);
        }
        let all = slow.take(usize::MAX).expect("nothing lost");
        assert_eq!(all.len(), FRAMES_MAX);
        feed.tell(vec![frame(1, 10)]);
        assert_eq!(large.take(1), Err(FellBehind));
        assert_eq!(slow.take(2).expect("nothing lost").len(), 1);
        feed.tell(vec![frame(2, BYTES_MAX), frame(3, 1)]);
        assert!(feed.locked().bytes <= BYTES_MAX);
        assert_eq!(slow.take(2), Err(FellBehind));
    }

    #[test]
    fn listeners_are_counted_and_have_a_bound() {
        let feed = Feed::default();
        assert!(!feed.has_listeners());
        let all: Vec<_> = (0..LISTENERS_MAX).map_while(|_| feed.listen()).collect();
        assert_eq!(all.len(), LISTENERS_MAX);
        assert!(feed.listen().is_none());
        drop(all);
        assert!(!feed.has_listeners() && feed.listen().is_some());
    }

    #[test]
    fn a_frame_is_one_line_of_data_whatever_the_message_holds() {
        let event = NumberedEvent {
            number: 7,
            job: Uuid::nil(),
            serial: "XF-1".to_owned(),
            event: crate::provision::job::store::EventRow {
                time: 0,
                level: "info".to_owned(),
                step: None,
                message: "one\ntwo\r\n\nid: 9".to_owned(),
            },
        };
        let text = Frame::of_event(&event).text;
        let text = std::str::from_utf8(&text).expect("text");
        let lines: Vec<&str> = text.split(['\n', '\r']).collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!((lines[0], lines[1]), ("id: 7", "event: job-event"));
        assert!(lines[2].starts_with("data: {"), "{text}");
        assert_eq!((lines[3], lines[4]), ("", ""));
    }
}
