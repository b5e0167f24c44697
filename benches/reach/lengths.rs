//! Cost over length: the longest texts and texts of one word, apart and mixed, against their floating-point operations.

use polyrank::engine::{Engine, Row};
use polyrank::text::Encoded;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::base;
use crate::common::Failure;
use crate::rounds::{Job, medians};

const LONG: usize = 512;
/// A word between its special tokens.
const WORD: usize = 3;
const LONG_TEXTS: usize = 4;
const WORD_TEXTS: usize = 256;

pub(crate) fn print() -> Result<(), Failure> {
    let (engine, mut rng) = (base::open()?, StdRng::seed_from_u64(4));
    let layout = engine.layout();
    let adapters = [base::adapter(layout, &mut rng, base::ragged(layout))?];
    let mut texts = |count: usize, tokens: usize| -> Vec<Encoded> {
        (0..count).map(|_| base::text(&engine, tokens, &mut rng)).collect()
    };
    let (long, word) = (texts(LONG_TEXTS, LONG.min(engine.max_length())), texts(WORD_TEXTS, WORD));
    let middling = texts(LONG_TEXTS * LONG / 24, 24);
    let mut mixed = [long.clone(), word.clone()].concat();
    mixed.shuffle(&mut rng);
    let batches = [("longest", long), ("one word", word), ("both, shuffled", mixed), ("24 tokens", middling)]
        .map(|(what, texts)| (what, base::rows(&texts, &adapters)));
    let jobs = batches.each_ref().map(|(_, rows)| -> Job { Box::new(|| Ok(engine.logits(rows).map(drop)?)) });
    let times = medians(&mut { jobs })?;

    println!("\n| texts | number | tokens | GFLOP | ms | GFLOP/s |\n| --- | --- | --- | --- | --- | --- |");
    for ((what, rows), time) in batches.iter().zip(&times) {
        let (number, tokens, flops) = (rows.len(), base::tokens(rows), flops(&engine, rows));
        let rate = flops / time / 1e9;
        println!("| {what} | {number} | {tokens} | {:.2} | {:.2} | {rate:.1} |", flops / 1e9, time * 1e3);
    }
    println!("\nboth, shuffled, take {:.2} times the sum of both apart", times[2] / (times[0] + times[1]));
    Ok(())
}

/// Floating-point operations of the base's linears and of attention's two products.
fn flops(engine: &Engine, rows: &[Row]) -> f64 {
    let layout = engine.layout();
    let text = |row: &Row| 4.0 * (row.text.ids.len().pow(2) * layout.hidden * layout.layers) as f64;
    engine.linear_flops(rows.len(), base::tokens(rows)) + rows.iter().map(text).sum::<f64>()
}
