//! Runs for tests, made without training.

use std::path::PathBuf;

use serde_json::json;

use super::{EpochLine, Exported, StepLine, TrainedRun};

/// A run with this value of its metric after its only epoch, and these ranks of its modules by layer.
pub(super) fn run(task: &str, settings: &str, value: f64, ranks: &[(&str, &[usize])]) -> (String, TrainedRun) {
    let settings: toml::Table = settings.parse().unwrap_or_default();
    let name = format!("{task}/{}-s{}", settings["method"].as_str().unwrap_or_default(), settings["seed"]);
    let metrics = [("accuracy".to_owned(), json!(value)), ("f1".to_owned(), json!(0.5))].into_iter().collect();
    let total: usize = ranks.iter().flat_map(|(_, ranks)| *ranks).sum();
    let (epoch, parameters, seconds, tokens_per_second) = (1, 10 * total, 2.0, 100.0);
    let line = EpochLine { epoch, metrics, parameters, seconds, tokens_per_second, ended_early: false };
    let exported = Exported {
        epoch,
        metrics: line.metrics.clone(),
        parameters,
        paper: (!ranks.is_empty()).then_some(8 * total),
        ranks: ranks.iter().map(|(module, ranks)| ((*module).to_owned(), ranks.to_vec())).collect(),
    };
    let step = |step| StepLine { step, loss: Some(1.0 / step as f64), xi: None, mean_rank: Some(2.0) };
    let run = TrainedRun {
        output: PathBuf::from(&name),
        task: task.to_owned(),
        base: "sha256:0".to_owned(),
        examples: 10,
        data: None,
        settings,
        epochs: vec![line],
        steps: vec![step(1), step(10)],
        has_exported: true,
        exported: Some(exported),
    };
    (name, run)
}
