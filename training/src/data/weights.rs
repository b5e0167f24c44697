//! The weights of classes in the loss, as `--class-weights` gives them.

use super::classes::Classes;
use super::labels::Labels;
use super::{DataError, Example};

/// The weight of each class.
///
/// `balanced` weighs classes by their number of training rows, so that all count alike: `n / (k count)` for `n` rows and `k` classes that
/// occur, as in scikit-learn. If rows have several labels, a label's weight applies where it is present, so that it is
/// `(n - count) / count`. A class that has no row, or a label that all rows have, gets 1.
///
/// `NAME=W,NAME=W` gives weights by name or id; others are 1. A name may contain commas and equals signs.
pub(super) fn resolve(asked: &str, labels: &Labels, train: &[Example]) -> Result<Vec<f64>, DataError> {
    let Some(classes) = labels.classes() else {
        return Err(wrong("classes", "a regression"));
    };
    if asked != "balanced" {
        return named(asked, classes);
    }
    let mut counts = vec![0.0; classes.names().len()];
    train.iter().flat_map(|example| example.target.classes()).for_each(|&class| counts[class] += 1.0);
    let (rows, present) = (train.len() as f64, counts.iter().filter(|count| **count > 0.0).count() as f64);
    let weight = |&count: &f64| match labels {
        Labels::Several(_) if count > 0.0 && count < rows => (rows - count) / count,
        Labels::One(_) if count > 0.0 => rows / (present * count),
        _ => 1.0,
    };
    Ok(counts.iter().map(weight).collect())
}

/// The largest weight that can be given. The sum over a batch must stay finite.
const LARGEST: f64 = 1e9;

fn named(asked: &str, classes: &Classes) -> Result<Vec<f64>, DataError> {
    let mut weights = vec![None; classes.names().len()];
    let mut rest = asked;
    loop {
        let (class, after) = class_of(rest, classes)?;
        let (weight, next) = after.split_once(',').map_or((after, None), |(weight, next)| (weight, Some(next)));
        match weight.trim().parse::<f64>() {
            Ok(weight) if weight > 0.0 && weight <= LARGEST => {
                if weights[class].replace(weight).is_some() {
                    return Err(wrong("each class once", format!("{} twice", classes.names()[class])));
                }
            }
            _ => {
                let expected = format!("a positive number of at most {LARGEST:e} for {}", classes.names()[class]);
                return Err(wrong(expected, weight));
            }
        }
        let Some(next) = next else { break };
        rest = next;
    }
    Ok(weights.into_iter().map(|weight| weight.unwrap_or(1.0)).collect())
}

/// The class at the beginning of `NAME=W,...`, and what follows its equals sign. The longest name that fits counts.
fn class_of<'a>(text: &'a str, classes: &Classes) -> Result<(usize, &'a str), DataError> {
    let text = text.trim_start();
    let after = |name: &str| text.strip_prefix(name)?.trim_start().strip_prefix('=');
    let fits = classes.names().iter().enumerate().filter_map(|(id, name)| Some((name.len(), (id, after(name)?))));
    if let Some((_, found)) = fits.max_by_key(|(length, _)| *length) {
        return Ok(found);
    }
    match text.split_once('=') {
        None => Err(wrong("balanced or NAME=W,NAME=W", text)),
        Some((name, after)) => match classes.id(name.trim()) {
            Some(id) => Ok((id, after)),
            None => Err(wrong(classes.names_or_ids(), name.trim())),
        },
    }
}

fn wrong(expected: impl ToString, found: impl ToString) -> DataError {
    DataError::ClassWeights { expected: expected.to_string(), found: found.to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::data::Target;

    fn classes(names: &[&str]) -> Classes {
        Classes::named(names.iter().map(|&name| name.to_owned()).collect())
    }

    fn examples(targets: impl IntoIterator<Item = Target>) -> Vec<Example> {
        targets.into_iter().map(|target| Example { text: "a".to_owned(), pair: None, target }).collect()
    }

    /// `compute_class_weight('balanced', ...)` of scikit-learn, with a class more that no row has.
    #[test]
    fn balanced_weights_equal_scikit_learn() {
        let train = examples([0, 0, 0, 0, 0, 0, 0, 1, 1, 2].map(Target::Class));
        let found = resolve("balanced", &Labels::One(classes(&["a", "b", "c", "d"])), &train).unwrap();
        for (found, expected) in found.iter().zip([0.476_190_48, 1.666_666_67, 3.333_333_33, 1.0]) {
            assert!((found - expected).abs() < 1e-8, "{found}, expected {expected}");
        }
        let several = examples([vec![0, 2], vec![2], vec![], vec![0, 1]].map(Target::Classes));
        let labels = Labels::Several(classes(&["a", "b", "c", "d"]));
        assert_eq!(resolve("balanced", &labels, &several).unwrap(), [1.0, 3.0, 1.0, 1.0]);
        let all = examples([vec![0], vec![0, 1]].map(Target::Classes));
        assert_eq!(resolve("balanced", &labels, &all).unwrap(), [1.0, 1.0, 1.0, 1.0], "all rows have a");
    }

    #[test]
    fn weights_are_given_by_name_or_id() {
        let labels = Labels::One(classes(&["a", "a=1,b", "b", "7"]));
        let named = |text: &str| resolve(text, &labels, &[]);
        assert_eq!(named("b=0.5").unwrap(), [1.0, 1.0, 0.5, 1.0]);
        assert_eq!(named("a=2, b = 3").unwrap(), [2.0, 1.0, 3.0, 1.0]);
        assert_eq!(named("a=1,b=4,7.0=2").unwrap(), [1.0, 4.0, 1.0, 2.0], "the longest name counts");
        let ids = Labels::One(Classes::Ids { names: vec!["LABEL_0".into(), "LABEL_1".into()] });
        assert_eq!(resolve("1=3", &ids, &[]).unwrap(), [1.0, 3.0]);
        assert_eq!(resolve("LABEL_1=3", &ids, &[]).unwrap(), [1.0, 3.0]);
        for (text, words) in [
            ("", "--class-weights: expected balanced or NAME=W,NAME=W, found \"\""),
            ("Balanced", "expected balanced or NAME=W,NAME=W, found \"Balanced\""),
            ("c=1", "expected a, a=1,b, b, 7, found \"c\""),
            ("b=0", "expected a positive number of at most 1e9 for b, found \"0\""),
            ("b=x,a=1", "expected a positive number of at most 1e9 for b, found \"x\""),
            ("b=inf", "expected a positive number of at most 1e9 for b, found \"inf\""),
            ("b=1e308", "expected a positive number of at most 1e9 for b, found \"1e308\""),
            ("b=1,b=2", "expected each class once, found \"b twice\""),
            ("b=1,", "expected balanced or NAME=W,NAME=W, found \"\""),
        ] {
            let message = named(text).unwrap_err().to_string();
            assert!(message.ends_with(words), "expected {words:?} in {message:?}");
        }
        let values = Labels::values(None).0;
        let message = resolve("balanced", &values, &[]).unwrap_err().to_string();
        assert_eq!(message, "--class-weights: expected classes, found \"a regression\"");
    }
}
