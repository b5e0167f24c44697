//! Computes an adapter's metrics on a split, with the same forward pass as serving; and those of what other methods leave, with their
//! own hooks.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use polyrank::adapter::{Adapter, ProblemType};
use polyrank::encoder::{Head, Hooks, Packed};
use polyrank::engine::micro_batches::{self, Workers};
use polyrank::engine::{Engine, Row};
use polyrank::text::Encoded;
use serde::{Deserialize, Serialize};

use crate::data::{Target, TaskData, encode};
use crate::error::Error;
use crate::method::Export;
use crate::metric::{Counts, counts, metrics_of, score};

/// The maximum number of tokens in a batch, on the CPU and on a GPU.
const BATCH_TOKENS: [usize; 2] = [2048, 32_768];

/// The result that `polyrank-train evaluate` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Name of the task.
    pub task: String,
    /// Name of the split.
    pub split: String,
    /// Number of examples.
    pub examples: usize,
    /// The value of each metric.
    pub metrics: BTreeMap<&'static str, f64>,
    /// Precision, recall and F1 of each label, in order of id; empty for a regression.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_label: Vec<LabelScores>,
    /// The metrics on further validation splits, by name (MNLI's `validation_mismatched`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<String, BTreeMap<&'static str, f64>>,
    /// The numbers of parameters.
    pub parameters: Parameters,
    /// Warnings about the metrics, for the user.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// How well one label is found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelScores {
    /// The label's name.
    pub label: String,
    /// As [`Counts::precision`].
    pub precision: f64,
    /// As [`Counts::recall`].
    pub recall: f64,
    /// As [`Counts::f1`].
    pub f1: f64,
    /// The number of rows that have the label.
    pub support: usize,
}

impl LabelScores {
    fn new(label: &str, counts: Counts) -> Self {
        Self {
            label: label.to_owned(),
            precision: counts.precision(),
            recall: counts.recall(),
            f1: counts.f1(),
            support: counts.expected,
        }
    }
}

/// The numbers of parameters of what was evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Parameters without the head; those of deltas are the sum of `r (in + out)`.
    pub adapter: usize,
    /// Parameters of the head.
    pub head: usize,
}

impl Parameters {
    /// The numbers of parameters of an export.
    #[must_use]
    pub fn of(export: &Export) -> Self {
        Self { adapter: export.parameters(), head: export.head().values().map(Tensor::elem_count).sum() }
    }
}

/// The logits `[labels]` of each text, in order.
///
/// # Errors
/// The forward pass fails, or logits are not finite, so that no metric is defined.
pub fn logits(engine: &Engine, export: &Export, texts: &[Encoded]) -> Result<Vec<Vec<f32>>, Error> {
    match export {
        Export::Adapter(adapter) => finite(as_served(engine, &Arc::new(adapter.clone()), texts)?),
        Export::Model(model) => with_hooks(engine, model, &model.head, texts),
        Export::Bottlenecks(bottlenecks) => with_hooks(engine, bottlenecks, &bottlenecks.head, texts),
    }
}

/// The logits of all texts, if they are finite.
fn finite(mut all: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, Error> {
    match all.iter().position(|logits| logits.iter().any(|logit| !logit.is_finite())) {
        Some(text) => Err(Error::NotFinite { text: text + 1, logits: all.swap_remove(text) }),
        None => Ok(all),
    }
}

/// The logits from the forward pass of serving.
fn as_served(engine: &Engine, adapter: &Arc<Adapter>, texts: &[Encoded]) -> Result<Vec<Vec<f32>>, Error> {
    let [host, device] = BATCH_TOKENS;
    let most = if engine.backend().on_host() { host } else { device };
    let (mut all, mut rows, mut tokens) = (Vec::with_capacity(texts.len()), Vec::new(), 0);
    for text in texts {
        if tokens + text.ids.len() > most && !rows.is_empty() {
            all.extend(engine.logits(&rows)?);
            rows.clear();
            tokens = 0;
        }
        tokens += text.ids.len();
        rows.push(Row { text: text.clone(), adapter: Arc::clone(adapter) });
    }
    all.extend(engine.logits(&rows)?);
    Ok(all)
}

/// The logits from a forward pass with these hooks and this head, in micro-batches.
///
/// # Errors
/// As [`logits`].
pub(crate) fn with_hooks(
    engine: &Engine,
    hooks: &(dyn Hooks + Sync),
    head: &Head,
    texts: &[Encoded],
) -> Result<Vec<Vec<f32>>, Error> {
    let encoder = &**engine.encoder();
    let run = |texts: &[Encoded]| -> Result<Vec<Vec<f32>>, Error> {
        let batch = Packed::new(texts);
        Ok(encoder.logits(&encoder.pooled(&batch, hooks)?, head, hooks)?.to_vec2()?)
    };
    let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
    let cut = |tokens| micro_batches::divide(&lengths, lengths.iter().sum::<usize>().div_ceil(tokens));
    if !engine.backend().on_host() {
        let parts = cut(BATCH_TOKENS[1]).into_iter().map(|rows| run(&texts[rows]));
        return finite(parts.collect::<Result<Vec<_>, _>>()?.concat());
    }
    let cuts = cut(2 * micro_batches::TOKENS);
    let workers = Workers::new(usize::MAX)?;
    let parts = workers.map(cuts.len(), |i| run(&texts[cuts[i].clone()]));
    finite(parts.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

/// The metrics of `export` on a split of `data`. Texts are truncated to `max_length` tokens or, as in serving, to the base's maximum.
///
/// # Errors
/// The split does not exist, the data has another number of labels than the adapter, or the forward pass fails.
pub fn evaluate(
    engine: &Engine,
    export: &Export,
    data: &TaskData,
    split: &str,
    max_length: Option<usize>,
) -> Result<Evaluation, Error> {
    let examples = data.split(split)?;
    let outputs = &export.info().labels;
    if outputs.len() != data.labels.len() {
        return Err(Error::LabelCount { adapter: outputs.clone(), data: data.labels.clone() });
    }
    let (places, warning) = places(&data.labels, outputs)?;
    let texts = encode(engine, &examples, max_length.unwrap_or(engine.max_length()))?;
    let targets: Vec<Target> = examples.iter().map(|example| example.target.clone()).collect();
    let mut logits = logits(engine, export, &texts)?;
    logits.iter_mut().for_each(|logits| *logits = places.iter().map(|&place| logits[place]).collect());
    let metrics = metrics_of(data).iter();
    let labels = data.labels.iter().filter(|_| data.problem != ProblemType::Regression);
    Ok(Evaluation {
        task: data.task.clone(),
        split: split.to_owned(),
        examples: examples.len(),
        metrics: metrics.map(|&metric| (metric.name(), score(metric, &logits, &targets))).collect(),
        per_label: labels.zip(counts(&logits, &targets)).map(|(label, of)| LabelScores::new(label, of)).collect(),
        also: BTreeMap::new(),
        parameters: Parameters::of(export),
        warnings: warning.into_iter().collect(),
    })
}

/// The index among the adapter's outputs of each of the data's labels. The adapter may have the same names in another order, and F1
/// needs the data's class 1. Labels are matched by id if one side has no names (`LABEL_0`, ...), or if there is only one output. There
/// is a warning if the ids of the data's names are a guess.
fn places(data: &[String], adapter: &[String]) -> Result<(Vec<usize>, Option<String>), Error> {
    const MOST: usize = 5;
    let places: Vec<Option<usize>> = data.iter().map(|name| adapter.iter().position(|other| other == name)).collect();
    let nameless = |names: &[String]| names.iter().enumerate().all(|(id, name)| *name == format!("LABEL_{id}"));
    let numbers = || adapter.iter().map(|name| name.parse::<usize>()).collect::<Result<Vec<_>, _>>();
    if data.len() > 1 && nameless(data) && numbers().is_ok_and(|names| !names.into_iter().eq(0..data.len())) {
        return Err(Error::LabelNumbers(adapter.to_vec()));
    }
    if data.len() == 1 || (places.iter().all(Option::is_none) && (nameless(data) || nameless(adapter))) {
        let guessed = data.len() > 1 && nameless(adapter) != nameless(data);
        let warning = guessed.then(|| {
            let (what, names) = if nameless(adapter) {
                ("the adapter has no names of labels; the data's are taken for its ids", data)
            } else {
                ("the data has no names of labels; its ids are taken for the adapter's", adapter)
            };
            let ids = names.iter().take(MOST).enumerate().map(|(id, name)| format!("{id} {name}"));
            let more = if names.len() > MOST { ", ..." } else { "" };
            let ids = ids.collect::<Vec<_>>().join(", ");
            format!("{what} in this order: {ids}{more}; labels.txt decides another")
        });
        return Ok(((0..data.len()).collect(), warning));
    }
    let places = places.into_iter().collect::<Option<Vec<usize>>>();
    let places = places.ok_or_else(|| Error::LabelNames { adapter: adapter.to_vec(), data: data.to_vec() })?;
    Ok((places, None))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn places_of(data: &[&str], adapter: &[&str]) -> Result<(Vec<usize>, Option<String>), Error> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        places(&names(data), &names(adapter))
    }

    #[test]
    fn labels_are_matched_by_name_or_by_id() {
        assert_eq!(places_of(&["yes", "no"], &["no", "yes"]).unwrap(), (vec![1, 0], None));
        let (places, warning) = places_of(&["LABEL_0", "LABEL_1"], &["no", "yes"]).unwrap();
        assert!(places == [0, 1] && warning.unwrap().contains("the data has no names of labels"));
        let (places, warning) = places_of(&["no", "yes"], &["LABEL_0", "LABEL_1"]).unwrap();
        assert!(places == [0, 1] && warning.unwrap().contains("0 no, 1 yes"));
        assert_eq!(places_of(&["score"], &["similarity"]).unwrap().0, [0]);
        assert!(matches!(places_of(&["no", "maybe"], &["no", "yes"]), Err(Error::LabelNames { .. })));
    }

    /// Numbers in the data may be ids, or the adapter's names where these are numbers from 1, for example. A guess gave an accuracy of 0.
    #[test]
    fn numbers_that_may_be_ids_or_names_are_refused() {
        let refused = places_of(&["LABEL_0", "LABEL_1"], &["1", "2"]);
        assert!(matches!(refused, Err(Error::LabelNumbers(names)) if names == ["1", "2"]));
        assert_eq!(places_of(&["LABEL_0", "LABEL_1"], &["0", "1"]).unwrap().0, [0, 1]);
    }
}
