//! Whole batches: the base alone, adapters mixed, many adapters, one text.

use std::sync::Arc;
use std::time::Instant;

use polyrank::adapter::Adapter;
use polyrank::engine::Row;
use polyrank::text::Encoded;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;

use crate::adapters::Maker;
use crate::common::Failure;
use crate::memory;
use crate::options::{World, seeded, zipf};
use crate::rounds::{Job, measure, percentile};

fn rows<'a>(texts: &[Encoded], adapters: impl Iterator<Item = &'a Arc<Adapter>>) -> Vec<Row> {
    let row = |(text, adapter): (&Encoded, &Arc<Adapter>)| Row { text: text.clone(), adapter: Arc::clone(adapter) };
    texts.iter().zip(adapters).map(row).collect()
}

fn job<'a>(world: &'a World, rows: &'a [Row]) -> Job<'a> {
    Box::new(|| {
        let logits = world.engine.logits(rows)?;
        if logits.iter().flatten().any(|logit| !logit.is_finite()) {
            return Err("a logit is not finite".into());
        }
        Ok(())
    })
}

/// Runs `mixed` against the same texts on the base alone, and tells both.
fn against_base(world: &World, row: &str, adapters: usize, alone: &[Row], mixed: &[Row]) -> Result<(), Failure> {
    let times = measure(&mut [job(world, alone), job(world, mixed)], world.budget())?;
    let tokens: usize = alone.iter().map(|row| row.text.ids.len()).sum();
    let [base, mixed] = [&times[0], &times[1]].map(|times| percentile(times, 50));
    world.tell(
        row,
        json!({
            "adapters": adapters, "texts": alone.len(), "tokens": tokens, "rounds": times[0].len(),
            "base_seconds": base, "mixed_seconds": mixed, "of_base": base / mixed,
            "base_texts_per_second": alone.len() as f64 / base, "texts_per_second": alone.len() as f64 / mixed,
            "base_tflops": world.engine.linear_flops(alone.len(), tokens) / base / 1e12,
        }),
    );
    Ok(())
}

/// Adapters of ragged ranks mixed in one batch, against the base alone.
pub(crate) fn mixed(world: &World) -> Result<(), Failure> {
    let (mut rng, mut maker) = (seeded(1), Maker::new(world, seeded(2))?);
    let (bare, adapters) = ([maker.bare(world)?], maker.ragged(world, world.options.adapters)?);
    let texts = world.texts(world.options.texts, &mut rng);
    let (alone, mixed) = (rows(&texts, bare.iter().cycle()), rows(&texts, adapters.iter().cycle()));
    against_base(world, "mixed", adapters.len(), &alone, &mixed)
}

/// Many adapters in memory, each with about half of its sites: how much memory they take, and batches asked by Zipf's law against the
/// base alone.
pub(crate) fn many(world: &World) -> Result<(), Failure> {
    let (mut rng, mut maker) = (seeded(3), Maker::new(world, seeded(4))?);
    let bare = maker.bare(world)?;
    let before = memory::used(world)?;
    let rank = |_, rng: &mut StdRng| if rng.random_bool(0.5) { rng.random_range(1..=16) } else { 0 };
    let adapters = (0..world.options.many).map(|_| maker.adapter(world, rank)).collect::<Result<Vec<_>, _>>()?;
    let used = memory::used(world)?.zip(before).map(|(after, before)| after.saturating_sub(before));
    let expected: usize = adapters.iter().map(|adapter| memory::expected(world, adapter)).sum();
    let over = used.map(|used| used as f64 / expected as f64 - 1.0);
    let counted: usize = adapters.iter().map(|adapter| adapter.bytes()).sum();
    world.tell(
        "memory",
        json!({"adapters": adapters.len(), "used": used, "expected": expected, "counted": counted, "over": over}),
    );
    let texts = world.texts(world.options.texts, &mut rng);
    let drawn = zipf(adapters.len(), texts.len(), &mut rng)?;
    let alone = rows(&texts, std::iter::repeat(&bare));
    let mixed = rows(&texts, drawn.iter().map(|&drawn| &adapters[drawn]));
    against_base(world, "zipf", adapters.len(), &alone, &mixed)
}

/// One text alone, with one adapter: until its logits are there, and until the host has queued the pass.
pub(crate) fn latency(world: &World) -> Result<(), Failure> {
    let (mut rng, mut maker) = (seeded(5), Maker::new(world, seeded(6))?);
    let adapters = maker.ragged(world, 1)?;
    let rows = rows(&world.texts(1, &mut rng), adapters.iter());
    let mut queued = Vec::new();
    let pass: Job = Box::new(|| {
        let start = Instant::now();
        let pending = world.engine.begin(&rows)?;
        queued.push(start.elapsed().as_secs_f64());
        pending.finish()?;
        Ok(())
    });
    let times = measure(&mut [pass], world.budget())?;
    let [p50, p99] = [50, 99].map(|percent| percentile(&times[0], percent) * 1e3);
    queued.sort_unstable_by(f64::total_cmp);
    let queued = percentile(&queued, 50) * 1e3;
    let tokens = rows[0].text.ids.len();
    world.tell(
        "latency",
        json!({"tokens": tokens, "rounds": times[0].len(), "p50_ms": p50, "p99_ms": p99, "queued_ms": queued}),
    );
    Ok(())
}
