//! Limits how much text is tokenized at once. A tokenizer takes hundreds of bytes of memory for each byte of text, even if the text is
//! truncated afterwards. So each request waits here for permits: one for each kibibyte of its text. Requests with little text have
//! permits of their own, because large texts take seconds, and hold all of theirs meanwhile. For the same reason, large texts leave one of
//! the threads for blocking work to all else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, RETRY_SOON};

/// Bytes of text that one permit stands for.
const UNIT: usize = 1024;

/// Requests may together wait for at most this many times the number of all permits. Further requests would time out.
const WAITING: usize = 4;

/// Requests may always wait for this many permits together, because so few are soon free again.
const FEWEST: usize = 1024;

/// A request with at most this many bytes of text waits for no large one.
const SMALL: usize = 16 * 1024;

/// Bytes of text of small requests that are tokenized at once.
const SMALL_AT_ONCE: usize = 8 * SMALL;

/// The permits of small requests, and those of large ones: as many as the largest body needs.
pub(super) struct Tokenizing {
    small: Lane,
    large: Lane,
}

/// Permits for requests that wait for each other.
struct Lane {
    permits: Arc<Semaphore>,
    most: u32,
    /// The number of permits that requests wait for.
    waiting: AtomicUsize,
    /// The threads for blocking work that these requests may keep busy.
    threads: Arc<Semaphore>,
}

/// Permission to tokenize, until it is dropped. No permit in it is `None`, because no semaphore is ever closed.
#[expect(dead_code, reason = "dropping it returns the permits")]
pub(super) struct TokenizePermit {
    bytes: Option<OwnedSemaphorePermit>,
    thread: Option<OwnedSemaphorePermit>,
}

/// Counts the permits that a request waits for, until it is dropped: when the request gets them, or times out.
struct Waiting<'a>(&'a AtomicUsize, usize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Tokenizing {
    /// Permits for tokenizing `most` bytes at once on `threads` threads, beside those of small requests.
    pub(super) fn new(most: usize, threads: usize) -> Self {
        Self { small: Lane::new(SMALL_AT_ONCE, Semaphore::MAX_PERMITS), large: Lane::new(most, threads) }
    }

    /// Waits for permits for `bytes` bytes of text, first come first served. A request for more than all permits gets all of them.
    ///
    /// # Errors
    /// Too many requests wait already.
    pub(super) async fn permit(&self, bytes: usize) -> Result<TokenizePermit, ApiError> {
        let lane = if bytes <= SMALL { &self.small } else { &self.large };
        lane.permit(bytes).await
    }
}

impl Lane {
    fn new(most: usize, threads: usize) -> Self {
        let most = u32::try_from(most.div_ceil(UNIT).clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let [permits, threads] = [most as usize, threads].map(|count| Arc::new(Semaphore::new(count)));
        Self { permits, most, waiting: AtomicUsize::new(0), threads }
    }

    async fn permit(&self, bytes: usize) -> Result<TokenizePermit, ApiError> {
        let bytes = self.bytes(bytes).await?;
        Ok(TokenizePermit { bytes, thread: Arc::clone(&self.threads).acquire_owned().await.ok() })
    }

    async fn bytes(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        let permits = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.most);
        // This fails while other requests wait, so that no request overtakes another.
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_many_owned(permits) {
            return Ok(Some(permit));
        }
        let (wanted, limit) = (permits as usize, (self.most as usize * WAITING).max(FEWEST));
        let more = |waiting| Some(waiting + wanted).filter(|waiting| *waiting <= limit);
        if let Err(waiting) = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            let [waiting, wanted, limit] = [waiting, wanted, limit].map(|permits| permits * UNIT);
            let reason = format!("{waiting} bytes of text wait to be tokenized; {wanted} more would exceed {limit}");
            return Err(ApiError::Overloaded { reason, retry_after: RETRY_SOON });
        }
        let _waiting = Waiting(&self.waiting, wanted);
        Ok(Arc::clone(&self.permits).acquire_many_owned(permits).await.ok())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn waits_for_permits_then_rejects() {
        let lane = Lane::new(FEWEST * UNIT, 10);
        let mut context = Context::from_waker(Waker::noop());
        let mut now = |bytes: usize| match pin!(lane.permit(bytes)).poll(&mut context) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        };
        let all = now(usize::MAX).unwrap().unwrap();
        // Dropping these futures ends their wait.
        assert!(now(1).is_none());
        assert!(now(1).is_none());
        assert_eq!(lane.waiting.load(Ordering::Relaxed), 0);

        let mut context = Context::from_waker(Waker::noop());
        let mut first = Box::pin(lane.permit(FEWEST * UNIT));
        assert!(first.as_mut().poll(&mut context).is_pending());
        let mut others: Vec<_> = (0..3).map(|_| Box::pin(lane.permit(FEWEST * UNIT))).collect();
        assert!(others.iter_mut().all(|other| other.as_mut().poll(&mut context).is_pending()));
        assert!(matches!(now(1), Some(Err(ApiError::Overloaded { .. }))));
        drop(others);
        assert!(now(1).is_none());
        drop(all);
        // The permits go to the request that waited first.
        assert!(now(1).is_none());
        assert!(matches!(first.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
        assert!(now(1).unwrap().is_ok());
    }

    /// The permit for `bytes` bytes, if a request gets it at once.
    fn at_once(tokenizing: &Tokenizing, bytes: usize) -> Option<TokenizePermit> {
        match pin!(tokenizing.permit(bytes)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => permit.ok(),
            Poll::Pending => None,
        }
    }

    #[test]
    fn small_requests_wait_for_no_large_one() {
        let tokenizing = Tokenizing::new(1 << 20, 2);
        let now = |bytes| at_once(&tokenizing, bytes);
        let _large = now(1 << 20).unwrap();
        assert!(now(SMALL + 1).is_none());
        let small: Vec<TokenizePermit> = std::iter::from_fn(|| now(SMALL)).collect();
        assert_eq!(small.len() * SMALL, SMALL_AT_ONCE);
    }

    /// Large requests keep no more threads busy than they may, though there is room for more bytes.
    #[test]
    fn large_requests_leave_a_thread() {
        let tokenizing = Tokenizing::new(1 << 20, 2);
        let now = |bytes| at_once(&tokenizing, bytes);
        let large: Vec<TokenizePermit> = std::iter::from_fn(|| now(SMALL + 1)).collect();
        assert_eq!(large.len(), 2);
        assert!(now(SMALL).is_some());
        drop(large);
        assert!(now(SMALL + 1).is_some());
    }
}
