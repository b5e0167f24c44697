//! `polyrank` serves many text-classification tasks from **one** frozen encoder. Each task is a LoRA adapter whose rank differs
//! from layer to layer.
//!
//! # Layout
//!
//! | module | idea |
//! | --- | --- |
//! | [`model`] | where a base comes from: a folder, the hub, the default; conversion of older forms; its configuration; its weights, memory-mapped, and their prepacked form |
//! | [`tokenize`] | from a text or a pair to ids, as `transformers` does |
//! | [`encoder`] | where: sites, the seam, packed batches, the architectures (one file and one row of a table each) |
//! | [`kernel`] | how: one file an operation, with its reference and its backward; [`kernel::prepacked`]: the base's products in f32, bf16, int8 |
//! | [`adapter`] | what: PEFT checkpoints on disk, adapters in memory, the mixed batch, the registry |
//! | [`rows`] | data files of any format, a row at a time |
//! | [`plan`] | a batch as a value: which texts run, where rows that adapters shared part, what each pass answers |
//! | [`device`] | devices by their names |
//! | [`passes`] | passes that run side by side on the cores, or one that has them all |
//! | [`pages`] | memory that is free for the moment stays mapped for a while |
//! | [`engine`] | a base ready to answer: one forward pass over texts of any mix of adapters |
//! | [`scheduler`] | from waiting requests to batches, and the thread that runs them |
//! | `server` | HTTP: routes, types, the table of statuses (feature `server`) |
//! | [`score`] | from logits to labels with scores, best first |
//! | [`whole`] | files that appear whole or not at all |
//! | [`console`] | what a command tells on standard error: logs, and a failure in one line |
//! | [`inspect`] | an adapter's ranks as a table; several adapters' ranks side by side |
//! | [`correlation`] | Pearson's correlation |
//! | [`error`] | every error of the runtime, with its operands |
//!
//! # The path of a text
//!
//! `POST /classify/{adapter}` → `server` reads the request → [`adapter::Registry`] pins the adapter, loading it on first use →
//! [`tokenize`] makes an [`encoder::Encoded`] → [`scheduler`] queues it and takes a batch over all adapters →
//! [`engine::Engine::logits`] cuts the batch into passes and makes a [`plan::Plan`] of each, packs its texts end to end
//! ([`encoder::Packed`]), equal ones once, and runs the encoder with [`adapter::Mixed`] at the seam; where an adapter first changes
//! a text that others share, the seam has its rows copied ([`encoder::Fork`]), and they go on grouped by adapter → each adapter's
//! own head → scores and labels.
//!
//! # Invariants
//!
//! - The runtime never depends on training; SoRA's gate does not exist here, only plain LoRA of ragged ranks.
//! - No padding: tokens of all texts lie end to end, attention stays inside a text, ranks are never rounded up to a common one.
//! - A text's result does not depend on its neighbours in the batch.
//! - A text asked of several adapters runs once until each adapter's first active site; where nothing is shared nothing is copied.
//! - A site of rank 0 costs nothing and is bit-identical to the base.
//! - An encoder is shared and never mutated; all that varies comes through [`encoder::Hooks`].
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
pub mod error;
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
