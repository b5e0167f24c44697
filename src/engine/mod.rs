//! A base ready to answer: tokenizer, encoder, and one forward pass over texts of any mix of adapters.
//!
//! | file | idea |
//! | --- | --- |
//! | `plan/` | a batch as a value: which texts run, where rows fork, what each pass answers |
//! | `error.rs` | every error between a file and an answer |
//! | `mixed.rs` | what a planned batch answers to the encoder's hooks |
//! | `score.rs` | from logits to labels with scores, best first |
//! | `micro_batches.rs` | a batch in several passes, side by side on the cores |

mod error;
pub mod micro_batches;
mod mixed;
pub mod plan;
pub mod score;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};

pub use self::error::Error;
use self::micro_batches::Workers;
pub use self::mixed::Mixed;
use self::plan::{Asked, Plan, Sizes};
use crate::adapter::{self, Adapter};
use crate::base::{self, Base, BaseConfig};
use crate::encoder::{self, Encoder, Packed};
use crate::params::{Backend, Form, Layout, Precision};
use crate::text::{Encoded, Limit, TokenizeError, Tokenizer};

/// Tokens of a pass on one core: at least so many that what is fetched of weights and adapters serves many rows, at most so many that
/// they stay in its caches.
const PASS_TOKENS: RangeInclusive<usize> = micro_batches::TOKENS..=2 * micro_batches::TOKENS;

/// One frozen base. Shared by `Arc`; nothing in it changes.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use polyrank::engine::{Engine, Row};
/// use polyrank::params::Backend;
/// use polyrank::text::Limit;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/bert"));
/// let engine = Engine::open(dir, Backend::cpu())?;
/// let adapter = Arc::new(engine.load_adapter(&dir.join("ragged"))?);
/// let text = engine.encode("the film was great", None, &Limit { max_length: None, truncate: true })?;
/// let logits = engine.logits(&[Row { text, adapter: Arc::clone(&adapter) }])?;
/// assert_eq!(logits[0].len(), adapter.info.labels.len());
/// # Ok(())
/// # }
/// ```
pub struct Engine {
    base: Base,
    tokenizer: Tokenizer,
    encoder: Arc<dyn Encoder>,
    backend: Backend,
    precision: Precision,
    workers: Workers,
}

/// One text of a batch and the adapter it is asked of.
#[derive(Debug, Clone)]
pub struct Row {
    /// The tokenised text.
    pub text: Encoded,
    /// The adapter; rows with the same one run together.
    pub adapter: Arc<Adapter>,
}

impl Engine {
    /// Opens the base in the folder `dir`. On the CPU its weights stay in the mapping. A device stands for its fastest form.
    ///
    /// # Errors
    /// A file that is missing or malformed, named.
    pub fn open(dir: &Path, backend: impl Into<Backend>) -> Result<Self, Error> {
        Self::over(Base::open(dir)?, backend.into(), Precision::F32)
    }

    /// As [`Self::open`], with the base's linears prepacked in `precision`: faster by a good deal on the CPU. They are mapped
    /// from the folder `cache` and made there at the first time; without a folder they are held in memory.
    ///
    /// # Errors
    /// A file that is missing or malformed, named; a precision that the backend does not have.
    pub fn prepacked(
        dir: &Path,
        backend: impl Into<Backend>,
        precision: Precision,
        cache: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let (backend, mut base) = (backend.into(), Base::open(dir)?.cached(cache));
        match (backend.form(), precision) {
            (Form::Cpu, _) => base.prepack(&base::layout(&base.config)?, precision)?,
            (Form::Reference | Form::Cuda, Precision::F32) => {}
            (Form::Reference | Form::Cuda, _) => {
                return Err(Error::Precision { precision, backend: backend.form() });
            }
        }
        Self::over(base, backend, precision)
    }

    fn over(base: Base, backend: Backend, precision: Precision) -> Result<Self, Error> {
        let tokenizer = Tokenizer::open(&base.dir, &base.config.tokenizer_inputs())?;
        let encoder = encoder::open(&base, &backend)?;
        let workers = Workers::new(usize::MAX).map_err(|error| Error::Thread(std::io::Error::other(error)))?;
        Ok(Self { base, tokenizer, encoder, backend, precision, workers })
    }

    /// The sites of the base.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        self.encoder.layout()
    }

    /// The encoder, for training with hooks of its own.
    #[must_use]
    pub fn encoder(&self) -> &Arc<dyn Encoder> {
        &self.encoder
    }

    /// The base's configuration.
    #[must_use]
    pub fn config(&self) -> &BaseConfig {
        &self.base.config
    }

    /// Which form of the operations it runs, and where.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The device that it computes on.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.backend.device()
    }

    /// What the base's products run in.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The most tokens of a text.
    #[must_use]
    pub fn max_length(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// Fingerprint of the base's weights; read and hashed when first asked for.
    #[must_use]
    pub fn base_fingerprint(&self) -> &str {
        self.base.fingerprint()
    }

    /// Tokenises a text, or a pair.
    ///
    /// # Errors
    /// A text too long where `limit` forbids truncation, or a limit without room.
    pub fn encode(&self, text: &str, pair: Option<&str>, limit: &Limit) -> Result<Encoded, TokenizeError> {
        self.tokenizer.encode(text, pair, limit)
    }

    /// Reads the adapter in the folder `dir` and checks it whole against this base.
    ///
    /// # Errors
    /// What is malformed, by name; an adapter trained on another base; a head that needs what the base lacks.
    pub fn load_adapter(&self, dir: &Path) -> Result<Adapter, Error> {
        Ok(adapter::read_over(dir, self.layout(), &self.base, self.device())?)
    }

    /// Logits `[labels]` of each row, in the rows' order; none for a text of no tokens. Rows of different adapters share one
    /// forward pass, and rows of one text all that comes before their adapters' first active sites; the result of a row does not
    /// depend on its neighbours. A large batch runs in several passes, side by side on the cores.
    ///
    /// # Errors
    /// What the operations raise.
    pub fn logits(&self, rows: &[Row]) -> Result<Vec<Vec<f32>>, Error> {
        let (adapters, asked) = self.asked(rows);
        let questions: Vec<usize> = (0..rows.len()).filter(|&row| !rows[row].text.ids.is_empty()).collect();
        let plans = plan::plans(&asked, &questions, |point| self.layout().share_from(point), self.pass_sizes());
        let pass = |plan: &Plan| self.pass(&adapters, &asked, plan);
        let answers = match &plans[..] {
            [alone] if self.backend.on_host() => micro_batches::with_spinning_pool(|| pass(alone))?,
            plans => {
                let answers = self.workers.map(plans.len(), |i| pass(&plans[i]));
                answers.into_iter().collect::<Result<Vec<_>, _>>()?.concat()
            }
        };
        let mut logits = vec![Vec::new(); rows.len()];
        for (row, answer) in answers {
            logits[row] = answer;
        }
        Ok(logits)
    }

    /// A GPU takes all of a batch in one pass.
    fn pass_sizes(&self) -> Sizes {
        let (least, most) =
            if self.backend.on_host() { PASS_TOKENS.into_inner() } else { (usize::MAX / 2, usize::MAX / 2) };
        Sizes { least, most, cores: self.workers.groups() }
    }

    /// The adapters of `rows` in order of first appearance, and each row as a question to one of them.
    fn asked<'a>(&self, rows: &'a [Row]) -> (Vec<Arc<Adapter>>, Vec<Asked<'a>>) {
        let (mut adapters, mut numbers) = (Vec::new(), HashMap::new());
        let asked = rows.iter().map(|Row { text, adapter }| {
            let (number, leaves) = *numbers.entry(Arc::as_ptr(adapter)).or_insert_with(|| {
                adapters.push(Arc::clone(adapter));
                (adapters.len() - 1, adapter.leaves(self.layout()))
            });
            Asked { text, adapter: number, leaves }
        });
        let asked = asked.collect();
        (adapters, asked)
    }

    /// One forward pass: each row that it answers with its logits.
    fn pass(&self, adapters: &[Arc<Adapter>], asked: &[Asked], plan: &Plan) -> Result<Vec<(usize, Vec<f32>)>, Error> {
        let batch = Packed::new(plan.texts.iter().map(|&question| asked[question].text));
        let hooks = Mixed::new(self.layout(), plan, adapters);
        let hidden = self.encoder.forward(&batch, &hooks)?;
        let pooled = self.encoder.pool(&hidden, plan.last())?;
        let mut answers = Vec::new();
        for plan::Readout { adapter, texts, questions } in &plan.readouts {
            let pooled = select(&pooled, texts)?;
            let logits = self.encoder.logits(&pooled, &adapters[*adapter].weights.head, &hooks)?.to_vec2::<f32>()?;
            for (questions, logits) in questions.iter().zip(logits) {
                answers.extend(questions.iter().map(|&question| (question, logits.clone())));
            }
        }
        Ok(answers)
    }
}

/// The rows `which` of `x [B, n]`, rising; without a copy where they lie next to each other.
fn select(x: &Tensor, which: &[usize]) -> candle_core::Result<Tensor> {
    match which {
        [first, .., last] if last - first + 1 == which.len() => x.narrow(0, *first, which.len()),
        [only] => x.narrow(0, *only, 1),
        _ => {
            let which: Vec<u32> = which.iter().map(|&row| row as u32).collect();
            x.index_select(&Tensor::new(which, x.device())?, 0)
        }
    }
}
