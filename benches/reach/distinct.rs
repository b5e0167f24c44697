//! As many adapters as texts, against the base alone.

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::base;
use crate::common::Failure;
use crate::rounds::{Job, medians};

const TEXTS: usize = 32;

pub(crate) fn print() -> Result<(), Failure> {
    let (engine, mut rng) = (base::open()?, StdRng::seed_from_u64(2));
    let layout = engine.layout();
    let texts = base::texts(&engine, TEXTS, &mut rng);
    let alone = base::rows(&texts, &[base::bare(layout, &mut rng)?]);
    let sora = base::ragged(layout);
    let ragged = (0..TEXTS).map(|_| base::adapter(layout, &mut rng, &sora)).collect::<Result<Vec<_>, _>>()?;
    let uniform = (0..TEXTS).map(|_| base::adapter(layout, &mut rng, |_, _| 8)).collect::<Result<Vec<_>, _>>()?;
    let (ragged, uniform) = (base::rows(&texts, &ragged), base::rows(&texts, &uniform));
    let jobs = [&alone, &ragged, &uniform].map(|rows| -> Job { Box::new(|| Ok(engine.logits(rows).map(drop)?)) });
    let times = medians(&mut { jobs })?;

    println!("{TEXTS} texts, {} tokens in a batch", base::tokens(&alone));
    println!("\n| | ms | of the base alone | at least | stretch |\n| --- | --- | --- | --- | --- |");
    println!("| the base alone | {:.2} | | | |", times[0] * 1e3);
    for (what, time) in ["rank 0 to 8", "rank 8 at every site"].iter().zip(&times[1..]) {
        let share = 100.0 * times[0] / time;
        println!("| {TEXTS} distinct adapters, {what} | {:.2} | {share:.0} % | 90 % | 96 % |", time * 1e3);
    }
    Ok(())
}
