//! The encoder of the original Transformer, norms after the residuals: what tells BERT and its like from each other.

use super::HeadSpec;
use crate::base::{BaseConfig, ModelError};
use crate::params::{Input, Layout, Module};

/// The modules of a layer, in the order in which every layout here lists them.
pub(crate) const QUERY: usize = 0;
pub(crate) const KEY: usize = 1;
pub(crate) const VALUE: usize = 2;
pub(crate) const ATTENTION_OUTPUT: usize = 3;
pub(crate) const INTERMEDIATE: usize = 4;
pub(crate) const OUTPUT: usize = 5;

/// What a layer's parameters are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// The six linears: query, key, value, the attention's output, into and out of the feed-forward.
    pub(crate) linears: [&'static str; 6],
    /// The norm after attention.
    pub(crate) attention_norm: &'static str,
    /// The norm after the feed-forward.
    pub(crate) output_norm: &'static str,
    /// Whether the attention's output is dropped in training.
    pub(crate) drops_attention: bool,
}

/// BERT's names, which most follow.
pub(crate) const BERT: Names = Names {
    linears: [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ],
    attention_norm: "attention.output.LayerNorm",
    output_norm: "output.LayerNorm",
    drops_attention: true,
};

/// What tells one such encoder from another.
#[derive(Debug)]
pub(crate) struct PostNormSpec {
    /// What stands before its names, `bert`.
    pub(crate) prefix: &'static str,
    /// Where its layers are, `encoder.layer`.
    pub(crate) stack: &'static str,
    /// What is in them.
    pub(crate) names: Names,
    /// Its tables in `embeddings`: words, positions, and perhaps segments.
    pub(crate) tables: &'static [&'static str],
    /// Width of its embeddings, and the linear that brings them to the hidden size where they differ.
    pub(crate) embedding: fn(&BaseConfig) -> std::result::Result<usize, ModelError>,
    pub(crate) projection: &'static str,
    /// What its layers add to their scores by distance, where they do.
    pub(crate) relative: Option<Relative>,
    /// Its classifier.
    pub(crate) head: HeadSpec,
}

/// A bias of attention scores by head and distance, one for all layers.
#[derive(Debug)]
pub(crate) struct Relative {
    /// The table `[rows, heads]`, `encoder.relative_attention_bias`.
    pub(crate) table: &'static str,
    /// Its rows.
    pub(crate) rows: fn(&BaseConfig) -> std::result::Result<usize, ModelError>,
    /// The row of the distance `j - i` of key j from query i.
    pub(crate) row: fn(i64) -> usize,
}

/// The six linears of each layer.
pub(crate) fn modules(config: &BaseConfig, names: &Names) -> Vec<Module> {
    const LABELS: [&str; 6] = ["query", "key", "value", "attention output", "intermediate", "output"];
    let (hidden, wide) = (config.hidden_size, config.intermediate_size);
    let square = |input| (hidden, hidden, input);
    let shapes = [
        square(Input::Attention),
        square(Input::Attention),
        square(Input::Attention),
        square(Input::AttentionOutput),
        (hidden, wide, Input::FeedForward),
        (wide, hidden, Input::FeedForwardOutput),
    ];
    let module =
        |((name, label), (in_features, out_features, input))| Module { name, label, in_features, out_features, input };
    names.linears.into_iter().zip(LABELS).zip(shapes).map(module).collect()
}

impl PostNormSpec {
    /// The sites of such an encoder.
    pub(crate) fn layout(&self, config: &BaseConfig) -> std::result::Result<Layout, ModelError> {
        let projects = (self.embedding)(config)? != config.hidden_size;
        let mut other_linears: Vec<String> = projects.then(|| self.projection.to_owned()).into_iter().collect();
        // What lies under `classifier` is never a target to PEFT.
        if !self.head.dense.starts_with("classifier.") {
            other_linears.push(self.head.dense.to_owned());
        }
        Ok(Layout {
            prefix: self.prefix,
            stack: self.stack,
            layers: config.num_hidden_layers,
            modules: modules(config, &self.names),
            other_linears,
            tables: self
                .tables
                .iter()
                .map(|table| format!("{}.embeddings.{table}", self.prefix))
                .chain(self.relative.iter().map(|relative| format!("{}.{}", self.prefix, relative.table)))
                .collect(),
            head: self.head.parameters(config.hidden_size),
            hidden: config.hidden_size,
        })
    }
}
