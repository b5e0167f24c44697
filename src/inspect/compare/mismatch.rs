//! Adapters that cannot be compared, because their bases have different layouts.

use std::path::PathBuf;

use crate::params::Layout;

/// The error for two adapters that cannot be compared, because their bases have different layouts.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be compared with {}: {difference}", other.display(), first.display())]
pub struct LayoutMismatch {
    /// The folder of the first adapter. All others must have its layout.
    pub first: PathBuf,
    /// The folder of an adapter with another layout.
    pub other: PathBuf,
    /// What differs.
    pub difference: LayoutDifference,
}

/// A difference between two layouts. The first adapter's layout is the expected one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutDifference {
    /// The architecture, which shows in the names of a checkpoint's layers.
    #[error("expected an architecture with layers at {expected}, found layers at {found}")]
    Architecture {
        /// `bert.encoder.layer`
        expected: String,
        /// `distilbert.transformer.layer`
        found: String,
    },
    /// The width of the hidden states.
    #[error("expected hidden size {expected}, found {found}")]
    Hidden {
        /// The first adapter's hidden size.
        expected: usize,
        /// The other adapter's hidden size.
        found: usize,
    },
    /// The linears of a layer.
    #[error(
        "expected the modules {}, found {} (an adapter's files alone may not show all of them; --model-id does)",
        expected.join(", "),
        found.join(", ")
    )]
    Modules {
        /// The names of the linears inside a layer, in the first adapter.
        expected: Vec<&'static str>,
        /// Their names in the other adapter.
        found: Vec<&'static str>,
    },
    /// The number of layers.
    #[error(
        "expected {expected} layers, found {found} (an adapter's files alone may not show layers after the last adapted one; \
         --model-id does)"
    )]
    Layers {
        /// The first adapter's number of layers.
        expected: usize,
        /// The other adapter's number of layers.
        found: usize,
    },
}

impl LayoutDifference {
    /// The first difference between the two layouts, if there is one. The width of the feed-forward is not compared: without the base
    /// it is partly a guess ([`crate::adapter::layout_of`]), and the sites do not depend on it.
    pub(super) fn between(expected: &Layout, found: &Layout) -> Option<Self> {
        let stack = |layout: &Layout| format!("{}.{}", layout.prefix, layout.stack);
        let modules = |layout: &Layout| layout.modules.iter().map(|module| module.name).collect::<Vec<_>>();
        if stack(expected) != stack(found) {
            Some(Self::Architecture { expected: stack(expected), found: stack(found) })
        } else if expected.hidden != found.hidden {
            Some(Self::Hidden { expected: expected.hidden, found: found.hidden })
        } else if modules(expected) != modules(found) {
            Some(Self::Modules { expected: modules(expected), found: modules(found) })
        } else if expected.layers != found.layers {
            Some(Self::Layers { expected: expected.layers, found: found.layers })
        } else {
            None
        }
    }
}
