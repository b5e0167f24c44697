//! The answers that the library gives without a server, and the comparison with a server's.

use std::path::Path;
use std::sync::Arc;

use polyrank::engine::{Engine, Row};
use polyrank::text::{Encoded, Limit};
use serde_json::{Value, json};

use crate::client;
use crate::common::Failure;
use crate::options::World;

/// How far a logit may lie from the offline one. Batches of other sizes round differently; other weights give other logits by far
/// more than this.
const TOLERANCE: f64 = 2e-3;

/// Rows of one offline batch.
const BATCH: usize = 256;

/// The logits of one text by label.
pub(crate) type Answer = Vec<(String, f32)>;

/// The first `count` texts, tokenized.
pub(crate) fn encoded(world: &World, count: usize) -> Result<Vec<Encoded>, Failure> {
    let limit = Limit::TRUNCATE;
    let encode = |text: &String| Ok(world.engine.encode(text, None, &limit)?);
    world.texts.iter().take(count).map(encode).collect()
}

/// The answers of the adapter in the folder `dir` to `texts`.
pub(crate) fn answers(engine: &Engine, dir: &Path, texts: &[Encoded]) -> Result<Vec<Answer>, Failure> {
    let adapter = Arc::new(engine.load_adapter(dir)?);
    let row = |text: &Encoded| Row { text: text.clone(), adapter: Arc::clone(&adapter) };
    let rows: Vec<Row> = texts.iter().map(row).collect();
    let mut answers = Vec::with_capacity(rows.len());
    for batch in rows.chunks(BATCH) {
        let logits = engine.logits(batch)?;
        answers.extend(logits.into_iter().map(|logits| adapter.info.labels.iter().cloned().zip(logits).collect()));
    }
    Ok(answers)
}

/// The question of `texts` to `adapter`, answered with logits.
pub(crate) fn question(adapter: &str, texts: &[&str]) -> Vec<u8> {
    let body = json!({"inputs": texts, "parameters": {"function_to_apply": "none"}});
    client::request("POST", &format!("/classify/{adapter}"), &body)
}

/// Whether a list of labels and scores is `answer`.
pub(crate) fn is(found: &Value, answer: &Answer) -> bool {
    let Some(found) = found.as_array() else { return false };
    let near = |(label, logit): &(String, f32)| {
        let score = found.iter().find(|scored| scored["label"] == **label).and_then(|scored| scored["score"].as_f64());
        score.is_some_and(|score| (score - f64::from(*logit)).abs() < TOLERANCE)
    };
    found.len() == answer.len() && answer.iter().all(near)
}
