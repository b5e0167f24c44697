//! Encoders with norms after the residuals, as in the original Transformer: how BERT and its relatives differ.

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

/// The names of a layer's parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// The six linears: query, key, value, the attention's output, into and out of the feed-forward.
    pub(crate) linears: [&'static str; 6],
    /// The norm after attention.
    pub(crate) attention_norm: &'static str,
    /// The norm after the feed-forward.
    pub(crate) output_norm: &'static str,
    /// Whether dropout applies to the attention's output in training.
    pub(crate) drops_attention: bool,
}

/// BERT's names, which most architectures use.
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

/// The description of one encoder with norms after the residuals.
#[derive(Debug)]
pub(crate) struct PostNormSpec {
    /// The prefix of its names, such as `bert`.
    pub(crate) prefix: &'static str,
    /// The path of its layers, such as `encoder.layer`.
    pub(crate) stack: &'static str,
    /// The names inside a layer.
    pub(crate) names: Names,
    /// Its tables in `embeddings`: words, positions and, if it has them, segments.
    pub(crate) tables: &'static [&'static str],
    /// The width of its embeddings. If that is not the hidden size, the linear [`Self::projection`] follows.
    pub(crate) embedding: fn(&BaseConfig) -> std::result::Result<usize, ModelError>,
    /// The name of that linear.
    pub(crate) projection: &'static str,
    /// The bias of attention scores by distance, if it has one.
    pub(crate) relative: Option<Relative>,
    /// Its classifier.
    pub(crate) head: HeadSpec,
}

/// A bias of attention scores by head and distance, shared by all layers.
#[derive(Debug)]
pub(crate) struct Relative {
    /// The name of the table `[rows, heads]`, such as `encoder.relative_attention_bias`.
    pub(crate) table: &'static str,
    /// The number of rows.
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
    /// The sites of this encoder.
    pub(crate) fn layout(&self, config: &BaseConfig) -> std::result::Result<Layout, ModelError> {
        let projects = (self.embedding)(config)? != config.hidden_size;
        let mut other_linears: Vec<String> = projects.then(|| self.projection.to_owned()).into_iter().collect();
        // PEFT never adapts modules under `classifier`.
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
