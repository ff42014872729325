//! What the client is told: where configuration, certificates and credentials lie, and for how
//! long to be patient. The library asks neither the environment nor the home directory.

use std::path::PathBuf;
use std::time::Duration;

use super::auth::AuthFiles;
use super::proxy::Proxies;

/// The settings of a registry client.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Candidates for `registries.conf`; the first that is there counts, with the
    /// `registries.conf.d` beside it.
    pub registries_conf: Vec<PathBuf>,
    /// Directories with a directory of certificates a registry (`certs.d`).
    pub certs_dirs: Vec<PathBuf>,
    /// Where credentials are.
    pub auth: AuthFiles,
    /// Speak http with every registry, never https.
    pub plain_http: bool,
    /// Proxies.
    pub proxies: Proxies,
    /// How long a read may go without a byte, or with next to none (see `retry`), all attempts
    /// together, before it fails.
    pub read_timeout: Duration,
    /// The same for one attempt, before the next one.
    pub stall: Duration,
    /// Where to keep the blob of a registry that cannot send parts: a directory with room.
    pub spool: PathBuf,
}

impl Settings {
    /// How long a read may go without a byte, unless the user says otherwise.
    pub const READ_TIMEOUT: Duration = Duration::from_secs(60);

    /// The longest patience there is: a day.
    pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

    /// Neither configuration nor credentials; `spool` is a directory with room.
    pub fn new(spool: PathBuf) -> Self {
        let read_timeout = Self::READ_TIMEOUT;
        Self {
            registries_conf: Vec::new(),
            certs_dirs: Vec::new(),
            auth: AuthFiles::default(),
            plain_http: false,
            proxies: Proxies::default(),
            read_timeout,
            stall: Self::stall_of(read_timeout),
            spool,
        }
    }

    /// Sets the patience of reads, of at most [`Settings::LONGEST_TIMEOUT`].
    pub fn with_read_timeout(mut self, read_timeout: Duration) -> Self {
        let read_timeout = read_timeout.min(Self::LONGEST_TIMEOUT);
        self.read_timeout = read_timeout;
        self.stall = Self::stall_of(read_timeout);
        self
    }

    /// A stalled attempt leaves time for others.
    fn stall_of(read_timeout: Duration) -> Duration {
        const LONGEST: Duration = Duration::from_secs(15);
        (read_timeout / 4).min(LONGEST)
    }
}
