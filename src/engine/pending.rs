//! A forward pass that has begun.

use super::Error;
use crate::cuda::Download;

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

/// A micro-batch that is queued on the device.
pub(super) struct Queued {
    /// For each readout, the logits `[texts, labels]`.
    pub(super) logits: Download,
    /// For each readout and each of its texts, the questions that it answers.
    pub(super) questions: Vec<Vec<Vec<usize>>>,
}

impl Queued {
    /// Waits for the logits. Returns the rows that the micro-batch answers, each with its logits.
    pub(super) fn answers(self) -> Result<Vec<(usize, Vec<f32>)>, Error> {
        let mut answers = Vec::new();
        for (texts, logits) in self.questions.iter().zip(self.logits.wait()?) {
            let labels = logits.len() / texts.len();
            for (text, questions) in texts.iter().enumerate() {
                let logits = &logits[text * labels..(text + 1) * labels];
                answers.extend(questions.iter().map(|&question| (question, logits.to_vec())));
            }
        }
        Ok(answers)
    }
}

/// The logits of `rows` rows in their order; empty where no answer is.
pub(super) fn in_order(rows: usize, answers: Vec<(usize, Vec<f32>)>) -> Vec<Vec<f32>> {
    let mut logits = vec![Vec::new(); rows];
    for (row, answer) in answers {
        logits[row] = answer;
    }
    logits
}
