//! A base that is ready to score texts: tokenizer, encoder, and one forward pass over texts of any mix of adapters.
//!
//! | file | idea |
//! | --- | --- |
//! | `plan/` | a batch as a value: which texts run, where rows fork, what each micro-batch returns |
//! | `error.rs` | the errors of opening a base, reading an adapter and scoring texts |
//! | `mixed.rs` | the hooks of a planned batch |
//! | `pending.rs` | a forward pass that has begun |
//! | `warm_up.rs` | a first pass on a GPU, before the first request |
//! | `score.rs` | turns logits into labels with scores, best first |
//! | `micro_batches.rs` | splits a batch into micro-batches, which run in parallel on the cores |

mod error;
pub mod micro_batches;
mod mixed;
mod pending;
pub mod plan;
pub mod score;
#[cfg(test)]
mod tests;
mod warm_up;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};

pub use self::error::Error;
use self::micro_batches::Workers;
pub use self::mixed::Mixed;
pub use self::pending::Pending;
use self::pending::{Queued, in_order};
use self::plan::{Plan, Question, Readout, Sizes};
use crate::adapter::{self, Adapter, AdapterError, Files};
use crate::base::{self, Base, BaseConfig};
use crate::cuda::{self, Download};
use crate::encoder::{self, Encoder, HeadJob, Packed};
use crate::params::{Backend, Form, Layout, Point, Precision};
use crate::text::{Encoded, Limit, TokenizeError, Tokenizer};

/// The number of tokens in a micro-batch on one core: enough that the weights and adapters it reads serve many rows, few enough
/// that the rows stay in the core's caches.
const MICRO_BATCH_TOKENS: RangeInclusive<usize> = micro_batches::TOKENS..=2 * micro_batches::TOKENS;

/// The most tokens in a micro-batch on a GPU. It bounds the memory of activations. On an H100, RoBERTa-large took 45.0 ms for 32,768
/// tokens in one micro-batch, 45.9 ms in two, 46.1 ms in four, and 47.5 ms in eight.
const GPU_MICRO_BATCH_TOKENS: usize = 32_768;

/// One frozen base. It is shared by `Arc` and never changes.
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
/// let text = engine.encode("the film was great", None, &Limit::TRUNCATE)?;
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

/// One text of a batch and the adapter that classifies it.
#[derive(Debug, Clone)]
pub struct Row {
    /// The tokenized text.
    pub text: Encoded,
    /// The adapter. Rows with the same adapter run together.
    pub adapter: Arc<Adapter>,
}

impl Engine {
    /// Opens the base in the folder `dir`. On the CPU its weights stay memory-mapped. A [`Device`] selects the fastest form that
    /// runs on it.
    ///
    /// # Errors
    /// If a file is missing or malformed; the error names it.
    pub fn open(dir: &Path, backend: impl Into<Backend>) -> Result<Self, Error> {
        Self::over(Base::open(dir)?, backend.into(), Precision::F32)
    }

    /// Opens the base so that its linears compute in `precision`. On the CPU the linears are prepacked, which is much faster. The
    /// prepacked weights are mapped from the folder `cache`, where the first call writes them. Without a folder they are kept in
    /// memory. On a GPU, bf16 is the type of all weights and activations.
    ///
    /// # Errors
    /// If a file is missing or malformed (the error names it), or the backend does not compute in this precision.
    pub fn prepacked(
        dir: &Path,
        backend: impl Into<Backend>,
        precision: Precision,
        cache: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let (backend, mut base) = (backend.into(), Base::open(dir)?.cached(cache));
        let refused = Error::Precision { precision, backend: backend.form() };
        let backend = match (backend.form(), precision) {
            (Form::Cpu, _) => {
                base.prepack(&base::layout(&base.config)?, precision)?;
                backend
            }
            (Form::Reference | Form::Cuda, Precision::F32) => backend,
            (Form::Cuda, Precision::Bf16) => backend.with_dtype(DType::BF16).ok_or(refused)?,
            (Form::Reference, _) | (Form::Cuda, Precision::Int8) => return Err(refused),
        };
        Self::over(base, backend, precision)
    }

    fn over(base: Base, backend: Backend, precision: Precision) -> Result<Self, Error> {
        cuda::prepare(backend.device())?;
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

    /// The form of the operations, and their device.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The device of the operations.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.backend.device()
    }

    /// The precision of the base's matrix products.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The largest number of tokens in a text, unless a [`Limit`] gives another.
    #[must_use]
    pub fn max_length(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// The fingerprint of the base's weights. The first call reads and hashes them.
    #[must_use]
    pub fn base_fingerprint(&self) -> &str {
        self.base.fingerprint()
    }

    /// Tokenizes a text, or a pair of texts.
    ///
    /// # Errors
    /// If the text is too long and `limit` forbids truncation, or `limit` leaves no room for the text.
    pub fn encode(&self, text: &str, pair: Option<&str>, limit: &Limit) -> Result<Encoded, TokenizeError> {
        self.tokenizer.encode(text, pair, limit)
    }

    /// Reads the adapter in the folder `dir` and checks all of it against this base.
    ///
    /// # Errors
    /// If a file is malformed (the error names what), the adapter was trained on another base, or its head needs tensors that the
    /// base lacks.
    pub fn load_adapter(&self, dir: &Path) -> Result<Adapter, Error> {
        self.parse_adapter(&Files::read(dir)?)
    }

    /// As [`Engine::load_adapter`], for files that have been read.
    ///
    /// # Errors
    /// As [`Engine::load_adapter`].
    pub fn parse_adapter(&self, files: &Files) -> Result<Adapter, Error> {
        adapter::over(files, self.layout(), &self.base, &self.backend).map_err(|error| match error {
            AdapterError::Tensor(_) => Error::from(error).on(self.device()),
            error => error.into(),
        })
    }

    /// The names by which the base is known: its own, and the one that its configuration keeps from `transformers`.
    #[must_use]
    pub fn base_names(&self) -> Vec<String> {
        std::iter::once(self.base.name()).chain(self.base.config.original_name().map(str::to_owned)).collect()
    }

    /// Logits `[labels]` of each row, in the order of the rows; an empty list for a text without tokens. Rows of different adapters
    /// share one forward pass. Rows of one text share everything before their adapters' first active sites. A row's result does not
    /// depend on the other rows. A large batch runs as several micro-batches: in parallel on the cores, or one after another on a GPU.
    ///
    /// # Errors
    /// If an operation fails.
    pub fn logits(&self, rows: &[Row]) -> Result<Vec<Vec<f32>>, Error> {
        self.begin(rows)?.finish()
    }

    /// [`Engine::logits`] in two halves. On a GPU, the first half only queues the pass, so that the host can prepare the next one
    /// while the GPU runs. Passes end in the order in which they began. On the CPU, the first half does all the work.
    ///
    /// # Errors
    /// If an operation fails. What fails on the GPU itself is an error of [`Pending::finish`].
    pub fn begin(&self, rows: &[Row]) -> Result<Pending, Error> {
        self.begin_in(rows, self.micro_batch_sizes()).map_err(|error| error.on(self.device()))
    }

    /// [`Engine::begin`] in micro-batches of these sizes.
    fn begin_in(&self, rows: &[Row], sizes: Sizes) -> Result<Pending, Error> {
        let (adapters, asked) = self.asked(rows);
        let questions: Vec<usize> = (0..rows.len()).filter(|&row| !rows[row].text.ids.is_empty()).collect();
        let first_tokens = self.encoder.first_tokens_from();
        let plans = plan::plans(&asked, &questions, first_tokens, |point| self.share_from(point), sizes);
        let (count, queue) = (rows.len(), |plan: &Plan| self.queue(&adapters, &asked, plan));
        if !self.backend.on_host() {
            let queued = plans.iter().map(queue).collect::<Result<Vec<_>, _>>()?;
            let device = self.device().clone();
            return Ok(Pending::new(move || {
                let answers = queued.into_iter().map(Queued::answers).collect::<Result<Vec<_>, _>>();
                // Until now the GPU may have read them.
                drop(adapters);
                Ok(in_order(count, answers.map_err(|error| error.on(&device))?.concat()))
            }));
        }
        let answers = match &plans[..] {
            [plan] => micro_batches::with_spinning_pool(|| queue(plan)?.answers())?,
            plans => {
                let answers = self.workers.map(plans.len(), |i| queue(&plans[i])?.answers());
                answers.into_iter().collect::<Result<Vec<_>, _>>()?.concat()
            }
        };
        Ok(Pending::ready(in_order(count, answers)))
    }

    /// The floating-point operations of the base's linears for `texts` texts with `tokens` tokens in total, none of which fork: two for
    /// each weight and row.
    #[must_use]
    pub fn linear_flops(&self, texts: usize, tokens: usize) -> f64 {
        let (layout, from) = (self.layout(), self.encoder.first_tokens_from());
        let work = |site| {
            let rows = if from.is_some_and(|from| from <= layout.point(site)) { texts } else { tokens };
            let module = layout.module(site);
            2.0 * (rows * module.in_features * module.out_features) as f64
        };
        layout.sites().map(work).sum()
    }

    /// The share, from 0 to 1, of a token's matrix products that run at `point` or after it. What only first tokens need is none.
    fn share_from(&self, point: Point) -> f64 {
        let share = |point| self.layout().share_from(point);
        let rest = self.encoder.first_tokens_from().map_or(0.0, share);
        (share(point) - rest).max(0.0) / (1.0 - rest)
    }

    /// The cores run micro-batches in parallel. A GPU runs them one after another, in the order in which this thread queues them.
    fn micro_batch_sizes(&self) -> Sizes {
        if self.backend.on_host() {
            let (least, most) = MICRO_BATCH_TOKENS.into_inner();
            return Sizes { least, most, cores: self.workers.groups() };
        }
        Sizes { least: GPU_MICRO_BATCH_TOKENS.div_ceil(2), most: GPU_MICRO_BATCH_TOKENS, cores: 1 }
    }

    /// The adapters of `rows` in order of first appearance, and for each row the question to its adapter.
    fn asked<'a>(&self, rows: &'a [Row]) -> (Vec<Arc<Adapter>>, Vec<Question<'a>>) {
        let (mut adapters, mut numbers) = (Vec::new(), HashMap::new());
        let asked = rows.iter().map(|Row { text, adapter }| {
            let (number, leaves) = *numbers.entry(Arc::as_ptr(adapter)).or_insert_with(|| {
                adapters.push(Arc::clone(adapter));
                (adapters.len() - 1, adapter.leaves(self.layout()))
            });
            Question { text, adapter: number, leaves }
        });
        let asked = asked.collect();
        (adapters, asked)
    }

    /// Queues one micro-batch, up to the copy of its logits to the host.
    fn queue(&self, adapters: &[Arc<Adapter>], asked: &[Question], plan: &Plan) -> Result<Queued, Error> {
        let _pass = cuda::Pass::begin();
        let batch = Packed::new(plan.texts.iter().map(|&question| asked[question].text));
        let hooks = Mixed::new(self.layout(), plan, adapters);
        let hidden = self.encoder.forward(&batch, &hooks)?;
        let pooled = self.encoder.pool(&hidden, plan.last())?;
        let jobs: Vec<HeadJob<'_>> = (plan.readouts.iter())
            .map(|Readout { adapter, texts, .. }| HeadJob { rows: texts, head: &adapters[*adapter].weights.head })
            .collect();
        let logits = Download::begin(&self.encoder.heads(&pooled, &jobs, &hooks)?)?;
        Ok(Queued { logits, questions: plan.readouts.iter().map(|readout| readout.questions.clone()).collect() })
    }
}
