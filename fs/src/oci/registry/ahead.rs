//! Parts of blobs that are asked for before anybody reads them, since it is known that somebody
//! will: so that they come while other things are waited for.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use super::error::RegistryError;
use crate::digest::Digest;

/// What all parts may take together, in bytes: more are left to who reads them.
const MOST: usize = 32 << 20;

type Bytes = Result<Vec<u8>, RegistryError>;

/// The parts that nobody has read yet.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Vec<Part>>);

#[derive(Debug)]
struct Part {
    blob: Digest,
    offset: u64,
    len: usize,
    bytes: Receiver<Bytes>,
}

impl Ahead {
    /// Notes a part that is about to be asked for; what comes is to be sent. `None` when it is not
    /// worth it.
    pub(super) fn add(&self, blob: Digest, offset: u64, len: usize) -> Option<SyncSender<Bytes>> {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |part: &Part| (part.blob, part.offset, part.len) == (blob, offset, len);
        let taken: usize = parts.iter().map(|part| part.len).sum();
        if parts.iter().any(same) || taken.saturating_add(len) > MOST {
            return None;
        }
        let (sender, bytes) = sync_channel(1);
        parts.push(Part { blob, offset, len, bytes });
        Some(sender)
    }

    /// Waits for a part that was asked for. `None` if it was not, was taken already, or cannot be
    /// had: whoever asks himself is told why.
    pub(super) fn take(&self, blob: Digest, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |part: &Part| (part.blob, part.offset, part.len) == (blob, offset, len);
        let part = parts.iter().position(same).map(|place| parts.swap_remove(place))?;
        drop(parts);
        part.bytes.recv().ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_there_once_for_who_asks_for_just_it() {
        let (ahead, blob) = (Ahead::default(), Digest::of(b"blob"));
        let sender = ahead.add(blob, 7, 3).unwrap();
        assert!(ahead.add(blob, 7, 3).is_none(), "it is on its way");
        sender.send(Ok(b"abc".to_vec())).unwrap();
        assert_eq!(ahead.take(blob, 7, 2), None);
        assert_eq!(ahead.take(Digest::of(b"other"), 7, 3), None);
        assert_eq!(ahead.take(blob, 7, 3), Some(b"abc".to_vec()));
        assert_eq!(ahead.take(blob, 7, 3), None);
    }

    #[test]
    fn what_cannot_be_had_or_kept_is_left_to_the_reader() {
        let (ahead, blob) = (Ahead::default(), Digest::of(b"blob"));
        let error = RegistryError::SetUp("gone".to_owned());
        ahead.add(blob, 0, 1).unwrap().send(Err(error)).unwrap();
        assert_eq!(ahead.take(blob, 0, 1), None);
        drop(ahead.add(blob, 0, 1));
        assert_eq!(ahead.take(blob, 0, 1), None, "whoever was to send it is gone");
        assert!(ahead.add(blob, 0, MOST).is_some());
        assert!(ahead.add(blob, 1, 1).is_none(), "there is no room");
    }
}
