//! A base ready to answer: tokenizer, encoder, and one forward pass over texts of any mix of adapters.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::adapter::{self, Adapter, AdapterError, Mixed};
use crate::encoder::{self, Encoded, Encoder, Layout, Packed};
use crate::error::Error;
use crate::model::{Base, BaseConfig};
use crate::tokenize::{Limit, TokenizeError, Tokenizer};

/// One frozen base. Shared by `Arc`; nothing in it changes.
pub struct Engine {
    base: Base,
    tokenizer: Tokenizer,
    encoder: Arc<dyn Encoder>,
    device: Device,
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
        let base = Base::open(dir, device)?;
        let tokenizer = Tokenizer::open(dir, base.config.longest_text())?;
        let encoder = encoder::open(&base, device)?;
        Ok(Self { base, tokenizer, encoder, device: device.clone() })
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
    /// row does not depend on its neighbours.
    ///
    /// # Errors
    /// What the operations raise.
    pub fn logits(&self, rows: &[Row]) -> Result<Vec<Vec<f32>>, Error> {
        let groups = by_adapter(rows);
        let order: Vec<usize> = groups.iter().flatten().copied().collect();
        let batch = Packed::new(order.iter().map(|&row| &rows[row].text));
        if batch.tokens() == 0 {
            return Ok(vec![Vec::new(); rows.len()]);
        }
        let mut text = 0;
        let runs = groups.iter().map(|group| {
            let start = batch.offsets[text];
            text += group.len();
            (start..batch.offsets[text], Arc::clone(&rows[group[0]].adapter))
        });
        let seam = Mixed::new(self.layout(), runs.collect());
        let pooled = self.encoder.pool(&self.encoder.forward(&batch, &seam)?, &batch)?;
        let mut logits = vec![Vec::new(); rows.len()];
        let mut start = 0;
        for group in &groups {
            let pooled: Tensor = pooled.narrow(0, start, group.len())?;
            let outputs = self.encoder.logits(&pooled, &rows[group[0]].adapter.head, &seam)?.to_vec2::<f32>()?;
            for (&row, output) in group.iter().zip(outputs) {
                logits[row] = output;
            }
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
