//! An adapter's metrics on a split, by the path that serves it.

use std::collections::BTreeMap;
use std::sync::Arc;

use polyrank::adapter::Adapter;
use polyrank::engine::{Engine, Row};
use polyrank::text::Encoded;
use serde::Serialize;

use crate::data::{Target, TaskData, encode};
use crate::error::Error;
use crate::metric::{metrics_for, score};

/// Tokens of a batch.
const BATCH_TOKENS: usize = 2048;

/// What `polyrank-train evaluate` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Name of the task.
    pub task: String,
    /// Name of the split.
    pub split: String,
    /// Number of examples.
    pub examples: usize,
    /// Values by metric.
    pub metrics: BTreeMap<&'static str, f64>,
    /// Parameters by part.
    pub parameters: Parameters,
    /// What is uncertain about them, for people.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// Numbers that an adapter holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// Sum of `r (in + out)`.
    pub adapter: usize,
    /// The head.
    pub head: usize,
}

/// Logits `[labels]` of each text, in order.
///
/// # Errors
/// What the forward pass raises; logits that are not finite, which no metric is defined on.
pub fn logits(engine: &Engine, adapter: &Arc<Adapter>, texts: &[Encoded]) -> Result<Vec<Vec<f32>>, Error> {
    let (mut all, mut rows, mut tokens) = (Vec::with_capacity(texts.len()), Vec::new(), 0);
    for text in texts {
        if tokens + text.ids.len() > BATCH_TOKENS && !rows.is_empty() {
            all.extend(engine.logits(&rows)?);
            rows.clear();
            tokens = 0;
        }
        tokens += text.ids.len();
        rows.push(Row { text: text.clone(), adapter: Arc::clone(adapter) });
    }
    all.extend(engine.logits(&rows)?);
    match all.iter().position(|logits| logits.iter().any(|logit| !logit.is_finite())) {
        Some(text) => Err(Error::NotFinite { text: text + 1, logits: all.swap_remove(text) }),
        None => Ok(all),
    }
}

/// The metrics of `adapter` on a split of `data`, its texts cut to `max_length` tokens or, as in serving, to what the base takes.
///
/// # Errors
/// A split that is not there, data of another number of labels than the adapter's, and what the forward pass raises.
pub fn evaluate(
    engine: &Engine,
    adapter: Adapter,
    data: &TaskData,
    split: &str,
    max_length: Option<usize>,
) -> Result<Evaluation, Error> {
    let examples = data.split(split)?;
    if adapter.info.labels.len() != data.labels.len() {
        let (adapter, data) = (adapter.info.labels.len(), data.labels.len());
        return Err(Error::Settings(format!("the adapter has {adapter} labels, the data {data}")));
    }
    let (places, warning) = places(&data.labels, &adapter.info.labels)?;
    let texts = encode(engine, &examples, max_length.unwrap_or(engine.max_length()))?;
    let targets: Vec<Target> = examples.iter().map(|example| example.target).collect();
    let parameters = Parameters { adapter: adapter.delta_parameters(), head: adapter.head_parameters() };
    let mut logits = logits(engine, &Arc::new(adapter), &texts)?;
    logits.iter_mut().for_each(|logits| *logits = places.iter().map(|&place| logits[place]).collect());
    let metrics = metrics_for(&data.task, data.problem).iter();
    Ok(Evaluation {
        task: data.task.clone(),
        split: split.to_owned(),
        examples: examples.len(),
        metrics: metrics.map(|&metric| (metric.name(), score(metric, &logits, &targets))).collect(),
        parameters,
        warnings: warning.into_iter().collect(),
    })
}

/// Where among the adapter's outputs each of the data's labels stands: the same names may come in another order, and F1 is of the
/// data's class 1. Where one side has no names (`LABEL_0`, ...), or there is one output, they are matched by id; with a warning where
/// the ids of the data's names are a guess.
fn places(data: &[String], adapter: &[String]) -> Result<(Vec<usize>, Option<String>), Error> {
    const MOST: usize = 5;
    let places: Vec<Option<usize>> = data.iter().map(|name| adapter.iter().position(|other| other == name)).collect();
    let nameless = |names: &[String]| names.iter().enumerate().all(|(id, name)| *name == format!("LABEL_{id}"));
    if data.len() == 1 || (places.iter().all(Option::is_none) && (nameless(data) || nameless(adapter))) {
        let guessed = data.len() > 1 && nameless(adapter) && !nameless(data);
        let warning = guessed.then(|| {
            let ids = data.iter().take(MOST).enumerate().map(|(id, name)| format!("{id} {name}"));
            let more = if data.len() > MOST { ", ..." } else { "" };
            format!(
                "the adapter has no names of labels; the data's are taken for its ids in this order: {}{more}; \
                 labels.txt decides another",
                ids.collect::<Vec<_>>().join(", ")
            )
        });
        return Ok(((0..data.len()).collect(), warning));
    }
    let places = places.into_iter().collect::<Option<Vec<usize>>>();
    let places = places
        .ok_or_else(|| Error::Settings(format!("labels differ: the adapter has {adapter:?}, the data {data:?}")))?;
    Ok((places, None))
}
