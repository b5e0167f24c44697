//! `polyrank` serves many text-classification tasks from **one** frozen encoder. Each task has a LoRA adapter, whose rank may differ in
//! every layer.
//!
//! # Example
//!
//! Two texts, each asked of two adapters, in one batch. `examples/classify.rs` is the same as a program.
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use polyrank::engine::score::{Function, rank};
//! use polyrank::engine::{Engine, Row};
//! use polyrank::params::Backend;
//! use polyrank::text::Limit;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A folder with a base and, in its subfolders, adapters. `polyrank::base::ensure` gives the folder of a base on the hub.
//! let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/bert"));
//! let engine = Engine::open(dir, Backend::cpu())?;
//! let sentiment = Arc::new(engine.load_adapter(&dir.join("ragged"))?);
//! let topic = Arc::new(engine.load_adapter(&dir.join("bighead"))?);
//!
//! let limit = Limit::TRUNCATE;
//! let mut rows = Vec::new();
//! for text in ["the film was great", "the plot was boring"] {
//!     let text = engine.encode(text, None, &limit)?;
//!     rows.push(Row { text: text.clone(), adapter: Arc::clone(&sentiment) });
//!     rows.push(Row { text, adapter: Arc::clone(&topic) });
//! }
//! for (Row { adapter, .. }, logits) in rows.iter().zip(engine.logits(&rows)?) {
//!     let best = rank(&adapter.info.labels, &logits, Function::of(adapter), 2).ok_or("a logit is not finite")?;
//!     for scored in best {
//!         println!("{}: {:.3}", scored.label, scored.score);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! The modules form floors. Each module imports only modules on floors below its own, which `tests/floors.rs` enforces. From the top:
//!
//! | module | idea |
//! | --- | --- |
//! | `cli` | the binary's commands: pull, serve, classify, inspect, bench |
//! | `server` | HTTP: routes, requests and answers, the table of statuses (feature `server`) |
//! | [`inspect`] | reports on the ranks of one adapter or of several |
//! | [`scheduler`] | collects waiting requests into batches, and runs these one after the other |
//! | [`registry`] | finds adapters in a folder by name, loads them on first use, swaps in new versions, and keeps within a memory budget (feature `server`) |
//! | [`engine`] | runs batches of texts on a base: the plan of a batch, micro-batches, the forward pass, scores |
//! | [`adapter`] | PEFT's files on disk, and an adapter as a value |
//! | [`encoder`] | hooks, packed texts, layers, and the encoders |
//! | [`base`] | opens a base from a folder, the hub or a package: architectures, conversion, mapped weights |
//! | [`text`] | the tokenizer, and records of data files |
//! | [`ops`] | a folder for each operation, with its reference and its kernels; only this module chooses between them |
//! | `cpu` | what operations share on the CPU: vectors, products, packed weights |
//! | [`cuda`] | what operations share on a GPU: addresses, fresh memory, launches |
//! | [`params`] | types that all other modules use: parameters, deltas, sites, precisions, backends |
//! | `atomic_file`, `allocator`, `command_line`, `logging`, `correlation`, `panics` | small tools |
//!
//! # The path of a text
//!
//! 1. `server` reads the request `POST /classify/{adapter}`.
//! 2. [`registry::Registry`] pins the adapter, and loads it on first use.
//! 3. [`text::Tokenizer`] turns each text into an [`text::Encoded`].
//! 4. [`scheduler`] queues the request, and takes a batch of texts, whatever their adapters are. On a GPU, it begins the next batch while
//!    one runs.
//! 5. [`engine::Engine::begin`] makes an [`engine::plan::Plan`] for each micro-batch. It packs the texts end to end
//!    ([`encoder::Packed`]), where equal texts are packed once, and runs the encoder with [`engine::Mixed`] as its hooks.
//! 6. Where an adapter first changes a text that several adapters share, the rows fork ([`encoder::Fork`]). From there on, they are
//!    grouped by adapter. After the last layer's attention, only the rows that heads read are kept.
//! 7. Each adapter's own head gives logits, which become scores and labels.
//!
//! # Invariants
//!
//! - The runtime never depends on training. It does not have SoRA's gates, but only plain LoRA with ragged ranks.
//! - There is no padding: the tokens of all texts are packed end to end, attention stays inside a text, and ranks are never rounded up
//!   to a common rank.
//! - A text's result does not depend on its neighbours in the batch.
//! - A text for several adapters runs once until each adapter's first active site. Rows are copied only where adapters fork.
//! - A site of rank 0 costs nothing and is bit-identical to the base.
//! - What no head reads is not computed: after the last layer's attention, only a text's first token is kept, unless its head reads others.
//! - An encoder is shared and never changed. Everything that varies comes from [`encoder::Hooks`].
//! - An operation owns the memory that it writes: no tensor changes once it exists, but for variables in training. [`ops::of`] decides
//!   which form of an operation runs, by the backend with which the engine was opened.
//! - On the CPU, frozen f32 weights are used in the mapped file and never copied. Prepacked weights are mapped from the cache, so that
//!   processes share them.
//! - On the CPU, a precision applies only to the base's products: deltas, norms, attention and heads are f32. On a GPU, activations,
//!   weights and deltas have the precision's type; sums, biases, norms' parameters and heads are f32.
//! - On a GPU all work runs on one stream, in order; only uploads of adapters use another, and are waited for.
//! - In a GPU's memory, an adapter takes the bytes of its true ranks: its tensors lie end to end in one block for each type. A copy
//!   stream fills the block while batches run, and the adapter comes into service once it is there, so that no batch waits for it.
//! - A malformed adapter is refused as a whole. An unknown adapter is an error, and is never answered by the base.
//! - A request for an adapter in memory makes no system call for it, and never waits for the disk. It finishes on the version that it
//!   pinned, whatever happens to the files meanwhile.
//! - `unsafe` occurs only in the mapping and in what reports its failures, in kernels, in what moves data to and from a GPU and multiplies
//!   there, in the calls of the allocator, and where the watchdog captures stacks.

pub mod adapter;
pub mod allocator;
pub mod atomic_file;
pub mod base;
pub mod command_line;
pub mod correlation;
mod cpu;
pub mod cuda;
pub mod encoder;
pub mod engine;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod inspect;
pub mod logging;
pub mod ops;
pub mod panics;
pub mod params;
#[cfg(feature = "server")]
pub mod registry;
pub mod scheduler;
#[cfg(feature = "server")]
pub mod server;
pub mod text;
