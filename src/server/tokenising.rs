//! Room to tokenise in: a tokenizer takes hundreds of bytes for each byte of a text, however short the text is cut after that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// Bytes of a permit.
const UNIT: usize = 1024;

/// How many times the room may wait for it: more would be answered by time-outs.
const WAITING: usize = 4;

/// The fewest permits that may wait, each of them soon served.
const FEWEST: usize = 1024;

/// How many bytes of text are tokenised at once: those of the largest request, or of many small ones.
pub(super) struct Tokenising {
    permits: Arc<Semaphore>,
    most: u32,
    /// Permits that are waited for.
    waiting: AtomicUsize,
}

/// Leave to tokenise, as long as it lives. The semaphore is never closed, so there always is a permit in it.
pub(super) struct Room(
    #[expect(dead_code, reason = "it gives its permits back when it is dropped")] Option<OwnedSemaphorePermit>,
);

/// Permits that are waited for; no longer when it is dropped, as by a request that has timed out.
struct Waiting<'a>(&'a AtomicUsize, usize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Tokenising {
    /// For `most` bytes at once.
    pub(super) fn new(most: usize) -> Self {
        let most = u32::try_from(most.div_ceil(UNIT).clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self { permits: Arc::new(Semaphore::new(most as usize)), most, waiting: AtomicUsize::new(0) }
    }

    /// Room for `bytes`; for more than there is at all, all of it. Whoever comes first gets it first.
    ///
    /// # Errors
    /// As much is waited for already as may be.
    pub(super) async fn room(&self, bytes: usize) -> Result<Room, ApiError> {
        let permits = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.most);
        // Fails where others wait as well: nobody is overtaken.
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_many_owned(permits) {
            return Ok(Room(Some(permit)));
        }
        let (wanted, limit) = (permits as usize, (self.most as usize * WAITING).max(FEWEST));
        let more = |waiting| Some(waiting + wanted).filter(|waiting| *waiting <= limit);
        if let Err(waiting) = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            let [waiting, wanted, limit] = [waiting, wanted, limit].map(|permits| permits * UNIT);
            let reason = format!("{waiting} bytes of text wait to be tokenised; {wanted} more would exceed {limit}");
            return Err(ApiError::Overloaded(reason));
        }
        let _waiting = Waiting(&self.waiting, wanted);
        Ok(Room(Arc::clone(&self.permits).acquire_many_owned(permits).await.ok()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn what_finds_no_room_waits_and_what_finds_no_place_to_wait_is_told() {
        let tokenising = Tokenising::new(FEWEST * UNIT);
        let mut context = Context::from_waker(Waker::noop());
        let mut now = |bytes: usize| match pin!(tokenising.room(bytes)).poll(&mut context) {
            Poll::Ready(room) => Some(room),
            Poll::Pending => None,
        };
        let all = now(usize::MAX).unwrap().unwrap();
        // Nobody waits any more when these futures are gone.
        assert!(now(1).is_none());
        assert!(now(1).is_none());
        assert_eq!(tokenising.waiting.load(Ordering::Relaxed), 0);

        let mut context = Context::from_waker(Waker::noop());
        let mut first = Box::pin(tokenising.room(FEWEST * UNIT));
        assert!(first.as_mut().poll(&mut context).is_pending());
        let mut others: Vec<_> = (0..3).map(|_| Box::pin(tokenising.room(FEWEST * UNIT))).collect();
        assert!(others.iter_mut().all(|other| other.as_mut().poll(&mut context).is_pending()));
        assert!(matches!(now(1), Some(Err(ApiError::Overloaded(_)))));
        drop(others);
        assert!(now(1).is_none());
        drop(all);
        // Whoever came first has it.
        assert!(now(1).is_none());
        assert!(matches!(first.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
        assert!(now(1).unwrap().is_ok());
    }
}
