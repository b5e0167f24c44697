//! The options, and what all rows share: the base, its engine, and texts.

use std::path::{Path, PathBuf};

use clap::Parser;
use polyrank::base::{self, Sources};
use polyrank::engine::Engine;
use polyrank::params::{Backend, Precision};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::common::Failure;

/// Measures a running server
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Rows to measure: http, many, memory, swap, notice, fair, shared, cold, start, overload, soak [default: all but soak]
    pub(crate) rows: Vec<String>,
    /// The binary that serves
    #[arg(long, env = "POLYRANK_BINARY", default_value = env!("CARGO_BIN_EXE_polyrank"))]
    pub(crate) polyrank: PathBuf,
    /// The base: a folder, a hub id or `default`
    #[arg(long, env = "POLYRANK_MODEL_ID", default_value = "default")]
    pub(crate) model_id: String,
    /// Texts, one on each line [default: random ones]
    #[arg(long, value_name = "FILE")]
    pub(crate) texts: Option<PathBuf>,
    /// Folder for adapters; about 1 GB for the rows of many adapters
    #[arg(long, value_name = "DIR", default_value_os_t = default_folder())]
    pub(crate) folder: PathBuf,
    /// Number of adapters in the rows of many adapters
    #[arg(long, default_value_t = 2000)]
    pub(crate) adapters: usize,
    /// How long a row of load takes, or the soak [default: the row's own]
    #[arg(long)]
    pub(crate) seconds: Option<u64>,
    /// In the soak: kill the server half-way, and start it again
    #[arg(long)]
    pub(crate) kill: bool,
    /// A further argument of `polyrank serve`; may be repeated
    #[arg(long = "flag", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) flags: Vec<String>,
    /// Folder for what is written when a server hangs
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dumps: PathBuf,
    /// Cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Memory, where there is such a folder: `adapter::write` waits for the disk.
fn default_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
}

/// What all rows share.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) engine: Engine,
    /// The base's `config.json`.
    pub(crate) base_config: Map<String, Value>,
    pub(crate) texts: Vec<String>,
}

impl World {
    pub(crate) fn open(options: Options) -> Result<Self, Failure> {
        let dir = base::ensure(&options.model_id)?;
        let cache = Some(Sources::from_env()?.home);
        let engine = Engine::prepacked(&dir, Backend::cpu(), Precision::F32, cache)?;
        let base_config = serde_json::from_slice(&std::fs::read(dir.join("config.json"))?)?;
        let texts = match &options.texts {
            Some(file) => std::fs::read_to_string(file)?.lines().map(str::to_owned).collect(),
            None => random_texts(1024),
        };
        Ok(Self { options, engine, base_config, texts })
    }

    /// A new folder for a row's adapters.
    pub(crate) fn folder(&self) -> Result<TempDir, Failure> {
        Ok(tempfile::Builder::new().prefix("polyrank-serving-").tempdir_in(&self.options.folder)?)
    }

    /// How long a row takes: `--seconds`, or `own`.
    pub(crate) fn seconds(&self, own: u64) -> u64 {
        self.options.seconds.unwrap_or(own)
    }
}

const WORDS: &str = "the a of to and in for with on that this was is not but film plot story actor scene parcel order refund late \
    broken card account bank password help please never always good great poor boring long short quick slow arrived lost changed \
    wrong right new old price money time day week city team game season coach player match market shares profit company software";

/// Texts of 4 to 34 words, 17 on average.
fn random_texts(count: usize) -> Vec<String> {
    let (words, mut rng): (Vec<&str>, _) = (WORDS.split_whitespace().collect(), StdRng::seed_from_u64(1));
    let mut text = || {
        let length = rng.random_range(4..=34).min(rng.random_range(4..=34) + 4);
        (0..length).filter_map(|_| words.choose(&mut rng).copied()).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(|_| text()).collect()
}
