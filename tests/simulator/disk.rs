//! A disk that forgets: what was not synced may be lost, torn, or there.
//!
//! The fault model is the strict one, no journal's order is assumed:
//!
//! - File content: each 512-byte piece of a write not yet synced survives by itself or not; the
//!   size is any between the smallest and the largest since the last sync, zeros where nothing
//!   was written.
//! - A file's mode: survives or not; the seam's sync promises content and size.
//! - Names: each creation, removal and rename whose folder was not synced survives by itself or
//!   not, but one entry's changes in their order. A file's own sync says nothing about its name, nor a folder's about its own name.
//! - A rename is atomic. Between two folders of which only the target is synced, the file may
//!   keep its old name beside the new one.
//! - A sync that fails leaves its pages clean: a later sync succeeds and has written nothing.
//!
//! Every operation that changes the disk is counted, logged, and can be the one that fails or
//! the last one before the power goes. It is pure: no clock, no waiting; the seed decides.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::time::{Duration, SystemTime};

use provisioner_controller::io::{Entry, Stat};

use super::random::Random;
use super::trace::Trace;

const SECTOR_BYTES: usize = 512;
/// `EIO`, `ENOSPC`, and what paths can be wrong about.
pub const IO_ERROR: i32 = 5;
pub const STORAGE_FULL: i32 = 28;
const NOT_FOUND: i32 = 2;
const DENIED: i32 = 13;
const EXISTS: i32 = 17;
const NOT_A_FOLDER: i32 = 20;
const IS_A_FOLDER: i32 = 21;
const NOT_EMPTY: i32 = 39;

pub type NodeId = u64;

/// Why an operation has no value.
#[derive(Debug)]
pub enum Trouble {
    Error(io::Error),
    /// The power is gone; nobody will ever hear of this operation.
    Hang,
}

pub type Outcome<T> = Result<T, Trouble>;

fn fail<T>(code: i32) -> Outcome<T> {
    Err(Trouble::Error(io::Error::from_raw_os_error(code)))
}

#[derive(Debug, Clone)]
enum Node {
    File(FileNode),
    Folder(FolderNode),
}

#[derive(Debug, Clone)]
struct FileNode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Not synced yet, oldest first.
    pending: Vec<ContentChange>,
    modified: SystemTime,
    /// The mode, and the mode that is durable.
    read_only: bool,
    read_only_durable: bool,
}

#[derive(Debug, Clone)]
enum ContentChange {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Debug, Clone, Default)]
struct FolderNode {
    live: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
}

/// A change of names that no sync covers yet.
#[derive(Debug, Clone)]
enum NameChange {
    Add {
        folder: NodeId,
        name: String,
        node: NodeId,
    },
    Remove {
        folder: NodeId,
        name: String,
    },
    Move {
        from: NodeId,
        old: String,
        to: NodeId,
        new: String,
        node: NodeId,
    },
}

/// What to do to an operation, by its number.
#[derive(Debug, Clone, Default)]
struct Plan {
    crash_at_change: Option<u64>,
    fail_change: Option<(u64, i32)>,
    fail_operation: Option<(u64, i32)>,
}

#[derive(Debug, Clone)]
pub struct Disk {
    nodes: BTreeMap<NodeId, Node>,
    nodes_made: NodeId,
    /// Oldest first, over all folders.
    name_changes: Vec<NameChange>,
    plan: Plan,
    operations: u64,
    changes: u64,
    log: Vec<String>,
    failed: Option<String>,
    halted: bool,
    capacity_bytes: u64,
    /// Folders with this in their path are not synced, whatever the answer says.
    lies_about: Option<String>,
    random: Random,
    trace: Trace,
}

const ROOT: NodeId = 0;

impl Disk {
    pub fn new(seed: u64) -> Self {
        let root = Node::Folder(FolderNode::default());
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            nodes_made: 1,
            name_changes: Vec::new(),
            plan: Plan::default(),
            operations: 0,
            changes: 0,
            log: Vec::new(),
            failed: None,
            halted: false,
            capacity_bytes: 1 << 40,
            lies_about: None,
            random: Random::new(seed ^ 0x6469_736b),
            trace: Trace::default(),
        }
    }

    // ---- Plans and readings: for tests --------------------------------------------------

    /// The power goes at the `number`-th change from here on, counted from 1.
    ///
    /// That change was asked for and is not answered: it may survive like any other.
    pub fn crash_at_change(&mut self, number: u64) {
        self.plan.crash_at_change = Some(self.changes.saturating_add(number));
    }

    /// The `number`-th change from here on fails with the error `code`.
    pub fn fail_change(&mut self, number: u64, code: i32) {
        self.plan.fail_change = Some((self.changes + number, code));
    }

    /// The `number`-th operation of any kind from here on, reads included, fails.
    pub fn fail_operation(&mut self, number: u64, code: i32) {
        self.plan.fail_operation = Some((self.operations + number, code));
    }

    /// Folder syncs of paths with `part` in them do nothing from now on, crashes included: for
    /// tests that have to find that out.
    pub fn lie_about_syncs(&mut self, part: &str) {
        self.lies_about = Some(part.to_owned());
    }

    pub fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
    }

    /// How many changes were asked for: writes, syncs, lengths, names, folder syncs.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Whether the power is gone, also after a last change that came to nothing.
    pub fn is_halted(&self) -> bool {
        self.halted
            || self
                .plan
                .crash_at_change
                .is_some_and(|last| self.changes >= last)
    }

    /// What the planned failure hit, if it has happened.
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// The last changes, for a message about a failure.
    pub fn last_changes(&self, count: usize) -> String {
        self.log[self.log.len().saturating_sub(count)..].join("\n")
    }

    pub fn trace(&self) -> u64 {
        self.trace.value()
    }

    /// The whole tree as `path → content`, folders with a `/` at the end and no content.
    pub fn tree(&self) -> BTreeMap<String, Vec<u8>> {
        let mut tree = BTreeMap::new();
        self.add_tree(ROOT, "", &mut tree);
        tree
    }

    fn add_tree(&self, folder: NodeId, path: &str, tree: &mut BTreeMap<String, Vec<u8>>) {
        for (name, &node) in &self.folder(folder).live {
            let path = format!("{path}/{name}");
            match &self.nodes[&node] {
                Node::File(file) => {
                    tree.insert(path, file.live.clone());
                }
                Node::Folder(_) => {
                    tree.insert(format!("{path}/"), Vec::new());
                    self.add_tree(node, &path, tree);
                }
            }
        }
    }

    /// Makes `path` and all above it at once and for good: what was there before the test.
    pub fn prepare_folder(&mut self, path: &Path) {
        let mut at = ROOT;
        for name in names(path) {
            at = match self.folder(at).live.get(name) {
                Some(&node) => node,
                None => {
                    let node = self.add_node(Node::Folder(FolderNode::default()));
                    let folder = self.folder_mut(at);
                    folder.live.insert(name.to_owned(), node);
                    folder.durable.insert(name.to_owned(), node);
                    node
                }
            };
        }
    }

    /// Changes a file's content behind everybody's back, durably: bit rot.
    pub fn rot(&mut self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Ok(node) = self.find(path) else {
            return false;
        };
        let Some(Node::File(file)) = self.nodes.get_mut(&node) else {
            return false;
        };
        change(&mut file.live);
        file.durable = file.live.clone();
        file.pending.clear();
        true
    }

    /// The disk as the next start finds it, after the power went now.
    ///
    /// Seeds 0 to 3 are the corners (nothing unsynced survives; only names; only content; all);
    /// the others mix.
    pub fn crash(&self, seed: u64) -> Disk {
        let mut random = Random::new(seed ^ 0x6372_6173_6800);
        let (content, naming) = match seed {
            0 => (0, 0),
            1 => (0, 8),
            2 => (8, 0),
            3 => (8, 8),
            _ => (random.within(0..9), random.within(0..9)),
        };
        let mut after = self.clone();
        after.settle_names(|_| match random.chance(naming) {
            true => Survives::Whole,
            false => Survives::Open,
        });
        after.name_changes.clear();
        for node in after.nodes.values_mut() {
            match node {
                Node::File(file) => file.crash(content, &mut random),
                Node::Folder(folder) => folder.live = folder.durable.clone(),
            }
        }
        after.drop_unreachable();
        after.random = random;
        after.begin_anew();
        after
    }

    /// The disk as the next process finds it, after this one was killed now: all of it is there,
    /// and what was not synced still is not.
    pub fn kill(&self) -> Disk {
        let mut after = self.clone();
        after.begin_anew();
        after
    }

    fn begin_anew(&mut self) {
        self.plan = Plan::default();
        self.log.clear();
        self.failed = None;
        self.halted = false;
        self.changes = 0;
        self.operations = 0;
    }

    fn drop_unreachable(&mut self) {
        let mut reachable = vec![ROOT];
        let mut at = 0;
        while let Some(&node) = reachable.get(at) {
            if let Node::Folder(folder) = &self.nodes[&node] {
                reachable.extend(folder.live.values());
            }
            at += 1;
        }
        reachable.sort_unstable();
        self.nodes
            .retain(|node, _| reachable.binary_search(node).is_ok());
    }

    // ---- Operations: what the seam asks for ---------------------------------------------

    pub fn open(&mut self, path: &Path, for_writing: bool) -> Outcome<NodeId> {
        self.look("open", path)?;
        let node = self.find(path)?;
        match &self.nodes[&node] {
            Node::Folder(_) => fail(IS_A_FOLDER),
            Node::File(file) if file.read_only && for_writing => fail(DENIED),
            Node::File(_) => Ok(node),
        }
    }

    pub fn create(&mut self, path: &Path, now: SystemTime) -> Outcome<NodeId> {
        let last = self.change(&format!("create {}", path.display()), 0)?;
        let (folder, name) = self.place(path)?;
        if self.folder(folder).live.contains_key(&name) {
            return fail(EXISTS);
        }
        let node = self.add_node(Node::File(FileNode {
            live: Vec::new(),
            durable: Vec::new(),
            pending: Vec::new(),
            modified: now,
            read_only: false,
            read_only_durable: false,
        }));
        self.folder_mut(folder).live.insert(name.clone(), node);
        self.name_changes
            .push(NameChange::Add { folder, name, node });
        self.end(last)?;
        Ok(node)
    }

    pub fn make_folder(&mut self, path: &Path) -> Outcome<()> {
        let last = self.change(&format!("make folder {}", path.display()), 0)?;
        let (folder, name) = self.place(path)?;
        match self.folder(folder).live.get(&name) {
            Some(node) if matches!(self.nodes[node], Node::Folder(_)) => {}
            Some(_) => return fail(EXISTS),
            None => {
                let node = self.add_node(Node::Folder(FolderNode::default()));
                self.folder_mut(folder).live.insert(name.clone(), node);
                self.name_changes
                    .push(NameChange::Add { folder, name, node });
            }
        }
        self.end(last)
    }

    pub fn rename(&mut self, old_path: &Path, new_path: &Path) -> Outcome<()> {
        let words = format!("rename {} to {}", old_path.display(), new_path.display());
        let last = self.change(&words, 0)?;
        let (from, old) = self.place(old_path)?;
        let (to, new) = self.place(new_path)?;
        let Some(&node) = self.folder(from).live.get(&old) else {
            return fail(NOT_FOUND);
        };
        let moves_folder = matches!(self.nodes[&node], Node::Folder(_));
        match self.folder(to).live.get(&new) {
            Some(&there) if there == node => return self.end(last),
            Some(there) => match &self.nodes[there] {
                Node::Folder(_) if !moves_folder => return fail(IS_A_FOLDER),
                Node::Folder(there) if !there.live.is_empty() => return fail(NOT_EMPTY),
                Node::File(_) if moves_folder => return fail(NOT_A_FOLDER),
                _ => {}
            },
            None => {}
        }
        self.folder_mut(from).live.remove(&old);
        self.folder_mut(to).live.insert(new.clone(), node);
        self.name_changes.push(NameChange::Move {
            from,
            old,
            to,
            new,
            node,
        });
        self.end(last)
    }

    pub fn remove(&mut self, path: &Path) -> Outcome<()> {
        let last = self.change(&format!("remove {}", path.display()), 0)?;
        let (folder, name) = self.place(path)?;
        match self.folder(folder).live.get(&name) {
            None => return fail(NOT_FOUND),
            Some(node) if matches!(self.nodes[node], Node::Folder(_)) => return fail(IS_A_FOLDER),
            Some(_) => {}
        }
        self.folder_mut(folder).live.remove(&name);
        self.name_changes.push(NameChange::Remove { folder, name });
        self.end(last)
    }

    pub fn remove_folder(&mut self, path: &Path) -> Outcome<()> {
        let last = self.change(&format!("remove folder {}", path.display()), 0)?;
        let (folder, name) = self.place(path)?;
        match self
            .folder(folder)
            .live
            .get(&name)
            .map(|node| &self.nodes[node])
        {
            None => return fail(NOT_FOUND),
            Some(Node::File(_)) => return fail(NOT_A_FOLDER),
            Some(Node::Folder(inner)) if !inner.live.is_empty() => return fail(NOT_EMPTY),
            Some(Node::Folder(_)) => {}
        }
        self.folder_mut(folder).live.remove(&name);
        self.name_changes.push(NameChange::Remove { folder, name });
        self.end(last)
    }

    pub fn sync_folder(&mut self, path: &Path) -> Outcome<()> {
        let last = self.change(&format!("sync folder {}", path.display()), 0)?;
        let id = self.find(path)?;
        if !matches!(self.nodes[&id], Node::Folder(_)) {
            return fail(NOT_A_FOLDER);
        }
        // Not answered, not promised: what survives of it, the seed says.
        self.end(last)?;
        let text = path.to_str().expect("paths are text");
        if self
            .lies_about
            .as_ref()
            .is_some_and(|part| text.contains(part))
        {
            return Ok(());
        }
        self.settle_names(|change| match change {
            // The target is durable, the old name's going is not yet.
            NameChange::Move { from, to, .. } if *to == id && *from != id => Survives::Added,
            _ if change.touches(id) => Survives::Whole,
            _ => Survives::Open,
        });
        Ok(())
    }

    pub fn stat(&mut self, path: &Path) -> Outcome<Option<Stat>> {
        self.look("stat", path)?;
        let node = match self.find(path) {
            Ok(node) => node,
            Err(Trouble::Error(_)) => return Ok(None),
            Err(Trouble::Hang) => return Err(Trouble::Hang),
        };
        Ok(Some(match &self.nodes[&node] {
            Node::File(file) => Stat {
                size_bytes: file.live.len() as u64,
                modified: file.modified,
                is_folder: false,
                is_read_only: file.read_only,
            },
            Node::Folder(_) => Stat {
                size_bytes: 0,
                modified: SystemTime::UNIX_EPOCH,
                is_folder: true,
                is_read_only: false,
            },
        }))
    }

    pub fn list(&mut self, path: &Path) -> Outcome<Vec<Entry>> {
        self.look("list", path)?;
        let node = self.find(path)?;
        let Node::Folder(folder) = &self.nodes[&node] else {
            return fail(NOT_A_FOLDER);
        };
        let entry = |(name, node): (&String, &NodeId)| Entry {
            name: name.clone(),
            is_folder: matches!(self.nodes[node], Node::Folder(_)),
        };
        let mut entries: Vec<Entry> = folder.live.iter().map(entry).collect();
        // In no order: nobody may rely on one.
        for last in (1..entries.len()).rev() {
            let other = self.random.index(last + 1);
            entries.swap(last, other);
        }
        Ok(entries)
    }

    pub fn read(&mut self, node: NodeId, offset: u64, length: usize) -> Outcome<Vec<u8>> {
        self.look("read", Path::new(""))?;
        Ok(self.content(node, offset, length).to_vec())
    }

    /// The bytes themselves, uncounted: what a socket takes from the page cache.
    pub fn content(&self, node: NodeId, offset: u64, length: usize) -> &[u8] {
        let live = &self.file(node).live;
        let start = usize::try_from(offset).map_or(live.len(), |start| start.min(live.len()));
        &live[start..live.len().min(start.saturating_add(length))]
    }

    pub fn write(
        &mut self,
        node: NodeId,
        offset: u64,
        bytes: &[u8],
        now: SystemTime,
    ) -> Outcome<()> {
        let words = format!("write #{node} at {offset}, {} bytes", bytes.len());
        let offset = usize::try_from(offset).expect("simulated files are small");
        let grown = (offset + bytes.len()).saturating_sub(self.file(node).live.len());
        let room = self.free_bytes() >= grown as u64;
        let (last, error) = match self.change(&words, bytes.len() as u64) {
            Ok(last) => (last, None),
            Err(Trouble::Hang) => return Err(Trouble::Hang),
            Err(Trouble::Error(error)) => (false, Some(error)),
        };
        let full = (!room).then(|| io::Error::from_raw_os_error(STORAGE_FULL));
        let error = error.or(full);
        // A write that fails may have written a beginning.
        let written = match error {
            Some(_) => self.random.index(bytes.len() + 1),
            None => bytes.len(),
        };
        let file = self.file_mut(node);
        file.write(offset, &bytes[..written]);
        file.modified = now;
        match error {
            Some(error) => Err(Trouble::Error(error)),
            None => self.end(last),
        }
    }

    pub fn set_len(&mut self, node: NodeId, size_bytes: u64, now: SystemTime) -> Outcome<()> {
        let last = self.change(&format!("set length of #{node} to {size_bytes}"), 0)?;
        let size = usize::try_from(size_bytes).expect("simulated files are small");
        let file = self.file_mut(node);
        file.live.resize(size, 0);
        file.pending.push(ContentChange::SetLen(size));
        file.modified = now;
        self.end(last)
    }

    pub fn sync(&mut self, node: NodeId) -> Outcome<()> {
        match self.change(&format!("sync #{node}"), 0) {
            Ok(last) => self.end(last)?,
            Err(Trouble::Hang) => return Err(Trouble::Hang),
            Err(error) => {
                let mut random = self.random.fork();
                self.file_mut(node).lose_pending(&mut random);
                return Err(error);
            }
        }
        self.file_mut(node).settle_all();
        Ok(())
    }

    pub fn allocate(&mut self, node: NodeId, end: u64) -> Outcome<()> {
        self.look("allocate", Path::new(""))?;
        let missing = end.saturating_sub(self.file(node).live.len() as u64);
        if self.free_bytes() < missing {
            fail(STORAGE_FULL)
        } else {
            Ok(())
        }
    }

    /// Write-back promises nothing, so it does nothing; when it fails, the pages are clean.
    pub fn write_back(&mut self, node: NodeId) -> Outcome<()> {
        let done = self.look("write back", Path::new(""));
        if let Err(Trouble::Error(_)) = done {
            let mut random = self.random.fork();
            self.file_mut(node).lose_pending(&mut random);
        }
        done
    }

    pub fn read_ahead(&mut self) -> Outcome<()> {
        self.look("read ahead", Path::new(""))
    }

    pub fn make_read_only(&mut self, node: NodeId) -> Outcome<()> {
        self.file_mut(node).read_only = true;
        self.sync(node)?;
        self.file_mut(node).read_only_durable = true;
        Ok(())
    }

    pub fn make_writable(&mut self, path: &Path) -> Outcome<()> {
        let node = self.find(path)?;
        self.file_mut(node).read_only = false;
        self.sync(node)?;
        self.file_mut(node).read_only_durable = false;
        Ok(())
    }

    pub fn size_bytes(&self, node: NodeId) -> u64 {
        self.file(node).live.len() as u64
    }

    pub fn free_space(&mut self) -> Outcome<u64> {
        self.look("free space", Path::new(""))?;
        Ok(self.free_bytes())
    }

    fn free_bytes(&self) -> u64 {
        let used: usize = self
            .nodes
            .values()
            .map(|node| match node {
                Node::File(file) => file.live.len(),
                Node::Folder(_) => 0,
            })
            .sum();
        self.capacity_bytes.saturating_sub(used as u64)
    }

    // ---- The gate every operation passes ------------------------------------------------

    fn look(&mut self, what: &str, path: &Path) -> Outcome<()> {
        self.trace.add_bytes(what.as_bytes());
        self.trace.add_bytes(path.as_os_str().as_encoded_bytes());
        self.count_operation(|| format!("{what} {}", path.display()))
    }

    fn count_operation(&mut self, words: impl FnOnce() -> String) -> Outcome<()> {
        if self.is_halted() {
            return Err(Trouble::Hang);
        }
        self.operations += 1;
        match self.plan.fail_operation {
            Some((number, code)) if number == self.operations => {
                self.failed = Some(words());
                fail(code)
            }
            _ => Ok(()),
        }
    }

    /// Counts a change; true when it is the last one before the power goes.
    fn change(&mut self, words: &str, number: u64) -> Outcome<bool> {
        self.trace.add_bytes(words.as_bytes());
        self.trace.add(number);
        self.count_operation(|| words.to_owned())?;
        self.changes += 1;
        self.log.push(format!("{:4} {words}", self.changes));
        if let Some((number, code)) = self.plan.fail_change
            && number == self.changes
        {
            self.failed = Some(words.to_owned());
            return fail(code);
        }
        Ok(self.plan.crash_at_change == Some(self.changes))
    }

    fn end(&mut self, last: bool) -> Outcome<()> {
        if last {
            self.halted = true;
            return Err(Trouble::Hang);
        }
        Ok(())
    }

    // ---- Names --------------------------------------------------------------------------

    /// Makes those changes durable that `survives` says, and with each all older ones of the
    /// same entries: one entry's changes are never seen out of order.
    fn settle_names(&mut self, mut survives: impl FnMut(&NameChange) -> Survives) {
        let changes = std::mem::take(&mut self.name_changes);
        let mut settled_entries = BTreeSet::new();
        let mut fates = Vec::new();
        for change in changes.iter().rev() {
            let is_needed = change
                .entries()
                .any(|entry| settled_entries.contains(&entry));
            let fate = if is_needed {
                Survives::Whole
            } else {
                survives(change)
            };
            match fate {
                Survives::Whole => settled_entries.extend(change.entries()),
                Survives::Added => settled_entries.extend(change.entries().take(1)),
                Survives::Open => {}
            }
            fates.push(fate);
        }
        for (change, fate) in changes.iter().zip(fates.into_iter().rev()) {
            match (fate, change) {
                (Survives::Whole, _) => self.settle_name(change),
                (Survives::Added, NameChange::Move { from, old, .. }) => {
                    self.settle_added(change);
                    let removal = NameChange::Remove {
                        folder: *from,
                        name: old.clone(),
                    };
                    self.name_changes.push(removal);
                }
                _ => self.name_changes.push(change.clone()),
            }
        }
    }

    /// Makes a change of names durable.
    fn settle_name(&mut self, change: &NameChange) {
        match change {
            NameChange::Add { .. } => self.settle_added(change),
            NameChange::Remove { folder, name } => {
                self.folder_mut(*folder).durable.remove(name);
            }
            NameChange::Move { from, old, .. } => {
                self.folder_mut(*from).durable.remove(old);
                self.settle_added(change);
            }
        }
    }

    fn settle_added(&mut self, change: &NameChange) {
        let (folder, name, node) = match change {
            NameChange::Add { folder, name, node } => (folder, name, node),
            NameChange::Move { to, new, node, .. } => (to, new, node),
            NameChange::Remove { .. } => return,
        };
        self.folder_mut(*folder).durable.insert(name.clone(), *node);
    }

    fn find(&self, path: &Path) -> Outcome<NodeId> {
        let mut at = ROOT;
        for name in names(path) {
            let Node::Folder(folder) = &self.nodes[&at] else {
                return fail(NOT_A_FOLDER);
            };
            match folder.live.get(name) {
                Some(&node) => at = node,
                None => return fail(NOT_FOUND),
            }
        }
        Ok(at)
    }

    /// The folder a path's last name is in, and that name.
    fn place(&self, path: &Path) -> Outcome<(NodeId, String)> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a path has a name");
        let folder = self.find(path.parent().expect("a path with a name has a parent"))?;
        match &self.nodes[&folder] {
            Node::Folder(_) => Ok((folder, name.to_owned())),
            Node::File(_) => fail(NOT_A_FOLDER),
        }
    }

    // ---- Nodes --------------------------------------------------------------------------

    fn add_node(&mut self, node: Node) -> NodeId {
        let id = self.nodes_made;
        self.nodes_made += 1;
        self.nodes.insert(id, node);
        id
    }

    fn folder(&self, id: NodeId) -> &FolderNode {
        match &self.nodes[&id] {
            Node::Folder(folder) => folder,
            Node::File(_) => unreachable!("node {id} is a file"),
        }
    }

    fn folder_mut(&mut self, id: NodeId) -> &mut FolderNode {
        match self.nodes.get_mut(&id) {
            Some(Node::Folder(folder)) => folder,
            _ => unreachable!("node {id} is no folder"),
        }
    }

    fn file(&self, id: NodeId) -> &FileNode {
        match &self.nodes[&id] {
            Node::File(file) => file,
            Node::Folder(_) => unreachable!("node {id} is a folder"),
        }
    }

    fn file_mut(&mut self, id: NodeId) -> &mut FileNode {
        match self.nodes.get_mut(&id) {
            Some(Node::File(file)) => file,
            _ => unreachable!("node {id} is no file"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Survives {
    Whole,
    /// Of a move, the new name; the old one may still be there too.
    Added,
    Open,
}

impl NameChange {
    /// Folder and name of what it changes, what it adds first.
    fn entries(&self) -> impl Iterator<Item = (NodeId, String)> {
        let (first, second) = match self {
            NameChange::Add { folder, name, .. } | NameChange::Remove { folder, name } => {
                ((*folder, name.clone()), None)
            }
            NameChange::Move {
                from, old, to, new, ..
            } => ((*to, new.clone()), Some((*from, old.clone()))),
        };
        std::iter::once(first).chain(second)
    }

    fn touches(&self, id: NodeId) -> bool {
        match self {
            NameChange::Add { folder, .. } | NameChange::Remove { folder, .. } => *folder == id,
            NameChange::Move { from, to, .. } => *from == id || *to == id,
        }
    }
}

impl FileNode {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.live, offset, bytes);
        self.pending.push(ContentChange::Write {
            offset,
            bytes: bytes.to_vec(),
        });
    }

    /// What a data sync covers: content and size. The mode is neither.
    fn settle_all(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                ContentChange::Write { offset, bytes } => put(&mut self.durable, offset, &bytes),
                ContentChange::SetLen(size) => self.durable.resize(size, 0),
            }
        }
    }

    /// A sync has failed: some of it is on the disk, and what is not will never be.
    fn lose_pending(&mut self, random: &mut Random) {
        let (live, read_only) = (self.live.clone(), self.read_only);
        let content = random.within(0..9);
        self.crash(content, random);
        (self.live, self.read_only) = (live, read_only);
    }

    fn crash(&mut self, of_eight: u64, random: &mut Random) {
        if self.read_only && random.chance(of_eight) {
            self.read_only_durable = true;
        }
        self.read_only = self.read_only_durable;
        if self.pending.is_empty() {
            self.live = self.durable.clone();
            return;
        }
        let (mut smallest, mut largest) = (self.durable.len(), self.durable.len());
        let mut size = self.durable.len();
        let mut content = self.durable.clone();
        for change in std::mem::take(&mut self.pending) {
            match change {
                ContentChange::Write { offset, bytes } => {
                    size = size.max(offset + bytes.len());
                    scatter(&mut content, offset, &bytes, of_eight, random);
                }
                ContentChange::SetLen(new) => {
                    size = new;
                    // What a cut took may be there again, what grew is zeros.
                    if random.chance(of_eight) {
                        content.resize(new, 0);
                    }
                }
            }
            smallest = smallest.min(size);
            largest = largest.max(size);
        }
        let size = match of_eight {
            0 => self.durable.len(),
            8 => size,
            _ if random.chance(4) => size,
            _ => random.within(smallest as u64..largest as u64 + 1) as usize,
        };
        content.resize(size, 0);
        self.durable = content.clone();
        self.live = content;
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

/// Writes those pieces of `bytes` that survive; pieces end where sectors or pages do.
fn scatter(content: &mut Vec<u8>, offset: usize, bytes: &[u8], of_eight: u64, random: &mut Random) {
    let piece_bytes = if random.chance(4) {
        SECTOR_BYTES
    } else {
        8 * SECTOR_BYTES
    };
    let mut start = 0;
    while start < bytes.len() {
        let to_boundary = piece_bytes - (offset + start) % piece_bytes;
        let end = bytes.len().min(start + to_boundary);
        if random.chance(of_eight) {
            put(content, offset + start, &bytes[start..end]);
        }
        start = end;
    }
}

fn names(path: &Path) -> impl Iterator<Item = &str> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_str().expect("paths are text")),
        Component::RootDir | Component::CurDir => None,
        other => panic!("{other:?} has no place in a path of the store"),
    })
}

/// The clock on the wall when a world begins: some day in 2026.
pub fn first_day() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}
