//! A forward pass that has begun.

use super::Error;

/// The rest of a forward pass.
type Finish = Box<dyn FnOnce() -> Result<Vec<Vec<f32>>, Error> + Send>;

/// A forward pass that has begun ([`crate::engine::Engine::begin`]). It keeps everything that the pass reads.
#[must_use = "a pass answers nothing until it is finished"]
pub struct Pending(Finish);

impl Pending {
    /// A pass that `finish` waits for. It returns the logits `[labels]` of each row.
    pub fn new(finish: impl FnOnce() -> Result<Vec<Vec<f32>>, Error> + Send + 'static) -> Self {
        Self(Box::new(finish))
    }

    /// A pass that has ended with these logits.
    pub fn ready(logits: Vec<Vec<f32>>) -> Self {
        Self::new(|| Ok(logits))
    }

    /// Waits until the pass has ended. Returns the logits `[labels]` of each row, in the order of the rows.
    ///
    /// # Errors
    /// If an operation has failed.
    pub fn finish(self) -> Result<Vec<Vec<f32>>, Error> {
        (self.0)()
    }
}
