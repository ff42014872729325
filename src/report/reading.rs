//! What failed with the cache, and with traces.

use kfs_fs::cache::CacheError;
use kfs_fs::trace::TraceError;

use super::{BUSY, CORRUPT, Failure};

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Path(error) => error.into(),
            CacheError::Busy(_) => {
                Self::from_error(&error).code(BUSY).hint("try again in a moment")
            }
            CacheError::Full { .. } => Self::from_error(&error),
        }
    }
}

impl From<TraceError> for Failure {
    fn from(error: TraceError) -> Self {
        match error {
            TraceError::Path(error) => error.into(),
            TraceError::Json { .. } | TraceError::Version { .. } | TraceError::TooLong { .. } => {
                Self::from_error(&error).code(CORRUPT)
            }
        }
    }
}
