//! Room to tokenise in: a tokenizer takes hundreds of bytes for each byte of a text, however short the text is cut after that.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a permit.
const UNIT: usize = 1024;

/// How many bytes of text are tokenised at once: those of the largest request, or of many small ones.
pub(super) struct Tokenising {
    permits: Arc<Semaphore>,
    most: u32,
}

/// Leave to tokenise.
pub(super) struct Room {
    /// Given back when the work is done. The semaphore is never closed.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Tokenising {
    /// For `most` bytes at once.
    pub(super) fn new(most: usize) -> Self {
        let most = u32::try_from(most.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, Semaphore::MAX_PERMITS as u32 >> 1);
        Self { permits: Arc::new(Semaphore::new(most as usize)), most }
    }

    /// Waits for room for `bytes`; for more than there is at all, for all of it.
    pub(super) async fn room(&self, bytes: usize) -> Room {
        let permits = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.most);
        Room { _permit: Arc::clone(&self.permits).acquire_many_owned(permits).await.ok() }
    }
}

impl Room {
    /// Does the work that there is room for.
    pub(super) fn for_work<T>(self, work: impl FnOnce() -> T) -> T {
        work()
    }
}
