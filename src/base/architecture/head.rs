//! The layers of a classifier, and the names of its tensors.

use crate::params::{Dim, HeadParameter};

/// The activation between the two linears of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Tanh,
    Gelu,
    Relu,
}

/// The head that every architecture has: a linear over the hidden state, an activation, optionally a norm, and a linear to the
/// labels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadSpec {
    /// The first linear's name in checkpoints, such as `bert.pooler.dense`.
    pub(crate) dense: &'static str,
    /// Whether it has a bias.
    pub(crate) dense_bias: bool,
    /// The activation after it.
    pub(crate) activation: Activation,
    /// The name of the norm, and whether it has a bias.
    pub(crate) norm: Option<(&'static str, bool)>,
    /// The last linear's name, such as `classifier`.
    pub(crate) output: &'static str,
    /// Whether dropout also applies to the hidden state in training.
    pub(crate) drops_input: bool,
}

impl HeadSpec {
    /// The head of RoBERTa, which other architectures have too.
    pub(crate) const ROBERTA: Self = Self {
        dense: "classifier.dense",
        dense_bias: true,
        activation: Activation::Tanh,
        norm: None,
        output: "classifier.out_proj",
        drops_input: true,
    };

    /// The head's tensors. An adapter must carry those of the last linear; it may leave out the others if the base has them.
    pub(crate) fn parameters(&self, hidden: usize) -> Vec<HeadParameter> {
        let parameter = |module: &str, kind: &str, shape: &[Dim], required| HeadParameter {
            name: format!("{module}.{kind}"),
            shape: shape.to_vec(),
            required,
        };
        let fixed = Dim::Fixed(hidden);
        let mut all = vec![
            parameter(self.output, "weight", &[Dim::Labels, fixed], true),
            parameter(self.output, "bias", &[Dim::Labels], true),
            parameter(self.dense, "weight", &[fixed, fixed], false),
        ];
        if self.dense_bias {
            all.push(parameter(self.dense, "bias", &[fixed], false));
        }
        if let Some((norm, bias)) = self.norm {
            all.push(parameter(norm, "weight", &[fixed], false));
            if bias {
                all.push(parameter(norm, "bias", &[fixed], false));
            }
        }
        all
    }
}
