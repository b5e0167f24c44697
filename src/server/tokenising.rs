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

/// Leave to tokenise, as long as it lives. The semaphore is never closed, so there always is a permit in it.
pub(super) struct Room(
    #[expect(dead_code, reason = "it gives its permits back when it is dropped")] Option<OwnedSemaphorePermit>,
);

impl Tokenising {
    /// For `most` bytes at once.
    pub(super) fn new(most: usize) -> Self {
        let most = u32::try_from(most.div_ceil(UNIT).clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self { permits: Arc::new(Semaphore::new(most as usize)), most }
    }

    /// Waits for room for `bytes`; for more than there is at all, for all of it.
    pub(super) async fn room(&self, bytes: usize) -> Room {
        let permits = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.most);
        Room(Arc::clone(&self.permits).acquire_many_owned(permits).await.ok())
    }
}
