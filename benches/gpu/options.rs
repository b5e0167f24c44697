//! The options, and what all rows share: the engine, and texts.

use std::path::PathBuf;
use std::time::Duration;

use candle_core::DType;
use clap::{Parser, ValueEnum};
use polyrank::engine::Engine;
use polyrank::params::{Backend, DeviceName};
use polyrank::text::Encoded;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::common::Failure;

/// Measures the engine on a GPU
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Rows to measure: mixed, latency, delta, attention, many [default: all]
    pub(crate) rows: Vec<String>,
    /// The base's folder
    #[arg(long, value_name = "DIR")]
    pub(crate) model_id: PathBuf,
    /// cpu, cuda or cuda:N
    #[arg(long, default_value = "cuda")]
    pub(crate) device: DeviceName,
    /// The type of activations and weights
    #[arg(long, value_enum, default_value = "bf16")]
    pub(crate) dtype: Type,
    /// Number of texts in a batch
    #[arg(long, default_value_t = 256)]
    pub(crate) texts: usize,
    /// Number of tokens in each text, or `sst2` for the lengths of that task's texts
    #[arg(long, default_value = "128")]
    pub(crate) length: Length,
    /// Number of adapters in a mixed batch
    #[arg(long, default_value_t = 32)]
    pub(crate) adapters: usize,
    /// Number of adapters in the row `many`
    #[arg(long, default_value_t = 1000)]
    pub(crate) many: usize,
    /// Seconds that one row measures, besides preparation
    #[arg(long, default_value_t = 4.0)]
    pub(crate) seconds: f64,
    /// Folder for adapters that are written and read again
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    pub(crate) folder: PathBuf,
    /// Cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A type of activations.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Type {
    F32,
    Bf16,
    F16,
}

/// How long texts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Tokens(usize),
    Sst2,
}

impl std::str::FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "sst2" {
            return Ok(Self::Sst2);
        }
        text.parse().map(Self::Tokens).map_err(|_| "expected a number of tokens, or sst2".into())
    }
}

impl Length {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Tokens(tokens) => tokens.to_string(),
            Self::Sst2 => "sst2".into(),
        }
    }

    /// SST-2's validation texts have 4 to 60 tokens, 25 on average: about as the sum of two dice, with a tail.
    fn draw(self, rng: &mut StdRng) -> usize {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Sst2 => {
                let body = rng.random_range(2..=22) + rng.random_range(2..=22);
                if rng.random_bool(0.05) { body + rng.random_range(5..=16) } else { body }
            }
        }
    }
}

/// What all rows share.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) backend: Backend,
    pub(crate) engine: Engine,
    /// The base's folder's name.
    pub(crate) base: String,
}

impl World {
    pub(crate) fn open(options: Options) -> Result<Self, Failure> {
        let dtype = match options.dtype {
            Type::F32 => DType::F32,
            Type::Bf16 => DType::BF16,
            Type::F16 => DType::F16,
        };
        let backend = Backend::native(options.device.open()?).with_dtype(dtype);
        let backend = backend.ok_or_else(|| format!("{} has no {dtype:?}", options.device))?;
        let engine = Engine::open(&options.model_id, &backend)?;
        let base = options.model_id.file_name().unwrap_or_default().display().to_string();
        Ok(Self { options, backend, engine, base })
    }

    /// A batch's texts.
    pub(crate) fn texts(&self, count: usize, rng: &mut StdRng) -> Vec<Encoded> {
        (0..count).map(|_| self.text(self.options.length.draw(rng), rng)).collect()
    }

    /// A text of `tokens` random ids.
    pub(crate) fn text(&self, tokens: usize, rng: &mut StdRng) -> Encoded {
        let (words, tokens) = (self.engine.config().vocab_size as u32, tokens.min(self.engine.max_length()));
        // The first ids of a vocabulary are special.
        let ids = (0..tokens).map(|_| rng.random_range(words / 2..words)).collect();
        Encoded { ids, type_ids: vec![0; tokens], truncated: false }
    }

    /// How long one row measures.
    pub(crate) fn budget(&self) -> Duration {
        Duration::from_secs_f64(self.options.seconds)
    }

    /// Prints one measurement.
    pub(crate) fn tell(&self, row: &str, measured: Value) {
        let mut line = json!({
            "row": row,
            "base": self.base,
            "device": self.options.device.to_string(),
            "dtype": format!("{:?}", self.options.dtype).to_lowercase(),
            "length": self.options.length.name(),
        });
        if let (Some(line), Value::Object(measured)) = (line.as_object_mut(), measured) {
            line.extend(measured);
        }
        println!("{line}");
    }
}

/// `count` numbers below `of`, drawn by Zipf's law with exponent 1.
pub(crate) fn zipf(of: usize, count: usize, rng: &mut StdRng) -> Result<Vec<usize>, Failure> {
    let ranks: Vec<usize> = (0..of).collect();
    let drawn = (0..count).map(|_| Ok(*ranks.choose_weighted(rng, |rank| 1.0 / (rank + 1) as f64)?));
    drawn.collect()
}

/// A generator with a fixed seed.
pub(crate) fn seeded(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}
