//! Tasks, timers and a clock on one thread: whatever could happen next is chosen by the seed.
//!
//! The clock is virtual. It moves a microsecond with each step, and jumps to the next timer when
//! nothing else is left to do, so an hour's timeout costs no time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::random::Random;
use super::trace::Trace;

/// Why a run ended before its future did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// The power went, at the operation chosen.
    Crashed,
    /// Nothing is left that could ever happen.
    Stuck,
    /// The time given has passed on the virtual clock.
    OutOfTime,
}

/// What each step costs on the clock. Not 0, so that a task that spins does not stop the time.
const STEP: Duration = Duration::from_micros(1);
/// More steps than any run needs: a task that spins for ever is a finding, not a hang.
const STEPS_MAX: u64 = 200_000_000;

type Task = Pin<Box<dyn Future<Output = ()>>>;
type Job = Box<dyn FnOnce()>;

enum Timer {
    Wake(Waker),
    Job(Job),
}

enum Step {
    Task(u64),
    Job(Job),
}

pub struct Executor {
    clock: Cell<Duration>,
    /// Parked tasks by number; the one that is being polled is out.
    tasks: RefCell<BTreeMap<u64, Task>>,
    tasks_begun: Cell<u64>,
    ready: Arc<Mutex<Vec<u64>>>,
    jobs: RefCell<Vec<Job>>,
    timers: RefCell<BTreeMap<(Duration, u64), Timer>>,
    timers_set: Cell<u64>,
    random: RefCell<Random>,
    trace: RefCell<Trace>,
    halted: Cell<bool>,
}

struct TaskWaker {
    number: u64,
    ready: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().expect("no wake panics");
        if !ready.contains(&self.number) {
            ready.push(self.number);
        }
    }
}

impl Executor {
    pub fn new(random: Random) -> Self {
        Self {
            clock: Cell::default(),
            tasks: RefCell::default(),
            tasks_begun: Cell::default(),
            ready: Arc::default(),
            jobs: RefCell::default(),
            timers: RefCell::default(),
            timers_set: Cell::default(),
            random: RefCell::new(random),
            trace: RefCell::default(),
            halted: Cell::default(),
        }
    }

    pub fn now(&self) -> Duration {
        self.clock.get()
    }

    pub fn trace(&self) -> u64 {
        self.trace.borrow().value()
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let number = self.number_task();
        self.tasks.borrow_mut().insert(number, Box::pin(task));
        self.make_ready(number);
    }

    /// Does `job` as a step of its own, some time after `delay`.
    pub fn do_later(&self, delay: Duration, job: impl FnOnce() + 'static) {
        if delay.is_zero() {
            self.jobs.borrow_mut().push(Box::new(job));
        } else {
            self.set_timer(self.now() + delay, Timer::Job(Box::new(job)));
        }
    }

    pub fn sleep_until(&self, moment: Duration) -> Sleep<'_> {
        Sleep {
            executor: self,
            moment,
            timer: None,
        }
    }

    /// Ends every run at once: the power went.
    pub fn halt(&self) {
        self.halted.set(true);
    }

    /// Forgets all tasks, which drops what they hold.
    pub fn clear(&self) {
        // Taken out first: what a task drops may spawn, wake or set timers.
        let tasks = self.tasks.take();
        drop(tasks);
        let jobs = self.jobs.take();
        drop(jobs);
        let timers = self.timers.take();
        drop(timers);
        drop(self.tasks.take());
    }

    /// Takes steps until `future` is ready, for at most `within` on the virtual clock.
    pub fn run<T>(&self, future: impl Future<Output = T>, within: Duration) -> Result<T, Halt> {
        let number = self.number_task();
        let waker = self.waker(number);
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        self.make_ready(number);
        let deadline = self.now() + within;
        for _ in 0..STEPS_MAX {
            if self.halted.get() {
                return Err(Halt::Crashed);
            }
            match self.next_step(deadline)? {
                Step::Task(chosen) if chosen == number => {
                    self.trace.borrow_mut().add(chosen);
                    if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                        return Ok(value);
                    }
                }
                Step::Task(chosen) => self.poll_task(chosen),
                Step::Job(job) => job(),
            }
        }
        panic!("a task of this world spins without end");
    }

    fn next_step(&self, deadline: Duration) -> Result<Step, Halt> {
        self.clock.set(self.now() + STEP);
        loop {
            self.fire_timers();
            let mut ready = self.ready.lock().expect("no wake panics");
            let mut jobs = self.jobs.borrow_mut();
            let choices = ready.len() + jobs.len();
            if choices > 0 {
                if self.now() > deadline {
                    return Err(Halt::OutOfTime);
                }
                let chosen = self.random.borrow_mut().index(choices);
                return Ok(match chosen.checked_sub(ready.len()) {
                    None => Step::Task(ready.swap_remove(chosen)),
                    Some(chosen) => Step::Job(jobs.swap_remove(chosen)),
                });
            }
            let Some((&(due, _), _)) = self.timers.borrow().first_key_value().map(|t| (t.0, ()))
            else {
                return Err(Halt::Stuck);
            };
            if due > deadline {
                self.clock.set(deadline.max(self.now()));
                return Err(Halt::OutOfTime);
            }
            self.clock.set(due);
        }
    }

    fn fire_timers(&self) {
        loop {
            let mut timers = self.timers.borrow_mut();
            let Some(first) = timers
                .first_entry()
                .filter(|first| first.key().0 <= self.now())
            else {
                return;
            };
            let timer = first.remove();
            drop(timers);
            match timer {
                Timer::Wake(waker) => waker.wake(),
                Timer::Job(job) => self.jobs.borrow_mut().push(job),
            }
        }
    }

    fn poll_task(&self, number: u64) {
        // Awake after its end, or the root of a run that is over: nothing to do.
        let Some(mut task) = self.tasks.borrow_mut().remove(&number) else {
            return;
        };
        self.trace.borrow_mut().add(number);
        let waker = self.waker(number);
        if task
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
        {
            self.tasks.borrow_mut().insert(number, task);
        }
    }

    fn number_task(&self) -> u64 {
        self.tasks_begun.set(self.tasks_begun.get() + 1);
        self.tasks_begun.get()
    }

    fn waker(&self, number: u64) -> Waker {
        let ready = self.ready.clone();
        Waker::from(Arc::new(TaskWaker { number, ready }))
    }

    fn make_ready(&self, number: u64) {
        self.ready.lock().expect("no wake panics").push(number);
    }

    fn set_timer(&self, due: Duration, timer: Timer) -> (Duration, u64) {
        let number = self.timers_set.get() + 1;
        self.timers_set.set(number);
        self.timers.borrow_mut().insert((due, number), timer);
        (due, number)
    }
}

/// Ends at its moment; taking it away before takes its timer away, so that the clock does not
/// jump to a timeout nobody waits for.
pub struct Sleep<'a> {
    executor: &'a Executor,
    moment: Duration,
    timer: Option<(Duration, u64)>,
}

impl Sleep<'_> {
    fn cancel(&mut self) {
        if let Some(key) = self.timer.take() {
            let timer = self.executor.timers.borrow_mut().remove(&key);
            drop(timer);
        }
    }
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.cancel();
        if self.executor.now() >= self.moment {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        self.timer = Some(self.executor.set_timer(self.moment, Timer::Wake(waker)));
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        self.cancel();
    }
}
