//! `polyrank` serves many text-classification tasks from **one** frozen encoder. Each task is a LoRA adapter whose rank differs
//! from layer to layer.
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
//! let limit = Limit { max_length: None, truncate: true };
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
//! The modules form floors. Each imports only floors below its own; `tests/floors.rs` keeps it so. From the top:
//!
//! | module | idea |
//! | --- | --- |
//! | `cli` | the binary's commands: pull, serve, classify, inspect, bench |
//! | `server` | HTTP: routes, requests and answers, the table of statuses (feature `server`) |
//! | [`inspect`] | the ranks of an adapter as a table; those of several side by side |
//! | [`scheduler`] | from waiting requests to batches, and the thread that runs them |
//! | [`registry`] | adapters by name: found in a folder, loaded on first use, kept within a budget |
//! | [`engine`] | a base ready to answer: a batch as a value, micro-batches, the forward pass, scores |
//! | [`adapter`] | PEFT's files on disk, and an adapter as a value |
//! | [`encoder`] | hooks, packed texts, layers, and the encoders |
//! | [`base`] | where a base comes from: folder, hub, package; architectures, conversion, mapped weights |
//! | [`text`] | the tokenizer, and rows of data files |
//! | [`ops`] | one folder an operation: its reference and its kernels; the one place that chooses between them |
//! | `cpu` | what operations share on the CPU: vectors, products, packed weights |
//! | [`params`] | what everything speaks of: parameters, deltas, sites, precisions, backends |
//! | `atomic_file`, `allocator`, `logging`, `correlation` | small tools |
//!
//! # The path of a text
//!
//! `POST /classify/{adapter}` → `server` reads the request → [`registry::Registry`] pins the adapter, loading it on first use →
//! [`text::Tokenizer`] makes a [`text::Encoded`] → [`scheduler`] queues the request and takes a batch over all adapters →
//! [`engine::Engine::logits`] makes an [`engine::plan::Plan`] for each micro-batch, packs its texts end to end
//! ([`encoder::Packed`]), equal ones once, and runs the encoder with [`engine::Mixed`] as its hooks; where an adapter first changes
//! a text that others share, the rows fork ([`encoder::Fork`]) and go on grouped by adapter → each adapter's own head → scores and
//! labels.
//!
//! # Invariants
//!
//! - The runtime never depends on training; SoRA's gate does not exist here, only plain LoRA of ragged ranks.
//! - No padding: tokens of all texts lie end to end, attention stays inside a text, ranks are never rounded up to a common one.
//! - A text's result does not depend on its neighbours in the batch.
//! - A text asked of several adapters runs once until each adapter's first active site; where nothing is shared nothing is copied.
//! - A site of rank 0 costs nothing and is bit-identical to the base.
//! - An encoder is shared and never mutated; all that varies comes through [`encoder::Hooks`].
//! - An operation owns what it writes: no tensor changes once it exists. Which form of an operation runs is decided in [`ops::of`],
//!   from the backend that the engine was opened with.
//! - On the CPU, frozen f32 weights are used where the file is mapped; nothing copies them. What is prepacked is mapped from the
//!   cache too, so that processes share it.
//! - A precision concerns the base's products alone: deltas, norms, attention and heads are f32.
//! - A malformed adapter is refused whole; an unknown one is an error, never the base.
//! - `unsafe` occurs in the mapping, in kernels and in the calls of the allocator only.

pub mod adapter;
pub mod allocator;
pub mod atomic_file;
pub mod base;
pub mod correlation;
mod cpu;
pub mod encoder;
pub mod engine;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod inspect;
pub mod logging;
pub mod ops;
pub mod params;
pub mod registry;
pub mod scheduler;
#[cfg(feature = "server")]
pub mod server;
pub mod text;
