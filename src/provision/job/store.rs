//! Jobs, servers, events and webhook ids, in SQLite; SQL is named in this file alone.
//!
//! One connection, owned by one thread ([`super::super::mailbox`]). Each change is one transaction
//! and, unless its method says otherwise, on the disk when that returns: WAL with
//! `synchronous=FULL`. Every value reaches a statement as a bound parameter. The job itself is a value
//! ([`Job`]) kept as JSON; the columns beside it are what is searched for, and are written from it in
//! the same statement.
//!
//! Times are seconds since 1970.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use uuid::Uuid;

use crate::oci::{Digest, RepositoryName};
use crate::provision::artifact::Artifact;

use super::machine::{Effect, Entry, Event, Ignored, Job, Level, Next, Report, Status};

/// What the database goes through, in order; one that has been released is never changed.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE servers (
        serial TEXT PRIMARY KEY,
        bmc_address TEXT NOT NULL,
        bmc_username TEXT NOT NULL,
        bmc_password BLOB NOT NULL,
        vendor TEXT,
        last_seen INTEGER
    ) STRICT;
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        serial TEXT NOT NULL,
        idempotency_key TEXT,
        recipe_hash TEXT NOT NULL,
        recipe BLOB NOT NULL,
        machine TEXT NOT NULL,
        status TEXT NOT NULL,
        outcome TEXT,
        failed_step TEXT,
        due INTEGER,
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        worker TEXT,
        picked INTEGER,
        lease_until INTEGER,
        iso_bytes INTEGER,
        iso_sha256 TEXT,
        iso_removed INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE UNIQUE INDEX one_living_job_per_server ON jobs (serial) WHERE status <> 'complete';
    CREATE INDEX jobs_by_due ON jobs (due) WHERE due IS NOT NULL;
    CREATE INDEX jobs_by_serial ON jobs (serial, created);
    CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        job TEXT NOT NULL REFERENCES jobs (id),
        time INTEGER NOT NULL,
        level TEXT NOT NULL,
        step TEXT,
        message TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_by_job ON events (job, id);
    CREATE TABLE deliveries (
        id INTEGER PRIMARY KEY,
        job TEXT NOT NULL REFERENCES jobs (id),
        delivery TEXT NOT NULL,
        UNIQUE (job, delivery)
    ) STRICT;
",
    "
    ALTER TABLE jobs ADD COLUMN artifact_reference TEXT;
    ALTER TABLE jobs ADD COLUMN artifact_repository TEXT;
    ALTER TABLE jobs ADD COLUMN artifact_digest TEXT;
    ALTER TABLE jobs ADD COLUMN artifact_bytes INTEGER;
",
    "
    ALTER TABLE jobs ADD COLUMN task_target TEXT NOT NULL DEFAULT '';
",
    "
    ALTER TABLE servers ADD COLUMN node_address TEXT;
",
    "
    CREATE TABLE recipes (
        job TEXT PRIMARY KEY REFERENCES jobs (id),
        recipe BLOB NOT NULL
    ) STRICT;
    INSERT INTO recipes (job, recipe) SELECT id, recipe FROM jobs;
    ALTER TABLE jobs DROP COLUMN recipe;
",
    "
    CREATE INDEX jobs_by_created ON jobs (created, id);
",
];

/// A page of jobs, the newest first. In the order of an index, so that a page is as long as it is and
/// not as long as the list.
const PAGE: &str = "
    SELECT * FROM jobs
    WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR serial = ?2)
        AND (?3 IS NULL OR (created, id) < (?3, ?4))
    ORDER BY created DESC, id DESC LIMIT ?5";

/// Longest message of an event; what is longer is cut.
const MESSAGE_CHARACTERS_MAX: usize = 2000;
/// Webhook ids remembered of a job.
const DELIVERIES_KEPT: u32 = 32;
/// Events kept of a job: a BMC that is tried for hours must not fill the disk.
const EVENTS_KEPT: u32 = 1000;

/// Why the database did not do what was asked.
#[derive(Debug)]
pub enum StoreError {
    File(io::Error),
    Database(rusqlite::Error),
    /// Written by a later version of this program.
    Newer {
        version: usize,
    },
    /// A row that this version cannot have written.
    Row {
        what: String,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::File(error) => write!(out, "{error}"),
            StoreError::Database(error) => write!(out, "{error}"),
            StoreError::Newer { version } => write!(
                out,
                "its schema has version {version}, and this program knows {}: it was written by a \
                 later version",
                MIGRATIONS.len()
            ),
            StoreError::Row { what } => write!(out, "a row cannot be read: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl StoreError {
    /// Whether what failed may be found done after a restart: a sync that failed says nothing of
    /// what has reached the disk.
    fn may_be_done(&self) -> bool {
        let StoreError::Database(rusqlite::Error::SqliteFailure(cause, _)) = self else {
            return false;
        };
        cause.code == rusqlite::ErrorCode::SystemIoFailure
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        StoreError::Database(error)
    }
}

type Stored<T> = Result<T, StoreError>;

/// A machine and its BMC. The password is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub serial: String,
    pub bmc_address: String,
    pub bmc_username: String,
    pub bmc_password: Vec<u8>,
    pub vendor: Option<String>,
    /// From which the machine pulls.
    pub node_address: Option<IpAddr>,
    pub last_seen: Option<u64>,
}

/// A job to be made.
#[derive(Debug)]
pub struct NewJob<'a> {
    pub id: Uuid,
    pub serial: &'a str,
    pub idempotency_key: Option<&'a str>,
    /// As submitted.
    pub recipe: &'a [u8],
    /// Of what is to be compared when the same key comes again.
    pub recipe_hash: &'a str,
    pub task_target: &'a str,
    pub machine: Job,
    pub artifact: Option<&'a Artifact>,
    pub entries: &'a [Entry],
}

/// What became of a [`NewJob`].
#[derive(Debug, PartialEq, Eq)]
pub enum Created {
    New(JobRow),
    /// The key was used before, for the same.
    Same(JobRow),
    /// The key was used before, for something else.
    KeyReused {
        job: Uuid,
    },
    /// The server has a job that is not complete.
    Active {
        job: Uuid,
    },
    UnknownServer,
}

/// A job as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    pub id: Uuid,
    pub serial: String,
    /// Empty where the job was made before this was kept.
    pub task_target: String,
    pub machine: Job,
    pub created: u64,
    pub updated: u64,
    pub iso: Option<Iso>,
    pub artifact: Option<Artifact>,
}

/// A task ISO that has been built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iso {
    pub bytes: u64,
    /// In hex.
    pub sha256: String,
}

/// An event as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    pub time: u64,
    pub level: String,
    pub step: Option<String>,
    pub message: String,
}

/// An event among those of all jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberedEvent {
    pub number: u64,
    pub job: Uuid,
    pub serial: String,
    pub event: EventRow,
}

/// Where a job stands, in the words it is shown with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub serial: String,
    pub status: String,
    pub phase: String,
    pub outcome: Option<String>,
    pub failed_step: Option<String>,
    /// Its machine's, as far as somebody has said.
    pub node_address: Option<IpAddr>,
    /// Where its image is, if that is here.
    pub repository: Option<String>,
}

/// Which jobs, and where in their order to go on.
#[derive(Debug, Default)]
pub struct Filter {
    pub status: Option<Status>,
    pub serial: Option<String>,
    pub limit: u32,
    /// The last one seen: its time and id.
    pub after: Option<(u64, Uuid)>,
}

/// What became of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    Taken,
    /// Seen before, or about a job that has its outcome.
    Again,
    NoJob,
    /// About a machine that its job has not reset yet.
    TooEarly,
}

/// Told of the job before an event, and of the row after it.
type Moved = dyn Fn(&Job, &JobRow) + Send;

/// The database.
pub struct JobStore {
    connection: Connection,
    completed: Box<dyn Fn(Uuid) + Send>,
    moved: Box<Moved>,
}

impl JobStore {
    /// Opens the database, makes it if it is not there, and brings it up to date.
    pub fn open(path: &Path) -> Stored<JobStore> {
        // Recipes hold passwords; what SQLite puts beside the file has the file's mode.
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path);
        drop(file.map_err(StoreError::File)?);
        let mut connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        // A password that was replaced shall not stay in a free page.
        connection.pragma_update(None, "secure_delete", true)?;
        migrate(&mut connection)?;
        Ok(JobStore {
            connection,
            completed: Box::new(|_| {}),
            moved: Box::new(|_, _| {}),
        })
    }

    /// `completed` is told of each job whose being complete has just reached the disk.
    pub fn when_complete(&mut self, completed: impl Fn(Uuid) + Send + 'static) {
        self.completed = Box::new(completed);
    }

    /// `moved` is told of each event that has just reached the disk: the job before it, and the row
    /// after.
    pub fn when_moved(&mut self, moved: impl Fn(&Job, &JobRow) + Send + 'static) {
        self.moved = Box::new(moved);
    }

    fn tell(&self, before: &Job, row: &JobRow) {
        (self.moved)(before, row);
        if row.machine.status() == Status::Complete {
            (self.completed)(row.id);
        }
    }

    /// Writes what needs no disk of its own: it becomes durable with whatever is synced next, and a
    /// crash before that may take it back. In order with all else in any case.
    fn write_behind<T>(&self, write: impl FnOnce(&Connection) -> Stored<T>) -> Stored<T> {
        self.connection
            .pragma_update(None, "synchronous", "NORMAL")?;
        let _synced = SyncedAgain(&self.connection);
        write(&self.connection)
    }

    // Servers.

    /// Makes the server or replaces what is known of it; says whether it is new.
    pub fn put_server(&mut self, server: &Server) -> Stored<bool> {
        let write = self.connection.transaction()?;
        let known = server_in(&write, &server.serial)?.is_some();
        write.execute(
            "INSERT INTO servers
                 (serial, bmc_address, bmc_username, bmc_password, vendor, node_address)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (serial) DO UPDATE SET bmc_address = ?2, bmc_username = ?3,
                 bmc_password = ?4, vendor = ?5, node_address = ?6",
            params![
                server.serial,
                server.bmc_address,
                server.bmc_username,
                server.bmc_password,
                server.vendor,
                server.node_address.map(|address| address.to_string())
            ],
        )?;
        write.commit()?;
        Ok(!known)
    }

    pub fn server(&self, serial: &str) -> Stored<Option<Server>> {
        server_in(&self.connection, serial)
    }

    /// Every server, by serial.
    pub fn servers(&self) -> Stored<Vec<Server>> {
        let mut all = self
            .connection
            .prepare_cached("SELECT * FROM servers ORDER BY serial")?;
        let rows = all.query_map([], read_server)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Removes a server without jobs. `None`: there is none; `Some(false)`: it has jobs.
    pub fn remove_server(&mut self, serial: &str) -> Stored<Option<bool>> {
        let write = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        if server_in(&write, serial)?.is_none() {
            return Ok(None);
        }
        let jobs: u64 = write.query_row(
            "SELECT count(*) FROM jobs WHERE serial = ?1",
            [serial],
            |row| row.get(0),
        )?;
        if jobs > 0 {
            return Ok(Some(false));
        }
        write.execute("DELETE FROM servers WHERE serial = ?1", [serial])?;
        write.commit()?;
        Ok(Some(true))
    }

    /// The machine was seen behind its BMC. Written behind.
    pub fn server_seen(&mut self, serial: &str, now: u64) -> Stored<()> {
        self.write_behind(|connection| {
            connection.execute(
                "UPDATE servers SET last_seen = ?2 WHERE serial = ?1",
                params![serial, now],
            )?;
            Ok(())
        })
    }

    // Jobs, as the API sees them.

    pub fn create(&mut self, new: NewJob<'_>, now: u64) -> Stored<Created> {
        let write = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        if server_in(&write, new.serial)?.is_none() {
            return Ok(Created::UnknownServer);
        }
        let active = write
            .query_row(
                "SELECT id, idempotency_key, recipe_hash FROM jobs
                 WHERE serial = ?1 AND status <> 'complete'",
                [new.serial],
                |row| {
                    let id: String = row.get(0)?;
                    let key: Option<String> = row.get(1)?;
                    let hash: String = row.get(2)?;
                    Ok((id, key, hash))
                },
            )
            .optional()?;
        if let Some((id, key, hash)) = active {
            let job = parse_id(&id)?;
            if key.is_none() || key.as_deref() != new.idempotency_key {
                return Ok(Created::Active { job });
            }
            if hash != new.recipe_hash {
                return Ok(Created::KeyReused { job });
            }
            let row = job_in(&write, job)?.ok_or_else(|| missing(job))?;
            return Ok(Created::Same(row));
        }
        write.execute(
            "INSERT INTO jobs (id, serial, idempotency_key, recipe_hash, machine, status, due,
                 created, updated, artifact_reference, artifact_repository, artifact_digest,
                 artifact_bytes, task_target)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?10, ?11, ?12, ?13)",
            params![
                new.id.to_string(),
                new.serial,
                new.idempotency_key,
                new.recipe_hash,
                text_of(&new.machine),
                new.machine.status().name(),
                new.machine.due(),
                now,
                new.artifact.map(|artifact| &artifact.reference),
                new.artifact.map(|artifact| artifact.repository.as_str()),
                new.artifact.map(|artifact| artifact.digest.to_string()),
                new.artifact.map(|artifact| artifact.bytes),
                new.task_target
            ],
        )?;
        // Apart, since it may have megabytes, and a job's row is read and written at each step.
        write.execute(
            "INSERT INTO recipes (job, recipe) VALUES (?1, ?2)",
            params![new.id.to_string(), new.recipe],
        )?;
        add_events(&write, new.id, new.entries, now)?;
        let row = job_in(&write, new.id)?.ok_or_else(|| missing(new.id))?;
        write.commit()?;
        Ok(Created::New(row))
    }

    /// Whether the job of `created` is there, now or after a restart.
    pub fn is_made(&self, id: Uuid, created: &Stored<Created>) -> bool {
        match created {
            Ok(created) => matches!(created, Created::New(_)),
            Err(error) => error.may_be_done() || !matches!(self.job(id), Ok(None)),
        }
    }

    /// The one job of a server that is not complete.
    pub fn active_job(&self, serial: &str) -> Stored<Option<Uuid>> {
        let id: Option<String> = self
            .connection
            .query_row(
                "SELECT id FROM jobs WHERE serial = ?1 AND status <> 'complete'",
                [serial],
                |row| row.get(0),
            )
            .optional()?;
        id.map(|id| parse_id(&id)).transpose()
    }

    pub fn job(&self, id: Uuid) -> Stored<Option<JobRow>> {
        job_in(&self.connection, id)
    }

    /// The job of `key` while it lives, if it has this recipe.
    pub fn same_job(&self, serial: &str, key: &str, recipe_hash: &str) -> Stored<Option<JobRow>> {
        let mut found = self.connection.prepare_cached(
            "SELECT * FROM jobs WHERE serial = ?1 AND status <> 'complete'
                 AND idempotency_key = ?2 AND recipe_hash = ?3",
        )?;
        let mut rows = found.query([serial, key, recipe_hash])?;
        match rows.next()? {
            Some(row) => Ok(Some(read_job(row)?)),
            None => Ok(None),
        }
    }

    /// The images of jobs that are not complete.
    pub fn living_artifacts(&self) -> Stored<Vec<(Uuid, Artifact)>> {
        let mut found = self.connection.prepare_cached(
            "SELECT * FROM jobs WHERE status <> 'complete' AND artifact_digest IS NOT NULL",
        )?;
        let mut rows = found.query([])?;
        let mut living = Vec::new();
        while let Some(row) = rows.next()? {
            let job = read_job(row)?;
            living.extend(job.artifact.map(|artifact| (job.id, artifact)));
        }
        Ok(living)
    }

    /// The job's events, the oldest first.
    pub fn events(&self, id: Uuid) -> Stored<Vec<EventRow>> {
        let mut all = self.connection.prepare_cached(
            "SELECT time, level, step, message FROM events WHERE job = ?1 ORDER BY id",
        )?;
        let rows = all.query_map([id.to_string()], |row| {
            Ok(EventRow {
                time: row.get(0)?,
                level: row.get(1)?,
                step: row.get(2)?,
                message: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Jobs, the newest first.
    pub fn jobs(&self, filter: &Filter) -> Stored<Vec<JobRow>> {
        let mut found = self.connection.prepare_cached(PAGE)?;
        let (time, id) = match filter.after {
            Some((time, id)) => (Some(time), Some(id.to_string())),
            None => (None, None),
        };
        let status = filter.status.map(Status::name);
        let mut rows = found.query(params![status, filter.serial, time, id, filter.limit])?;
        let mut jobs = Vec::new();
        while let Some(row) = rows.next()? {
            jobs.push(read_job(row)?);
        }
        Ok(jobs)
    }

    /// `None`: no such job. Otherwise the job after it, and whether that changed anything.
    pub fn cancel(&mut self, id: Uuid, now: u64) -> Stored<Option<(JobRow, bool)>> {
        let write = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Some(mut row) = job_in(&write, id)? else {
            return Ok(None);
        };
        let before = row.machine.clone();
        let changed = apply_in(&write, &mut row, Event::Cancel, now)?.is_ok();
        write.commit()?;
        self.tell(&before, &row);
        Ok(Some((row, changed)))
    }

    /// The node's report. Dedupe and change of state are one transaction: a delivery that is
    /// remembered has had its effect.
    pub fn report(
        &mut self,
        serial: &str,
        job: Option<Uuid>,
        delivery: Option<&str>,
        report: Report,
        note: Option<Entry>,
        now: u64,
    ) -> Stored<Reported> {
        let write = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: Option<String> = match job {
            Some(job) => write
                .query_row(
                    "SELECT id FROM jobs WHERE id = ?1 AND serial = ?2",
                    params![job.to_string(), serial],
                    |row| row.get(0),
                )
                .optional()?,
            None => write
                .query_row(
                    "SELECT id FROM jobs WHERE serial = ?1 ORDER BY created DESC, rowid DESC LIMIT 1",
                    [serial],
                    |row| row.get(0),
                )
                .optional()?,
        };
        let Some(id) = found else {
            return Ok(Reported::NoJob);
        };
        let id = parse_id(&id)?;
        let mut row = job_in(&write, id)?.ok_or_else(|| missing(id))?;
        if let Some(delivery) = delivery {
            let is_known: bool = write.query_row(
                "SELECT EXISTS (SELECT 1 FROM deliveries WHERE job = ?1 AND delivery = ?2)",
                params![id.to_string(), delivery],
                |row| row.get(0),
            )?;
            if is_known {
                let duplicate = Entry::new(
                    Level::Info,
                    Some("webhook-duplicate"),
                    "the node's report came again",
                );
                add_event_once(&write, id, &duplicate, now)?;
                write.commit()?;
                return Ok(Reported::Again);
            }
        }
        let before = row.machine.clone();
        match apply_in(&write, &mut row, Event::Report(report), now)? {
            Ok(()) => {}
            Err(Ignored::NotReset) => return Ok(Reported::TooEarly),
            Err(Ignored::Ended | Ignored::NotExpected) => return Ok(Reported::Again),
        }
        if let Some(note) = note {
            add_events(&write, id, &[note], now)?;
        }
        if let Some(delivery) = delivery {
            write.execute(
                "INSERT INTO deliveries (job, delivery) VALUES (?1, ?2)",
                params![id.to_string(), delivery],
            )?;
            write.execute(
                "DELETE FROM deliveries WHERE job = ?1 AND id NOT IN
                     (SELECT id FROM deliveries WHERE job = ?1 ORDER BY id DESC LIMIT ?2)",
                params![id.to_string(), DELIVERIES_KEPT],
            )?;
        }
        write.commit()?;
        self.tell(&before, &row);
        Ok(Reported::Taken)
    }

    // Jobs, as the watcher of pulls sees them.

    /// Jobs that are not complete.
    pub fn living_jobs(&self) -> Stored<BTreeMap<Uuid, Standing>> {
        self.standings("status <> 'complete'", params![])
    }

    /// Where these jobs stand; one that is not there is left out.
    pub fn standing(&self, jobs: &BTreeSet<Uuid>) -> Stored<BTreeMap<Uuid, Standing>> {
        let mut found = BTreeMap::new();
        for job in jobs {
            found.extend(self.standings("jobs.id = ?1", [job.to_string()])?);
        }
        Ok(found)
    }

    fn standings(
        &self,
        which: &'static str,
        values: impl rusqlite::Params,
    ) -> Stored<BTreeMap<Uuid, Standing>> {
        let mut found = self.connection.prepare_cached(&format!(
            "SELECT jobs.id, jobs.serial, status, json_extract(machine, '$.phase'), outcome,
                 failed_step, node_address, artifact_repository
             FROM jobs LEFT JOIN servers ON servers.serial = jobs.serial WHERE {which}"
        ))?;
        let mut rows = found.query(values)?;
        let mut jobs = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let id: String = row.get(0)?;
            let address: Option<String> = row.get(6)?;
            let standing = Standing {
                serial: row.get(1)?,
                status: row.get(2)?,
                phase: row.get(3)?,
                outcome: row.get(4)?,
                failed_step: row.get(5)?,
                node_address: address.and_then(|address| address.parse().ok()),
                repository: row.get(7)?,
            };
            jobs.insert(parse_id(&id)?, standing);
        }
        Ok(jobs)
    }

    /// The number of the last event; those of later ones are larger.
    pub fn last_event(&self) -> Stored<u64> {
        let mut found = self
            .connection
            .prepare_cached("SELECT coalesce(max(id), 0) FROM events")?;
        Ok(found.query_row([], |row| row.get(0))?)
    }

    /// Events of all jobs behind `number`, in order, at most `limit`.
    pub fn events_behind(&self, number: u64, limit: u32) -> Stored<Vec<NumberedEvent>> {
        let mut found = self.connection.prepare_cached(
            "SELECT events.id, job, serial, time, level, step, message
             FROM events JOIN jobs ON jobs.id = events.job
             WHERE events.id > ?1 ORDER BY events.id LIMIT ?2",
        )?;
        let mut rows = found.query(params![number, limit])?;
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            let job: String = row.get(1)?;
            events.push(NumberedEvent {
                number: row.get(0)?,
                job: parse_id(&job)?,
                serial: row.get(2)?,
                event: EventRow {
                    time: row.get(3)?,
                    level: row.get(4)?,
                    step: row.get(5)?,
                    message: row.get(6)?,
                },
            });
        }
        Ok(events)
    }

    /// Adds a line to what the operator reads of a job.
    pub fn note(&mut self, job: Uuid, entry: Entry, now: u64) -> Stored<()> {
        let write = self.connection.transaction()?;
        add_events(&write, job, &[entry], now)?;
        write.commit()?;
        Ok(())
    }

    /// Adds the line unless the job's last one is of the same kind.
    pub fn note_once(&mut self, job: Uuid, entry: Entry, now: u64) -> Stored<()> {
        let write = self.connection.transaction()?;
        add_event_once(&write, job, &entry, now)?;
        write.commit()?;
        Ok(())
    }

    // Jobs, as the workers see them.

    /// Leases the job that has been due the longest, for `worker`; one whose lease has run out is
    /// taken from whoever had it. Written behind, as all that is said of leases: a crash ends them all.
    pub fn claim(&mut self, worker: &str, now: u64, lease_seconds: u64) -> Stored<Option<JobRow>> {
        self.write_behind(|connection| {
            let mut claim = connection.prepare_cached(
                "UPDATE jobs SET worker = ?1, picked = ?2, lease_until = ?2 + ?3
             WHERE id = (
                 SELECT id FROM jobs
                 WHERE due <= ?2 AND (worker IS NULL OR lease_until <= ?2)
                 ORDER BY due, rowid LIMIT 1)
             RETURNING *",
            )?;
            let mut rows = claim.query(params![worker, now, lease_seconds])?;
            let row = match rows.next()? {
                Some(row) => Some(read_job(row)?),
                None => None,
            };
            // The statement is run to its end.
            while rows.next()?.is_some() {}
            Ok(row)
        })
    }

    /// Prolongs every lease whose worker's name begins with `instance`.
    pub fn heartbeat(&mut self, instance: &str, now: u64, lease_seconds: u64) -> Stored<()> {
        self.write_behind(|connection| {
            connection.execute(
                "UPDATE jobs SET lease_until = ?2 + ?3
                 WHERE worker IS NOT NULL AND substr(worker, 1, length(?1)) = ?1",
                params![instance, now, lease_seconds],
            )?;
            Ok(())
        })
    }

    /// Gives a job back.
    pub fn release(&mut self, id: Uuid, worker: &str) -> Stored<()> {
        self.write_behind(|connection| {
            connection.execute(
                "UPDATE jobs SET worker = NULL, lease_until = NULL WHERE id = ?1 AND worker = ?2",
                params![id.to_string(), worker],
            )?;
            Ok(())
        })
    }

    /// Ends the leases of other processes; to be called by whoever knows that they are gone.
    pub fn release_all(&mut self) -> Stored<usize> {
        Ok(self.connection.execute(
            "UPDATE jobs SET worker = NULL, lease_until = NULL WHERE worker IS NOT NULL",
            [],
        )?)
    }

    /// Applies an event to a job that `worker` has leased, with `notes` before what the event
    /// itself says. With `goes_on` the next effect begins in the same transaction, unless it is a reset:
    /// that it has begun must mean that nothing came between. `None`: the lease is another's by now, and
    /// nothing was changed.
    pub fn record(
        &mut self,
        id: Uuid,
        worker: &str,
        event: Event,
        notes: &[Entry],
        goes_on: bool,
        now: u64,
    ) -> Stored<Option<JobRow>> {
        let write = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let holder: Option<String> = write
            .query_row(
                "SELECT worker FROM jobs WHERE id = ?1",
                [id.to_string()],
                |row| row.get(0),
            )
            .optional()?
            .flatten();
        if holder.as_deref() != Some(worker) {
            return Ok(None);
        }
        let mut row = job_in(&write, id)?.ok_or_else(|| missing(id))?;
        let before = row.machine.clone();
        add_events(&write, id, notes, now)?;
        let _ = apply_in(&write, &mut row, event, now)?;
        let may_begin = match row.machine.next(now) {
            Next::Perform(effect) => !matches!(effect, Effect::Reset | Effect::ResetAfter),
            Next::Expire | Next::Wait | Next::End => false,
        };
        if goes_on && may_begin {
            let _ = apply_in(&write, &mut row, Event::Begun, now)?;
        }
        write.commit()?;
        self.tell(&before, &row);
        Ok(Some(row))
    }

    /// What a job is to be carried out by.
    pub fn recipe(&self, id: Uuid) -> Stored<Option<Vec<u8>>> {
        Ok(self
            .connection
            .query_row(
                "SELECT recipe FROM recipes WHERE job = ?1",
                [id.to_string()],
                |row| row.get(0),
            )
            .optional()?)
    }

    /// Written behind: what the job does next is synced, and its ISO is looked at before it is used.
    pub fn set_iso(&mut self, id: Uuid, iso: &Iso) -> Stored<()> {
        self.write_behind(|connection| {
            connection.execute(
                "UPDATE jobs SET iso_bytes = ?2, iso_sha256 = ?3 WHERE id = ?1",
                params![id.to_string(), iso.bytes, iso.sha256],
            )?;
            Ok(())
        })
    }

    /// Jobs complete since before `before`, of whose ISO something may still be there: of one that
    /// could not be finished too.
    pub fn isos_to_remove(&self, before: u64) -> Stored<Vec<Uuid>> {
        let mut found = self.connection.prepare_cached(
            "SELECT id FROM jobs
             WHERE status = 'complete' AND updated < ?1 AND iso_removed = 0",
        )?;
        let ids = found
            .query_map([before], |row| row.get::<_, String>(0))?
            .collect::<Result<Vec<_>, _>>()?;
        ids.iter().map(|id| parse_id(id)).collect()
    }

    pub fn iso_removed(&mut self, id: Uuid) -> Stored<()> {
        self.connection.execute(
            "UPDATE jobs SET iso_removed = 1 WHERE id = ?1",
            [id.to_string()],
        )?;
        Ok(())
    }
}

/// On every path out of what is written behind, a panic too, the next change is synced again.
struct SyncedAgain<'a>(&'a Connection);

impl Drop for SyncedAgain<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.pragma_update(None, "synchronous", "FULL") {
            tracing::error!(%error, "changes of jobs are not synced one by one any more");
        }
    }
}

fn migrate(connection: &mut Connection) -> Stored<()> {
    let write = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    write.execute_batch(
        "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY) STRICT",
    )?;
    let version: usize = write.query_row(
        "SELECT coalesce(max(version), 0) FROM migrations",
        [],
        |row| row.get(0),
    )?;
    if version > MIGRATIONS.len() {
        return Err(StoreError::Newer { version });
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        write.execute_batch(migration)?;
        write.execute("INSERT INTO migrations (version) VALUES (?1)", [index + 1])?;
    }
    write.commit()?;
    Ok(())
}

/// Applies `event` to the job of `row` and writes both. The outer result is the database's.
fn apply_in(
    write: &Connection,
    row: &mut JobRow,
    event: Event,
    now: u64,
) -> Stored<Result<(), Ignored>> {
    let entries = match row.machine.apply(event, now) {
        Ok(entries) => entries,
        Err(ignored) => return Ok(Err(ignored)),
    };
    row.updated = now;
    write.execute(
        "UPDATE jobs SET machine = ?2, status = ?3, outcome = ?4, failed_step = ?5, due = ?6,
             updated = ?7
         WHERE id = ?1",
        params![
            row.id.to_string(),
            text_of(&row.machine),
            row.machine.status().name(),
            row.machine.outcome().map(|outcome| outcome.name()),
            row.machine.failed_step(),
            row.machine.due(),
            now
        ],
    )?;
    add_events(write, row.id, &entries, now)?;
    Ok(Ok(()))
}

fn add_events(write: &Connection, job: Uuid, entries: &[Entry], now: u64) -> Stored<()> {
    for entry in entries {
        let message: String = entry.message.chars().take(MESSAGE_CHARACTERS_MAX).collect();
        write.execute(
            "INSERT INTO events (job, time, level, step, message) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                job.to_string(),
                now,
                entry.level.name(),
                entry.step,
                message
            ],
        )?;
    }
    if !entries.is_empty() {
        // The first hundred tell how it began, the last ones how it is.
        write.execute(
            "DELETE FROM events WHERE job = ?1
                 AND id NOT IN (SELECT id FROM events WHERE job = ?1 ORDER BY id LIMIT 100)
                 AND id NOT IN (SELECT id FROM events WHERE job = ?1 ORDER BY id DESC LIMIT ?2)",
            params![job.to_string(), EVENTS_KEPT - 100],
        )?;
    }
    Ok(())
}

/// Adds an event unless the job's last one says the same: a node that repeats itself a thousand
/// times is one line.
fn add_event_once(write: &Connection, job: Uuid, entry: &Entry, now: u64) -> Stored<()> {
    let last: Option<Option<String>> = write
        .query_row(
            "SELECT step FROM events WHERE job = ?1 ORDER BY id DESC LIMIT 1",
            [job.to_string()],
            |row| row.get(0),
        )
        .optional()?;
    if last.flatten() == entry.step {
        return Ok(());
    }
    add_events(write, job, std::slice::from_ref(entry), now)
}

fn server_in(connection: &Connection, serial: &str) -> Stored<Option<Server>> {
    Ok(connection
        .query_row(
            "SELECT * FROM servers WHERE serial = ?1",
            [serial],
            read_server,
        )
        .optional()?)
}

fn read_server(row: &Row<'_>) -> rusqlite::Result<Server> {
    Ok(Server {
        serial: row.get("serial")?,
        bmc_address: row.get("bmc_address")?,
        bmc_username: row.get("bmc_username")?,
        bmc_password: row.get("bmc_password")?,
        vendor: row.get("vendor")?,
        node_address: row
            .get::<_, Option<String>>("node_address")?
            .and_then(|address| address.parse().ok()),
        last_seen: row.get("last_seen")?,
    })
}

fn job_in(connection: &Connection, id: Uuid) -> Stored<Option<JobRow>> {
    let mut found = connection.prepare_cached("SELECT * FROM jobs WHERE id = ?1")?;
    let mut rows = found.query([id.to_string()])?;
    match rows.next()? {
        Some(row) => Ok(Some(read_job(row)?)),
        None => Ok(None),
    }
}

fn read_job(row: &Row<'_>) -> Stored<JobRow> {
    let id: String = row.get("id")?;
    let machine: String = row.get("machine")?;
    let iso_bytes: Option<u64> = row.get("iso_bytes")?;
    let iso_sha256: Option<String> = row.get("iso_sha256")?;
    Ok(JobRow {
        id: parse_id(&id)?,
        serial: row.get("serial")?,
        task_target: row.get("task_target")?,
        machine: serde_json::from_str(&machine).map_err(|error| StoreError::Row {
            what: format!("jobs.machine of {id}: {error}"),
        })?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        iso: iso_bytes
            .zip(iso_sha256)
            .map(|(bytes, sha256)| Iso { bytes, sha256 }),
        artifact: read_artifact(row)?,
    })
}

fn read_artifact(row: &Row<'_>) -> Stored<Option<Artifact>> {
    let Some(digest) = row.get::<_, Option<String>>("artifact_digest")? else {
        return Ok(None);
    };
    let repository: String = row.get("artifact_repository")?;
    let unreadable = |what: &str| StoreError::Row {
        what: format!("jobs.artifact_{what}"),
    };
    Ok(Some(Artifact {
        reference: row.get("artifact_reference")?,
        repository: RepositoryName::parse(&repository).map_err(|_| unreadable("repository"))?,
        digest: Digest::parse(&digest).map_err(|_| unreadable("digest"))?,
        bytes: row.get("artifact_bytes")?,
    }))
}

fn text_of(machine: &Job) -> String {
    serde_json::to_string(machine).expect("a job is plain data")
}

fn parse_id(text: &str) -> Stored<Uuid> {
    Uuid::try_parse(text).map_err(|_| StoreError::Row {
        what: format!("jobs.id {text:?}"),
    })
}

fn missing(job: Uuid) -> StoreError {
    StoreError::Row {
        what: format!("job {job} is gone within a transaction"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provision::job::machine::{Ending, Next, Phase};

    struct World {
        folder: tempfile::TempDir,
        store: JobStore,
    }

    fn world() -> World {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut store = JobStore::open(&folder.path().join("db")).expect("a new database");
        for serial in ["XF-1", "XF-2"] {
            let server = Server {
                serial: serial.to_owned(),
                bmc_address: "https://bmc".to_owned(),
                bmc_username: "root".to_owned(),
                bmc_password: b"sealed".to_vec(),
                vendor: None,
                node_address: None,
                last_seen: None,
            };
            assert!(store.put_server(&server).expect("a write"));
        }
        World { folder, store }
    }

    fn a_job(id: Uuid, recipe: &[u8]) -> NewJob<'_> {
        NewJob {
            id,
            serial: "XF-1",
            idempotency_key: None,
            recipe,
            recipe_hash: "a",
            task_target: "install-linux.target",
            machine: Job::new(Ending::Report, 14_400, 100),
            artifact: None,
            entries: &[],
        }
    }

    impl World {
        fn create(&mut self, id: u128, serial: &str, key: Option<&str>, hash: &str) -> Created {
            let new = NewJob {
                serial,
                idempotency_key: key,
                recipe_hash: hash,
                ..a_job(Uuid::from_u128(id), b"{}")
            };
            self.store.create(new, 100).expect("a write")
        }

        fn claimed(&mut self, worker: &str, now: u64) -> Option<Uuid> {
            let row = self.store.claim(worker, now, 600).expect("a write");
            row.map(|row| row.id)
        }

        /// As a worker would, until the machine has been reset.
        fn drive_to_report(&mut self, worker: &str, id: Uuid) {
            let mut record = |event| {
                let row = self
                    .store
                    .record(id, worker, event, &[], false, 110)
                    .expect("a write");
                row.expect("the lease is ours").machine
            };
            while record(Event::Begun).phase() != Phase::AwaitReport {
                record(Event::Done);
            }
        }
    }

    #[test]
    fn a_server_has_one_living_job_and_a_key_gives_the_same_again() {
        let mut world = world();
        let first = Uuid::from_u128(1);
        assert!(matches!(
            world.create(1, "XF-1", Some("k"), "a"),
            Created::New(_)
        ));
        assert!(
            matches!(world.create(2, "XF-1", Some("k"), "a"), Created::Same(row) if row.id == first)
        );
        assert_eq!(
            world.create(3, "XF-1", Some("k"), "b"),
            Created::KeyReused { job: first }
        );
        assert_eq!(
            world.create(4, "XF-1", Some("other"), "a"),
            Created::Active { job: first }
        );
        assert_eq!(
            world.create(5, "XF-1", None, "a"),
            Created::Active { job: first }
        );
        assert_eq!(world.create(6, "XF-3", None, "a"), Created::UnknownServer);
        assert!(matches!(
            world.create(7, "XF-2", Some("k"), "b"),
            Created::New(_)
        ));
        world.store.cancel(first, 101).expect("a write");
        assert!(
            matches!(world.create(8, "XF-1", Some("k"), "a"), Created::New(row) if row.id != first)
        );
        assert_eq!(
            world.store.remove_server("XF-1").expect("a write"),
            Some(false)
        );
    }

    #[test]
    fn a_job_that_a_full_disk_kept_from_being_made_is_not_there() {
        let mut world = world();
        let pages: u32 = world
            .store
            .connection
            .pragma_query_value(None, "page_count", |row| row.get(0))
            .expect("a read");
        world
            .store
            .connection
            .pragma_update(None, "max_page_count", pages)
            .expect("a setting");
        let id = Uuid::from_u128(1);
        let recipe = vec![b' '; 1 << 20];
        let created = world.store.create(a_job(id, &recipe), 100);
        assert!(
            matches!(created, Err(StoreError::Database(_))),
            "{created:?}"
        );
        assert!(!world.store.is_made(id, &created));
        let synced_badly = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
        let unknown = Err(StoreError::Database(rusqlite::Error::SqliteFailure(
            synced_badly,
            None,
        )));
        assert!(world.store.is_made(id, &unknown));
    }

    #[test]
    fn what_is_written_behind_leaves_the_next_change_synced_whatever_becomes_of_it() {
        let mut world = world();
        let is_synced = |world: &World| {
            let level = world
                .store
                .connection
                .pragma_query_value(None, "synchronous", |row| row.get::<_, u32>(0));
            level == Ok(2)
        };
        world.create(1, "XF-1", None, "a");
        assert_eq!(world.claimed("w/0", 100), Some(Uuid::from_u128(1)));
        assert!(is_synced(&world));
        let refused = world.store.write_behind(|connection| {
            assert_eq!(
                connection.pragma_query_value(None, "synchronous", |row| row.get::<_, u32>(0)),
                Ok(1)
            );
            Ok(connection.execute("no SQL", [])?)
        });
        assert!(refused.is_err() && is_synced(&world));
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.store.write_behind(|_| -> Stored<()> {
                std::panic::resume_unwind(Box::new("no"));
            })
        }));
        assert!(failed.is_err() && is_synced(&world));
    }

    #[test]
    fn a_large_recipe_is_not_written_again_with_each_step_of_its_job() {
        let mut world = world();
        let id = Uuid::from_u128(1);
        let recipe = vec![b' '; 2 << 20];
        let created = world.store.create(a_job(id, &recipe), 100);
        assert!(matches!(created, Ok(Created::New(_))), "{created:?}");
        let log = world.folder.path().join("db-wal");
        let emptied =
            world
                .store
                .connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                    row.get::<_, u32>(0)
                });
        assert_eq!(emptied, Ok(0));
        world.claimed("w/0", 100);
        world.drive_to_report("w/0", id);
        let written = fs::metadata(log).expect("it is there").len();
        assert!(written < 1 << 20, "{written} bytes");
        assert_eq!(world.store.recipe(id).expect("a read"), Some(recipe));
    }

    #[test]
    fn a_recipe_of_a_former_version_s_job_is_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("db");
        let former = Connection::open(&path).expect("a new database");
        let id = Uuid::from_u128(1);
        let mut script = "CREATE TABLE migrations (version INTEGER PRIMARY KEY) STRICT;".to_owned();
        // The fifth moves recipes into a table of their own.
        for (index, migration) in MIGRATIONS[..4].iter().enumerate() {
            script.push_str(migration);
            script.push_str(&format!(
                "INSERT INTO migrations (version) VALUES ({});",
                index + 1
            ));
        }
        script.push_str(&format!(
            "INSERT INTO jobs (id, serial, recipe_hash, recipe, machine, status, created, updated)
             VALUES ('{id}', 'XF-1', 'a', x'7b7d', '{}', 'queued', 1, 1);",
            text_of(&Job::new(Ending::Report, 14_400, 1))
        ));
        former.execute_batch(&script).expect("as it was");
        drop(former);
        let store = JobStore::open(&path).expect("it is brought up to date");
        assert_eq!(store.recipe(id).expect("a read"), Some(b"{}".to_vec()));
        assert!(store.job(id).expect("a read").is_some());
    }

    #[test]
    fn what_a_job_without_a_finished_iso_has_left_is_looked_for_too() {
        let mut world = world();
        world.create(1, "XF-1", None, "a");
        let id = Uuid::from_u128(1);
        let old = |world: &World| world.store.isos_to_remove(200).expect("a read");
        assert!(old(&world).is_empty(), "the job lives");
        world.store.cancel(id, 100).expect("a write");
        assert_eq!(old(&world), [id]);
        world.store.iso_removed(id).expect("a write");
        assert!(old(&world).is_empty());
    }

    #[test]
    fn a_lease_is_one_worker_s_until_it_runs_out_unless_it_is_prolonged() {
        let mut world = world();
        world.create(1, "XF-1", None, "a");
        let job = Some(Uuid::from_u128(1));
        assert_eq!(world.claimed("one/0", 100), job);
        assert_eq!(world.claimed("two/0", 699), None);
        world.store.heartbeat("one/", 400, 600).expect("a write");
        assert_eq!(world.claimed("two/0", 999), None);
        assert_eq!(world.claimed("two/0", 1000), job);
        let late = world
            .store
            .record(Uuid::from_u128(1), "one/0", Event::Begun, &[], false, 1001);
        assert_eq!(late.expect("a read"), None);
        world
            .store
            .release(Uuid::from_u128(1), "one/0")
            .expect("a write");
        assert_eq!(world.claimed("three/0", 1002), None);
        world
            .store
            .release(Uuid::from_u128(1), "two/0")
            .expect("a write");
        assert_eq!(world.claimed("three/0", 1003), job);
        assert_eq!(world.store.release_all().expect("a write"), 1);
        assert_eq!(world.claimed("four/0", 1004), job);
    }

    #[test]
    fn the_oldest_is_claimed_first_and_what_is_not_due_is_left() {
        let mut world = world();
        world.create(1, "XF-2", None, "a");
        world.create(2, "XF-1", None, "a");
        assert_eq!(world.claimed("w/0", 100), Some(Uuid::from_u128(1)));
        assert_eq!(world.claimed("w/1", 100), Some(Uuid::from_u128(2)));
        world.drive_to_report("w/0", Uuid::from_u128(1));
        world
            .store
            .release(Uuid::from_u128(1), "w/0")
            .expect("a write");
        world
            .store
            .cancel(Uuid::from_u128(2), 120)
            .expect("a write");
        assert_eq!(world.claimed("w/2", 14_000), None);
        assert_eq!(world.claimed("w/2", 14_511), Some(Uuid::from_u128(1)));
        let row = world
            .store
            .job(Uuid::from_u128(1))
            .expect("a read")
            .expect("it is there");
        assert_eq!(row.machine.next(14_511), Next::Expire);
    }

    #[test]
    fn a_report_counts_once_and_only_after_the_reset() {
        let mut world = world();
        let report = |world: &mut World, delivery: &str| {
            let reported =
                world
                    .store
                    .report("XF-1", None, Some(delivery), Report::Success, None, 200);
            reported.expect("a write")
        };
        assert_eq!(report(&mut world, "a"), Reported::NoJob);
        world.create(1, "XF-1", None, "a");
        let id = Uuid::from_u128(1);
        assert_eq!(report(&mut world, "a"), Reported::TooEarly);
        world.claimed("w/0", 100);
        world.drive_to_report("w/0", id);
        assert_eq!(report(&mut world, "a"), Reported::Taken);
        let before = world.store.job(id).expect("a read");
        for _ in 0..1000 {
            assert_eq!(report(&mut world, "a"), Reported::Again);
        }
        assert_eq!(report(&mut world, "b"), Reported::Again);
        assert_eq!(world.store.job(id).expect("a read"), before);
        let events = world.store.events(id).expect("a read");
        let duplicates = events
            .iter()
            .filter(|event| event.step.as_deref() == Some("webhook-duplicate"));
        assert_eq!(duplicates.count(), 1);
        let other = world
            .store
            .report("XF-2", Some(id), None, Report::Success, None, 200);
        assert_eq!(other.expect("a read"), Reported::NoJob);
    }

    #[test]
    fn pages_of_jobs_follow_each_other_without_gap() {
        let mut world = world();
        for id in 1..=7 {
            assert!(matches!(
                world.create(id, "XF-1", None, "a"),
                Created::New(_)
            ));
            world
                .store
                .cancel(Uuid::from_u128(id), 100)
                .expect("a write");
        }
        let mut filter = Filter {
            limit: 3,
            status: Some(Status::Complete),
            ..Filter::default()
        };
        let mut seen = Vec::new();
        loop {
            let page = world.store.jobs(&filter).expect("a read");
            let Some(last) = page.last() else { break };
            filter.after = Some((last.created, last.id));
            seen.extend(page.iter().map(|row| row.id.as_u128()));
        }
        assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn a_page_of_jobs_is_read_without_the_others() {
        let world = world();
        let explained = format!("EXPLAIN QUERY PLAN {PAGE}");
        let mut plan = world.store.connection.prepare(&explained).expect("SQL");
        let steps = plan
            .query_map(
                params![None::<String>, None::<String>, None::<u64>, "", 50],
                |row| row.get::<_, String>("detail"),
            )
            .expect("a plan");
        let steps: Vec<String> = steps.collect::<Result<_, _>>().expect("a plan");
        assert_eq!(steps, ["SCAN jobs USING INDEX jobs_by_created"]);
    }

    #[test]
    fn a_database_survives_reopening_and_a_newer_one_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("db");
        drop(JobStore::open(&path).expect("a new database"));
        let store = JobStore::open(&path).expect("the same database");
        assert_eq!(store.servers().expect("a read"), []);
        store
            .connection
            .execute("INSERT INTO migrations (version) VALUES (99)", [])
            .expect("a write");
        drop(store);
        assert!(matches!(
            JobStore::open(&path),
            Err(StoreError::Newer { version: 99 })
        ));
    }

    #[test]
    fn the_events_of_a_job_are_bounded_in_number_and_length() {
        let mut world = world();
        world.create(1, "XF-1", None, "a");
        world.claimed("w/0", 100);
        let long = Entry::new(Level::Warn, None, "ä".repeat(3000));
        for _ in 0..1200 {
            let id = Uuid::from_u128(1);
            let notes = std::slice::from_ref(&long);
            world
                .store
                .record(id, "w/0", Event::Tick, notes, false, 100)
                .expect("a write");
        }
        let events = world.store.events(Uuid::from_u128(1)).expect("a read");
        assert_eq!(events.len(), EVENTS_KEPT as usize);
        assert_eq!(events[0].message.chars().count(), MESSAGE_CHARACTERS_MAX);
    }
}
