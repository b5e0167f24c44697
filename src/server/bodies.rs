//! Limits the memory for the bodies of all requests together (`--body-memory`), and likewise for large answers. A body takes its permit
//! before it is read, or as it arrives. It is given back once its request is answered, because until then its texts are in memory as
//! well.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::{ApiError, RETRY_SOON};

/// The memory for bodies.
pub(super) struct Bodies {
    /// What takes the memory, for errors.
    what: &'static str,
    limit: usize,
    taken: AtomicUsize,
}

/// There is no room for another body, or for more of this one.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{what} take {taken} bytes; {wanted} more would exceed {limit}")]
pub(super) struct NoPermit {
    what: &'static str,
    taken: usize,
    wanted: usize,
    limit: usize,
}

impl From<NoPermit> for ApiError {
    fn from(full: NoPermit) -> Self {
        Self::Overloaded { reason: full.to_string(), retry_after: RETRY_SOON }
    }
}

/// The permit of one body to take memory, until it is dropped.
pub(super) struct MemoryPermit {
    bodies: Arc<Bodies>,
    bytes: AtomicUsize,
}

impl Bodies {
    /// The memory that the largest body takes, as a multiple of `--payload-limit`: one that is compressed, and the buffer in which it
    /// is unpacked, which grows to up to twice its content.
    pub(super) const LARGEST: usize = 3;

    /// The most bytes of an answer.
    pub(super) const LARGEST_ANSWER: usize = 32 << 20;

    /// Memory for `limit` bytes of `what`.
    pub(super) fn new(what: &'static str, limit: usize) -> Self {
        Self { what, limit, taken: AtomicUsize::new(0) }
    }

    /// A permit for `bytes` bytes.
    pub(super) fn permit(self: &Arc<Self>, bytes: usize) -> Result<MemoryPermit, NoPermit> {
        let permit = MemoryPermit { bodies: Arc::clone(self), bytes: AtomicUsize::new(0) };
        permit.grow_to(bytes).map(|()| permit)
    }
}

impl MemoryPermit {
    /// Extends the permit to `bytes` bytes.
    pub(super) fn grow_to(&self, bytes: usize) -> Result<(), NoPermit> {
        let limit = self.bodies.limit;
        let wanted = bytes.saturating_sub(self.bytes.load(Ordering::Relaxed));
        let more = |taken: usize| taken.checked_add(wanted).filter(|taken| *taken <= limit);
        match self.bodies.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => {
                self.bytes.fetch_add(wanted, Ordering::Relaxed);
                Ok(())
            }
            Err(taken) => Err(NoPermit { what: self.bodies.what, taken, wanted, limit }),
        }
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.bodies.taken.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let bodies = Arc::new(Bodies::new("others", 100));
        let first = bodies.permit(60).unwrap();
        let full = bodies.permit(41).err().unwrap();
        assert_eq!(full.to_string(), "others take 60 bytes; 41 more would exceed 100");
        assert_eq!((full.taken, full.wanted, full.limit), (60, 41, 100));
        let second = bodies.permit(10).unwrap();
        second.grow_to(40).unwrap();
        // It never shrinks.
        second.grow_to(5).unwrap();
        assert!(second.grow_to(41).is_err());
        drop(first);
        second.grow_to(100).unwrap();
        drop(second);
        assert_eq!(bodies.taken.load(Ordering::Relaxed), 0);
        assert!(bodies.permit(usize::MAX).is_err());
    }
}
