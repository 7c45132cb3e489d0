//! Every fixed bound that is not a user's business, and how they hold together.

use std::time::Duration;

/// The size of a body buffer: hashing and writing are cheapest per byte from here on.
pub const BUFFER_BYTES: usize = 1 << 20;
/// Body buffers an upload can hold: one being filled, one being written.
pub const BUFFERS_PER_UPLOAD: usize = 2;
/// Body buffers of one core that keep their memory while idle.
pub const BUFFERS_PER_CORE_KEPT: usize = 8;
/// What a core reads of a socket at once while it waits for a head.
pub const HEAD_READ_BYTES: usize = 64 << 10;
/// A chunked body's buffer is passed on when less than this is left in it.
pub const CHUNKED_SPARE_BYTES_MIN: usize = 16 << 10;
/// What is sent of a file in one call.
pub const SEND_STEP_BYTES: u64 = 1 << 20;
/// Steps sent of one file before other connections of the core have their turn.
pub const SEND_STEPS_PER_TURN: u32 = 2;
/// How far ahead of a download is made sure to be in memory.
pub const READ_AHEAD_BYTES: u64 = 8 << 20;
/// After waiting so long for a slow client, what was in memory may no longer be.
pub const RESIDENCE_TRUSTED: Duration = Duration::from_secs(1);
/// A body silent for so long is made durable and its buffer lent to others.
pub const SILENT_BEFORE_PAUSE: Duration = Duration::from_secs(1);
/// A body silent for so long gives up its place among the uploads.
pub const SILENT_BEFORE_YIELD: Duration = Duration::from_secs(10);
/// A body that has not filled its buffer in so long is slow, and hands it over when others wait.
pub const BUFFER_HELD: Duration = Duration::from_millis(100);
/// While the uploads are as many as may be, one must bring so much in each
/// [`SILENT_BEFORE_YIELD`] or go to the end of the queue.
pub const BYTES_BEFORE_YIELD: u64 = 1 << 20;
/// Of a body that is read whole, so much is held for everybody; more needs one of
/// [`GATHERS_PER_CORE_MAX`].
pub const GATHER_BYTES_FREE: usize = 64 << 10;
/// Bodies of one core that are read whole at once and are larger than [`GATHER_BYTES_FREE`].
pub const GATHERS_PER_CORE_MAX: usize = 8;
/// How long a body that is read whole may take from its first byte to its last.
pub const GATHER_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a client may take none of a small answer.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// How often a download whose client takes nothing looks at why.
pub const PATH_LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Once in such a while a stream without news looks whether all is well.
pub const STREAM_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// How long a connection may idle between requests.
pub const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(600);
/// The same once half of the connections that may be open are.
pub const KEEP_ALIVE_IDLE_CROWDED: Duration = Duration::from_secs(60);
/// The same once seven eighths are.
pub const KEEP_ALIVE_IDLE_FULL: Duration = Duration::from_secs(5);
/// Descriptors left to files and the like when connections are counted.
pub const DESCRIPTORS_RESERVED: u64 = 512;
/// Connections to the metrics port: few ask there, and what they hold is taken from the registry's.
pub const METRICS_CONNECTIONS_MAX: u64 = 64;
/// Fewer open files than this and the start warns.
pub const DESCRIPTORS_WANTED: u64 = 4096;
/// Threads for names, folder syncs and small files.
pub const SHORT_POOL_THREADS: usize = 16;
/// Threads for cold reads, write-back and password hashes.
pub const LONG_POOL_THREADS: usize = 24;
/// What is not urgent must not take a core's time from its thread.
pub const LONG_POOL_NICENESS: i32 = 10;
/// How often idle uploads are looked for.
pub const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);

const _: () = assert!(METRICS_CONNECTIONS_MAX < DESCRIPTORS_RESERVED);
const _: () = assert!(BUFFER_HELD.as_millis() < SILENT_BEFORE_PAUSE.as_millis());
const _: () = assert!(CHUNKED_SPARE_BYTES_MIN < BUFFER_BYTES);
const _: () = assert!(SEND_STEP_BYTES <= READ_AHEAD_BYTES);
