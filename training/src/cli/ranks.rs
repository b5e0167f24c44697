//! DyLoRA's result at each rank.

use std::path::Path;

use polyrank_training::data::TaskData;
use polyrank_training::error::Error;
use polyrank_training::evaluate::evaluate;
use polyrank_training::export;
use polyrank_training::method::{Export, first_ranks};
use polyrank_training::run::Facts;
use polyrank_training::settings::Settings;

use super::{Base, print};

/// Prints the metrics on the validation split of the adapter of each rank up to that of the run, which is what DyLoRA is for.
pub(super) fn print_ranks(
    base: &Base,
    settings: &Settings,
    facts: &Facts,
    checkpoint: &Path,
    data: &TaskData,
) -> Result<(), Error> {
    let engine = &base.engine;
    let settings = Settings { export_rank: Some(settings.rank), ..settings.clone() };
    let (export, _) = export::from_checkpoint(checkpoint, engine, &settings, facts)?;
    let (Export::Adapter(whole), Some(split)) = (export, data.validation.first()) else { return Ok(()) };
    for rank in 1..=settings.rank {
        let adapter = Export::Adapter(first_ranks(&whole, rank)?);
        let found = evaluate(engine, &adapter, data, &split.name, settings.max_length)?;
        let metrics: Vec<_> = found.metrics.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        let parameters = found.parameters.adapter;
        print(&format!("rank {rank}: {} on {}, {parameters} parameters", metrics.join(", "), split.name))?;
    }
    Ok(())
}
