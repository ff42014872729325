//! Passthrough: large files that the kernel reads from the cache by itself.
//!
//! The kernel takes a file to read from in the answer to `open`, and so `open` is answered here,
//! for all files, where a mount without this has the kernel open on its own. An inode cannot be
//! open in both ways at once, nor from two files: the kernel fails such an open. The rules that
//! keep it from that:
//!
//! - an inode is given a file only while nobody has it open otherwise;
//! - once it was, all who open it get that file, by the number that the kernel knows it by, until
//!   the mount ends;
//! - the number is in the journal before the kernel is told. A server that goes on where another
//!   one was killed does not know who has which inode open: it gives the files of the journal,
//!   and no others.
//!
//! A file is looked for, checked, and made by a thread of its own: whoever opens meanwhile is
//! answered as if there were none.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use fuser::{FileHandle, FopenFlags, ReplyOpen};

use crate::filesystem::{ImageFs, Ino};
use crate::sys;

/// Files that wait to be looked for; what is opened while there are more waits for its next open.
const MOST_WAITING: usize = 256;

/// Bytes of an entry of the journal: inode number and number of the file, little-endian.
const ENTRY: usize = 16;

/// What is open in one mount, and how.
#[derive(Debug)]
pub struct Through {
    fs: Arc<ImageFs>,
    state: Arc<Mutex<State>>,
    journal: File,
    wanted: SyncSender<Wanted>,
}

#[derive(Debug, Default)]
struct State {
    /// The large files that were opened.
    files: HashMap<Ino, Opened>,
    /// Entries in the journal.
    entries: u64,
    /// No inode is given a file any more that has none.
    ended: bool,
}

#[derive(Debug, Default)]
struct Opened {
    /// How many have it open and read by way of us.
    openers: u64,
    /// Bytes that were read by way of us.
    read: u64,
    /// It is being looked for.
    sought: bool,
    /// What it can be read from.
    whole: Option<File>,
    /// By which number the kernel knows what it reads it from.
    backing: Option<u32>,
}

/// A file that is to be looked for, and whether it was wholly read already.
#[derive(Debug)]
struct Wanted {
    ino: Ino,
    read: bool,
}

impl Through {
    /// For a mount of `fs` that is not served yet. `None` if it has no large files, or no cache to
    /// keep them in.
    pub fn first(fs: &Arc<ImageFs>, journal: &Path) -> io::Result<Option<Arc<Self>>> {
        if !fs.has_large() {
            return Ok(None);
        }
        let journal = File::options().read(true).write(true).create_new(true).open(journal)?;
        Self::new(fs, journal).map(Some)
    }

    /// For a mount that another process serves still, or did: see [`Through::go_on`]. `None` if
    /// that one did not use passthrough.
    pub fn again(fs: &Arc<ImageFs>, journal: &Path) -> io::Result<Option<Arc<Self>>> {
        match File::options().read(true).write(true).open(journal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            journal => Self::new(fs, journal?).map(Some),
        }
    }

    fn new(fs: &Arc<ImageFs>, journal: File) -> io::Result<Arc<Self>> {
        let (wanted, work) = sync_channel(MOST_WAITING);
        let state = Arc::new(Mutex::default());
        let seeker = Seeker { fs: fs.clone(), state: state.clone() };
        thread::Builder::new().name("kfs-whole".to_owned()).spawn(move || seeker.run(&work))?;
        Ok(Arc::new(Self { fs: fs.clone(), state, journal, wanted }))
    }

    /// Takes over what is open, now that the predecessor is gone.
    pub fn go_on(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.ended = true;
        let len = self.journal.metadata()?.len();
        let mut entry = [0; ENTRY];
        while (state.entries + 1) * ENTRY as u64 <= len {
            self.journal.read_exact_at(&mut entry, state.entries * ENTRY as u64)?;
            let number =
                |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("8 bytes"));
            let backing = u32::try_from(number(8)).map_err(io::Error::other)?;
            state.files.entry(Ino(number(0))).or_default().backing = Some(backing);
            state.entries += 1;
        }
        Ok(())
    }

    /// Answers an open.
    pub(super) fn open(&self, ino: Ino, reply: ReplyOpen) {
        if !self.fs.is_large(ino) {
            return ordinary(reply);
        }
        let mut state = lock(&self.state);
        match self.backing(&mut state, ino, &reply) {
            Some(backing) => sys::open_through(reply, FopenFlags::FOPEN_NOFLUSH, backing),
            None => {
                let ended = state.ended;
                let opened = state.files.entry(ino).or_default();
                opened.openers += 1;
                if !ended {
                    self.seek(ino, opened);
                }
                ordinary(reply);
            }
        }
    }

    /// Notes that somebody closed an inode.
    pub(super) fn release(&self, ino: Ino) {
        let mut state = lock(&self.state);
        let ended = state.ended;
        let Some(opened) = state.files.get_mut(&ino).filter(|opened| opened.backing.is_none())
        else {
            return;
        };
        opened.openers = opened.openers.saturating_sub(1);
        if opened.openers == 0 && !ended {
            self.seek(ino, opened);
        }
    }

    /// Notes that an inode is read by way of us.
    pub(super) fn note_read(&self, ino: Ino, size: usize) {
        if let Some(opened) = lock(&self.state).files.get_mut(&ino) {
            opened.read = opened.read.saturating_add(size as u64);
        }
    }

    /// The number of what an inode is to be read from, if there is anything.
    fn backing(&self, state: &mut State, ino: Ino, reply: &ReplyOpen) -> Option<u32> {
        let ended = state.ended;
        let opened = state.files.get_mut(&ino)?;
        if opened.backing.is_some() || ended || opened.openers > 0 {
            return opened.backing;
        }
        let whole = opened.whole.take()?;
        let backing = reply.open_backing(&whole).map(fuser::BackingId::into_raw);
        let noted = backing.and_then(|backing| {
            self.note(state.entries, ino, backing)?;
            Ok(backing)
        });
        match noted {
            Ok(backing) => {
                state.entries += 1;
                opened.backing = Some(backing);
            }
            Err(error) => {
                tracing::info!("large files are read by way of the server: {error}");
                state.ended = true;
            }
        }
        state.files.get(&ino)?.backing
    }

    fn note(&self, entries: u64, ino: Ino, backing: u32) -> io::Result<()> {
        let mut entry = [0; ENTRY];
        entry[..8].copy_from_slice(&ino.0.to_le_bytes());
        entry[8..].copy_from_slice(&u64::from(backing).to_le_bytes());
        self.journal.write_all_at(&entry, entries * ENTRY as u64)
    }

    /// Has a whole file looked for.
    fn seek(&self, ino: Ino, opened: &mut Opened) {
        if opened.sought || opened.whole.is_some() {
            return;
        }
        let size = self.fs.attr(ino).map_or(u64::MAX, |attr| attr.size);
        let wanted = Wanted { ino, read: opened.read >= size };
        opened.sought = self.wanted.try_send(wanted).is_ok();
    }
}

/// The kernel reads by way of us, and keeps the page cache.
fn ordinary(reply: ReplyOpen) {
    reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // The state is consistent between any two statements.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that looks for whole files. It ends with the last sender.
struct Seeker {
    fs: Arc<ImageFs>,
    state: Arc<Mutex<State>>,
}

impl Seeker {
    fn run(&self, work: &Receiver<Wanted>) {
        while let Ok(Wanted { ino, read }) = work.recv() {
            let whole = self.fs.whole(ino, read).unwrap_or_else(|error| {
                tracing::debug!("no whole file of inode {}: {error}", ino.0);
                None
            });
            if let Some(opened) = lock(&self.state).files.get_mut(&ino) {
                opened.sought = false;
                opened.whole = whole;
            }
        }
    }
}
