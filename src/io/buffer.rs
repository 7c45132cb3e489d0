//! Buffers of one size, counted per core.
//!
//! A [`Buffer`] travels by value from the connection that fills it to the file that writes it
//! and back to its [`BufferPool`]. The pool bounds what a core may hold, so memory stays
//! bounded however many clients send at once: who finds it empty waits, and waiting here is
//! not reading from the socket, which is the back-pressure the client sees.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use event_listener::Event;

/// `capacity` bytes of memory, of which the first `len` are filled.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
    home: Weak<Shelf>,
}

impl Buffer {
    /// A buffer that belongs to no pool.
    pub fn detached(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity],
            filled: 0,
            home: Weak::new(),
        }
    }

    pub fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// The part that is not filled yet.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    pub fn spare_len(&self) -> usize {
        self.bytes.len() - self.filled
    }

    /// Counts `count` more bytes as filled.
    pub fn advance(&mut self, count: usize) {
        assert!(
            count <= self.spare_len(),
            "a buffer is not filled beyond its end"
        );
        self.filled += count;
    }

    /// Forgets what lies behind the first `count` filled bytes.
    pub fn truncate(&mut self, count: usize) {
        self.filled = self.filled.min(count);
    }

    pub fn clear(&mut self) {
        self.filled = 0;
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub fn len(&self) -> usize {
        self.filled
    }

    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Copies as much of `bytes` as fits and says how much that was.
    pub fn extend(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.spare_len());
        self.bytes[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(shelf) = self.home.upgrade() {
            shelf.put(std::mem::take(&mut self.bytes));
        }
    }
}

/// The buffers of one core.
#[derive(Debug, Clone)]
pub struct BufferPool {
    shelf: Rc<Shelf>,
}

#[derive(Debug)]
struct Shelf {
    state: RefCell<ShelfState>,
    returned: Event,
    buffer_bytes: usize,
    buffers_max: usize,
    kept_max: usize,
}

#[derive(Debug, Default)]
struct ShelfState {
    idle: Vec<Vec<u8>>,
    out: usize,
}

impl BufferPool {
    /// At most `buffers_max` buffers of `buffer_bytes` are out at once; up to `kept_max` idle
    /// ones keep their memory.
    pub fn new(buffer_bytes: usize, buffers_max: usize, kept_max: usize) -> Self {
        let shelf = Shelf {
            state: RefCell::default(),
            returned: Event::new(),
            buffer_bytes,
            buffers_max,
            kept_max,
        };
        Self {
            shelf: Rc::new(shelf),
        }
    }

    /// An empty buffer, or `None` while all are out.
    pub fn try_take(&self) -> Option<Buffer> {
        let mut state = self.shelf.state.borrow_mut();
        if state.out == self.shelf.buffers_max {
            return None;
        }
        state.out += 1;
        let bytes = state
            .idle
            .pop()
            .unwrap_or_else(|| vec![0; self.shelf.buffer_bytes]);
        Some(Buffer {
            bytes,
            filled: 0,
            home: Rc::downgrade(&self.shelf),
        })
    }

    /// Somebody waits for a buffer.
    pub fn is_wanted(&self) -> bool {
        self.shelf.returned.total_listeners() > 0
    }

    /// An empty buffer, as soon as there is one. Safe to drop.
    pub async fn take(&self) -> Buffer {
        loop {
            if let Some(buffer) = self.try_take() {
                return buffer;
            }
            let returned = self.shelf.returned.listen();
            if let Some(buffer) = self.try_take() {
                return buffer;
            }
            returned.await;
        }
    }
}

impl Shelf {
    fn put(&self, bytes: Vec<u8>) {
        let mut state = self.state.borrow_mut();
        state.out -= 1;
        if state.idle.len() < self.kept_max {
            state.idle.push(bytes);
        }
        drop(state);
        // Each buffer wakes a waiter of its own, also before the last one woken has run.
        self.returned.notify_additional(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_lends_no_more_than_its_bound_and_takes_back() {
        let pool = BufferPool::new(16, 2, 1);
        let first = pool.try_take().expect("the pool is full");
        let _second = pool.try_take().expect("one is left");
        assert!(pool.try_take().is_none());
        drop(first);
        assert!(pool.try_take().is_some());
    }

    #[test]
    fn two_buffers_returned_at_once_wake_two_waiters() {
        let pool = BufferPool::new(16, 2, 2);
        let out = (pool.try_take(), pool.try_take());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut first = std::pin::pin!(pool.take());
        let mut second = std::pin::pin!(pool.take());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(out);
        assert!(second.as_mut().poll(&mut context).is_ready());
        assert!(first.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn a_buffer_is_filled_in_steps_and_comes_back_empty() {
        let pool = BufferPool::new(4, 1, 1);
        let mut buffer = pool.try_take().expect("the pool is full");
        assert_eq!(buffer.extend(b"abcdef"), 4);
        assert_eq!(buffer.filled(), b"abcd");
        buffer.truncate(2);
        assert_eq!((buffer.len(), buffer.spare_len()), (2, 2));
        drop(buffer);
        assert!(pool.try_take().expect("it came back").is_empty());
    }
}
