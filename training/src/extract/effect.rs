//! How much a change of parameters moves the logits of a classifier.

use std::collections::HashMap;

use candle_core::{Result as TensorResult, Tensor};
use polyrank::adapter::{Adapter, ProblemType};
use polyrank::encoder::Hooks;
use polyrank::engine::Engine;
use polyrank::text::{Encoded, Limit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::change::{Kind, parameters};
use crate::error::Error;
use crate::evaluate;
use crate::fine_tuned::FineTuned;
use crate::method::Export;
use crate::metric::argmax;

/// The number of random texts, and the number of random tokens in each.
const RANDOM: [usize; 2] = [256, 16];

/// A difference between the logits of two classifiers on the same texts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Effect {
    /// The mean absolute difference of a logit.
    pub difference: f64,
    /// The share of equal decisions: the top label of a text, or with several labels a text whether a label applies. `None` for a
    /// regression.
    pub agreement: Option<f64>,
}

impl Effect {
    /// The difference of `found [texts][outputs]` from `expected`.
    #[must_use]
    pub fn new(expected: &[Vec<f32>], found: &[Vec<f32>], problem: ProblemType) -> Self {
        let pairs = || expected.iter().zip(found);
        let logits = || pairs().flat_map(|(expected, found)| expected.iter().zip(found));
        let mean = |sum: f64, count: usize| sum / count.max(1) as f64;
        let difference = mean(logits().map(|(a, b)| f64::from((a - b).abs())).sum(), logits().count());
        let equal = match problem {
            ProblemType::Regression => None,
            ProblemType::MultiLabelClassification => {
                Some((logits().filter(|(a, b)| (**a > 0.0) == (**b > 0.0)).count(), logits().count()))
            }
            ProblemType::SingleLabelClassification => {
                Some((pairs().filter(|(a, b)| argmax(a) == argmax(b)).count(), expected.len()))
            }
        };
        Self { difference, agreement: equal.map(|(equal, all)| mean(equal as f64, all)) }
    }
}

/// Hooks that put parameters of the base in the place of those of the fine-tuned model.
struct Reverted(HashMap<String, Tensor>);

impl Hooks for Reverted {
    fn parameter(&self, name: &str) -> TensorResult<Option<Tensor>> {
        Ok(self.0.get(name).cloned())
    }
}

/// Compares logits with those of a fine-tuned model, on the same texts.
pub struct Comparison<'a> {
    fine: &'a FineTuned,
    texts: Vec<Encoded>,
    /// The fine-tuned model's logits `[texts][outputs]`.
    logits: Vec<Vec<f32>>,
}

impl<'a> Comparison<'a> {
    /// A comparison on `texts`.
    ///
    /// # Errors
    /// The forward pass fails, or its logits are not finite.
    pub fn new(fine: &'a FineTuned, texts: Vec<Encoded>) -> Result<Self, Error> {
        let logits = evaluate::logits(&fine.engine, &fine.export(), &texts)?;
        Ok(Self { fine, texts, logits })
    }

    /// The number of texts.
    #[must_use]
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// The difference of an adapter of `base`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn adapter(&self, base: &Engine, adapter: &Adapter) -> Result<Effect, Error> {
        let logits = evaluate::logits(base, &Export::Adapter(adapter.clone()), &self.texts)?;
        Ok(Effect::new(&self.logits, &logits, self.fine.problem()))
    }

    /// The difference of the fine-tuned model itself with the parameters of `kinds` as they are in `base`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn reverted(&self, base: &Engine, kinds: &[Kind]) -> Result<Effect, Error> {
        let of_base = parameters(base).into_iter().filter(|(name, _)| kinds.contains(&Kind::of(base.layout(), name)));
        let hooks = of_base.map(|(name, frozen)| Ok((name.to_owned(), frozen.tensor()?)));
        let hooks = Reverted(hooks.collect::<TensorResult<_>>()?);
        let logits = evaluate::with_hooks(&self.fine.engine, &hooks, &self.fine.head, &self.texts)?;
        Ok(Effect::new(&self.logits, &logits, self.fine.problem()))
    }
}

/// Texts of random tokens between the special tokens of the tokenizer.
///
/// # Errors
/// The tokenizer does not tokenize an empty text.
pub fn random_texts(engine: &Engine, seed: u64) -> Result<Vec<Encoded>, Error> {
    let empty = engine.encode("", None, &Limit::TRUNCATE)?;
    let (mut rng, words) = (StdRng::seed_from_u64(seed), engine.config().vocab_size as u32);
    let [texts, tokens] = RANDOM;
    let tokens = tokens.min(engine.max_length().saturating_sub(empty.ids.len()));
    let text = |_| {
        let mut text = empty.clone();
        let (first, kind) = (1.min(text.ids.len()), text.type_ids.first().copied().unwrap_or_default());
        text.ids.splice(first..first, (0..tokens).map(|_| rng.random_range(0..words)));
        text.type_ids.splice(first..first, std::iter::repeat_n(kind, tokens));
        text
    };
    Ok((0..texts).map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_follows_the_kind_of_task() {
        let (a, b) = (vec![vec![1.0, 2.0], vec![3.0, -1.0]], vec![vec![1.5, 1.0], vec![2.0, -1.0]]);
        let effect = |problem| Effect::new(&a, &b, problem);
        let single = effect(ProblemType::SingleLabelClassification);
        assert_eq!((single.difference, single.agreement), (2.5 / 4.0, Some(0.5)));
        assert_eq!(effect(ProblemType::MultiLabelClassification).agreement, Some(1.0));
        assert_eq!(effect(ProblemType::Regression).agreement, None);
    }
}
