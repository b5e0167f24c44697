//! A base ready to answer: tokenizer, encoder, and one forward pass over texts of any mix of adapters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::adapter::{self, Adapter, AdapterError, Mixed};
use crate::encoder::{self, Encoded, Encoder, Layout, Packed};
use crate::error::Error;
use crate::kernel::prepacked::Precision;
use crate::model::{Base, BaseConfig};
use crate::passes::{self, Workers};
use crate::tokenize::{Limit, TokenizeError, Tokenizer};

/// Tokens that a pass on one core ends after: enough to outweigh the packing of the weights, few enough for its caches.
const PASS_TOKENS: usize = 256;

/// One frozen base. Shared by `Arc`; nothing in it changes.
pub struct Engine {
    base: Base,
    tokenizer: Tokenizer,
    encoder: Arc<dyn Encoder>,
    device: Device,
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
    /// Opens the base in the folder `dir`. On the CPU its weights stay in the mapping.
    ///
    /// # Errors
    /// A file that is missing or malformed, named.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, Error> {
        Self::over(Base::open(dir, device)?, device)
    }

    /// As [`Self::open`], with the base's linears prepacked in `precision`: faster by a good deal on the CPU. They are mapped
    /// from the folder `cache` and made there at the first time; without a folder they are held in memory.
    ///
    /// # Errors
    /// A file that is missing or malformed, named; a precision that the device does not have.
    pub fn prepacked(dir: &Path, device: &Device, precision: Precision, cache: Option<PathBuf>) -> Result<Self, Error> {
        let mut base = Base::open(dir, device)?.cached(cache);
        match (device.is_cpu(), precision) {
            (true, _) => base.prepack(&encoder::layout(&base.config)?, precision)?,
            (false, Precision::F32) => {}
            (false, _) => return Err(Error::Precision { precision }),
        }
        Self::over(base, device)
    }

    fn over(base: Base, device: &Device) -> Result<Self, Error> {
        let dir = &base.dir;
        let tokenizer = Tokenizer::open(dir, base.config.longest_text())?;
        let encoder = encoder::open(&base, device)?;
        let workers = Workers::new(usize::MAX).map_err(|error| Error::Thread(std::io::Error::other(error)))?;
        Ok(Self { base, tokenizer, encoder, device: device.clone(), workers })
    }

    /// The sites of the base.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        self.encoder.layout()
    }

    /// The encoder, for training over the seam.
    #[must_use]
    pub fn encoder(&self) -> &Arc<dyn Encoder> {
        &self.encoder
    }

    /// The base's configuration.
    #[must_use]
    pub fn config(&self) -> &BaseConfig {
        &self.base.config
    }

    /// Where it computes.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
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
        let adapter = adapter::read(dir, self.layout(), &self.device)?;
        if let Some(expected) = &adapter.base_fingerprint {
            let found = self.base_fingerprint();
            if expected != found {
                let (expected, found) = (expected.clone(), found.to_owned());
                return Err(AdapterError::WrongBase { file: dir.join("config.json"), expected, found }.into());
            }
        }
        Ok(adapter)
    }

    /// Logits `[labels]` of each row, in the rows' order. Rows of different adapters share one forward pass; the result of a
    /// row does not depend on its neighbours. A large batch runs in several passes, side by side on the cores.
    ///
    /// # Errors
    /// What the operations raise.
    pub fn logits(&self, rows: &[Row]) -> Result<Vec<Vec<f32>>, Error> {
        let order: Vec<usize> = by_adapter(rows).into_iter().flatten().collect();
        let ordered: Vec<&Row> = order.iter().map(|&row| &rows[row]).collect();
        let texts: Vec<&Encoded> = ordered.iter().map(|row| &row.text).collect();
        let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
        let answers = match self.device.is_cpu() && tokens >= 2 * PASS_TOKENS {
            true => {
                let cuts = passes::cut(&texts, PASS_TOKENS);
                let passes = self.workers.map(cuts.len(), |pass| self.pass(&ordered[cuts[pass].clone()]));
                passes.into_iter().collect::<Result<Vec<_>, _>>()?.concat()
            }
            false => self.pass(&ordered)?,
        };
        let mut logits = vec![Vec::new(); rows.len()];
        for (row, answer) in order.into_iter().zip(answers) {
            logits[row] = answer;
        }
        Ok(logits)
    }

    /// One forward pass over `rows`, those of an adapter next to each other.
    fn pass(&self, rows: &[&Row]) -> Result<Vec<Vec<f32>>, Error> {
        let batch = Packed::new(rows.iter().map(|row| &row.text));
        if batch.tokens() == 0 {
            return Ok(vec![Vec::new(); rows.len()]);
        }
        let groups: Vec<&[&Row]> = rows.chunk_by(|a, b| Arc::ptr_eq(&a.adapter, &b.adapter)).collect();
        let mut text = 0;
        let runs = groups.iter().map(|group| {
            let start = batch.offsets[text];
            text += group.len();
            (start..batch.offsets[text], Arc::clone(&group[0].adapter))
        });
        let seam = Mixed::new(self.layout(), runs.collect());
        let pooled = self.encoder.pool(&self.encoder.forward(&batch, &seam)?, &batch)?;
        let (mut logits, mut start) = (Vec::with_capacity(rows.len()), 0);
        for group in groups {
            let pooled: Tensor = pooled.narrow(0, start, group.len())?;
            logits.extend(self.encoder.logits(&pooled, &group[0].adapter.head, &seam)?.to_vec2::<f32>()?);
            start += group.len();
        }
        Ok(logits)
    }
}

/// Rows by adapter, in order of first appearance; inside a group in the rows' order.
fn by_adapter(rows: &[Row]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (row, Row { adapter, .. }) in rows.iter().enumerate() {
        match groups.iter_mut().find(|group| Arc::ptr_eq(&rows[group[0]].adapter, adapter)) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}
