//! What fine-tuning changed: how much each kind of parameter differs from the base's.

use std::borrow::Cow;
use std::collections::HashMap;

use candle_core::{DType, Device};
use polyrank::engine::Engine;
use polyrank::params::{Frozen, Layout};
use serde::Serialize;

use crate::error::Error;

/// A kind of parameter. An adapter has a delta for linears and the whole head; the other kinds stay those of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The weights of the layers' linears.
    Linears,
    /// The head.
    Head,
    /// The biases of the layers' linears.
    Biases,
    /// Weights and biases of norms.
    Norms,
    /// The tables of words, positions and segments.
    Embeddings,
    /// Everything else, such as DeBERTa's relative positions.
    Other,
}

impl Kind {
    /// All kinds in the order of reports.
    pub const ALL: [Self; 6] = [Self::Linears, Self::Head, Self::Biases, Self::Norms, Self::Embeddings, Self::Other];

    /// The kinds that an adapter leaves as they are in the base.
    pub const LOST: [Self; 4] = [Self::Biases, Self::Norms, Self::Embeddings, Self::Other];

    /// The kind's name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Linears => "linears",
            Self::Head => "head",
            Self::Biases => "biases",
            Self::Norms => "norms",
            Self::Embeddings => "embeddings",
            Self::Other => "other",
        }
    }

    /// The kind of the parameter `name` of a base of `layout`.
    #[must_use]
    pub fn of(layout: &Layout, name: &str) -> Self {
        let (module, part) = name.rsplit_once('.').unwrap_or((name, ""));
        if layout.head.iter().any(|parameter| parameter.name == name) {
            Self::Head
        } else if layout.find(module).is_some() {
            if part == "weight" { Self::Linears } else { Self::Biases }
        } else if layout.tables.iter().any(|table| table == module) {
            Self::Embeddings
        } else if module.to_lowercase().contains("norm") {
            Self::Norms
        } else {
            Self::Other
        }
    }
}

/// How much one kind of parameter differs from the base's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// The kind.
    pub kind: Kind,
    /// The number of parameters of the base.
    pub parameters: usize,
    /// The Frobenius norm of the difference over that of the base's parameters.
    pub relative: f64,
}

/// The parameters of an encoder by name.
pub type Parameters<'a> = HashMap<&'a str, &'a Frozen>;

/// The parameters of `engine`'s encoder by name.
#[must_use]
pub fn parameters(engine: &Engine) -> Parameters<'_> {
    engine.encoder().parameters().iter().map(|frozen| (frozen.name(), frozen)).collect()
}

/// The elements of a parameter, row by row, on the host.
///
/// # Errors
/// A tensor operation fails.
pub fn elements(frozen: &Frozen) -> candle_core::Result<Cow<'_, [f32]>> {
    match frozen.slice() {
        Some(slice) => Ok(Cow::Borrowed(slice)),
        None => {
            let tensor = frozen.tensor()?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
            tensor.flatten_all()?.to_vec1().map(Cow::Owned)
        }
    }
}

/// The squared Frobenius norms of the difference `fine - base` and of `base`.
#[must_use]
pub fn squares(base: &[f32], fine: &[f32]) -> [f64; 2] {
    let square = |x: f64| x * x;
    let pairs = base.iter().zip(fine);
    pairs.fold([0.0, 0.0], |[difference, norm], (&base, &fine)| {
        let (base, fine) = (f64::from(base), f64::from(fine));
        [difference + square(fine - base), norm + square(base)]
    })
}

/// The changes of all kinds of parameters that the base has.
///
/// # Errors
/// A tensor operation fails.
pub fn changes(base: &Engine, fine: &Engine) -> Result<Vec<Change>, Error> {
    let fine = parameters(fine);
    let mut sums: HashMap<Kind, (usize, [f64; 2])> = HashMap::new();
    for parameter in base.encoder().parameters() {
        let Some(other) = fine.get(parameter.name()) else { continue };
        let [difference, norm] = squares(&elements(parameter)?, &elements(other)?);
        let (count, [differences, norms]) = sums.entry(Kind::of(base.layout(), parameter.name())).or_default();
        *count += parameter.shape().iter().product::<usize>();
        *differences += difference;
        *norms += norm;
    }
    let change = |kind| {
        let (parameters, [difference, norm]) = sums.get(&kind).copied()?;
        let relative = if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() };
        Some(Change { kind, parameters, relative })
    };
    Ok(Kind::ALL.into_iter().filter_map(change).collect())
}
