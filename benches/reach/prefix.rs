//! One text asked of several adapters that leave half the layers alone, against a pass for each.

use std::sync::Arc;

use polyrank::engine::Row;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::base;
use crate::common::Failure;
use crate::rounds::{Job, medians};

const ADAPTERS: usize = 8;
const TOKENS: usize = 24;

pub(crate) fn print() -> Result<(), Failure> {
    let (engine, mut rng) = (base::open()?, StdRng::seed_from_u64(3));
    let layout = engine.layout();
    let half = layout.layers.div_ceil(2);
    let text = base::text(&engine, TOKENS, &mut rng);
    let asked = |from: usize, rng: &mut StdRng| -> Result<Vec<Row>, Failure> {
        let rank = |site: polyrank::params::Site, rng: &mut StdRng| {
            if site.layer >= from { rng.random_range(1..=8) } else { 0 }
        };
        let adapters = (0..ADAPTERS).map(|_| base::adapter(layout, rng, rank)).collect::<Result<Vec<_>, _>>()?;
        Ok(adapters.iter().map(|adapter| Row { text: text.clone(), adapter: Arc::clone(adapter) }).collect())
    };
    let (late, every) = (asked(half, &mut rng)?, asked(0, &mut rng)?);
    let mut jobs: Vec<Job> = Vec::new();
    for rows in [&late, &every] {
        jobs.push(Box::new(|| Ok(engine.logits(rows).map(drop)?)));
        jobs.push(Box::new(|| rows.chunks(1).try_for_each(|row| engine.logits(row).map(drop).map_err(Failure::from))));
    }
    let times = medians(&mut jobs)?;

    println!("one text of {TOKENS} tokens on {ADAPTERS} adapters");
    println!("\n| | together, ms | {ADAPTERS} passes, ms | times as fast | at least | stretch |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let first = format!("adapters active from layer {half} of {}", layout.layers);
    let lines = [(first, &times[..2], "1.6 | 1.75"), ("adapters active everywhere".into(), &times[2..], "|")];
    for (what, times, goal) in lines {
        let [together, apart] = [times[0] * 1e3, times[1] * 1e3];
        println!("| {what} | {together:.2} | {apart:.2} | {:.2} | {goal} |", apart / together);
    }
    Ok(())
}
