//! Classifies texts with several adapters of one base:
//!
//! ```sh
//! echo "Where is my parcel?" | cargo run --release --example classify -- default adapters/intent adapters/urgency
//! ```
//!
//! The first argument is a base (a folder, an id of the hub or `default`), the others are adapters' folders. Each line of standard
//! input is a text. All texts go to all adapters in one batch.
#![allow(clippy::print_stdout)]

use std::env;
use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use polyrank::base;
use polyrank::engine::score::{Function, rank};
use polyrank::engine::{Engine, Row};
use polyrank::params::Backend;
use polyrank::text::Limit;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let model = arguments.next().ok_or("usage: classify BASE ADAPTER...")?;
    let dirs: Vec<String> = arguments.collect();

    let engine = Engine::open(&base::ensure(&model)?, Backend::cpu())?;
    let mut adapters = Vec::new();
    for dir in &dirs {
        adapters.push(Arc::new(engine.load_adapter(Path::new(dir))?));
    }

    let limit = Limit::TRUNCATE;
    let texts = io::stdin().lines().collect::<Result<Vec<String>, _>>()?;
    let mut rows = Vec::new();
    for text in &texts {
        let text = engine.encode(text, None, &limit)?;
        rows.extend(adapters.iter().map(|adapter| Row { text: text.clone(), adapter: Arc::clone(adapter) }));
    }

    // The rows' order is texts by adapters, and so is the logits'.
    let mut logits = engine.logits(&rows)?.into_iter();
    for text in &texts {
        println!("{text}");
        for ((dir, adapter), logits) in dirs.iter().zip(&adapters).zip(&mut logits) {
            let best = rank(&adapter.info.labels, &logits, Function::of(adapter), 3).ok_or("a logit is not finite")?;
            let best: Vec<String> = best.iter().map(|scored| format!("{} {:.3}", scored.label, scored.score)).collect();
            println!("  {dir}: {}", best.join(", "));
        }
    }
    Ok(())
}
