//! What a method leaves, as a value that can be evaluated and written.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};
use polyrank::adapter::{Adapter, AdapterInfo};
use polyrank::encoder::{Head, Hooks};

use super::Bottlenecks;

/// What a method leaves.
#[derive(Debug, Clone)]
pub enum Export {
    /// Low-rank deltas and a head, which PEFT loads and the runtime serves (the LoRA family).
    Adapter(Adapter),
    /// Other values of the base's own parameters, and a head: a model of its own (full fine-tuning, BitFit).
    Model(Model),
    /// Bottlenecks between the base's layers, and a head.
    Bottlenecks(Bottlenecks),
}

/// A base of which some parameters have other values, and a head.
#[derive(Debug, Clone)]
pub struct Model {
    /// The labels, the problem type, and the base.
    pub info: AdapterInfo,
    /// The parameters that differ from the base's, f32, by their names in checkpoints.
    pub parameters: BTreeMap<String, Tensor>,
    /// The head.
    pub head: Head,
}

impl Hooks for Model {
    fn parameter(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.parameters.get(name).cloned())
    }
}

impl Export {
    /// The labels, the problem type, and the base.
    #[must_use]
    pub fn info(&self) -> &AdapterInfo {
        match self {
            Self::Adapter(adapter) => &adapter.info,
            Self::Model(model) => &model.info,
            Self::Bottlenecks(bottlenecks) => &bottlenecks.info,
        }
    }

    /// The head's tensors by name.
    #[must_use]
    pub fn head(&self) -> &Head {
        match self {
            Self::Adapter(adapter) => &adapter.weights.head,
            Self::Model(model) => &model.head,
            Self::Bottlenecks(bottlenecks) => &bottlenecks.head,
        }
    }

    /// The head's tensors, to change them.
    pub(crate) fn head_mut(&mut self) -> &mut Head {
        match self {
            Self::Adapter(adapter) => &mut adapter.weights.head,
            Self::Model(model) => &mut model.head,
            Self::Bottlenecks(bottlenecks) => &mut bottlenecks.head,
        }
    }

    /// The number of parameters without the head.
    #[must_use]
    pub fn parameters(&self) -> usize {
        match self {
            Self::Adapter(adapter) => adapter.delta_parameters(),
            Self::Model(model) => model.parameters.values().map(Tensor::elem_count).sum(),
            Self::Bottlenecks(bottlenecks) => bottlenecks.parameters(),
        }
    }

    /// The low-rank adapter, if it is one.
    #[must_use]
    pub fn into_adapter(self) -> Option<Adapter> {
        match self {
            Self::Adapter(adapter) => Some(adapter),
            Self::Model(_) | Self::Bottlenecks(_) => None,
        }
    }
}

impl From<Adapter> for Export {
    fn from(adapter: Adapter) -> Self {
        Self::Adapter(adapter)
    }
}
