//! What a classifier is made of, and what its tensors are called.

use crate::params::{Dim, HeadParameter};

/// What lies between the two linears of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Tanh,
    Gelu,
    Relu,
}

/// A head as every architecture has it: a linear over the hidden state, an activation, perhaps a norm, a linear to labels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadSpec {
    /// The first linear's name in checkpoints, `bert.pooler.dense`.
    pub(crate) dense: &'static str,
    /// Whether it has a bias.
    pub(crate) dense_bias: bool,
    /// What follows.
    pub(crate) activation: Activation,
    /// A norm, and whether it has a bias.
    pub(crate) norm: Option<(&'static str, bool)>,
    /// The last linear, `classifier`.
    pub(crate) output: &'static str,
    /// Whether the hidden state is dropped too, in training.
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

    /// The head's tensors. Those of the last linear are always the adapter's; the others' need not be, if the base has them.
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
