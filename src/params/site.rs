//! Sites: the places in an encoder that an adapter may change, and their names.
//!
//! A *site* is one adapted linear, identified by (layer, module). A [`Layout`] lists the sites of an architecture, with their sizes
//! and their names in checkpoints. The code that reads an adapter needs nothing else from the base.

use serde::Serialize;

/// One adapted linear of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Layer, from 0 at the embeddings.
    pub layer: usize,
    /// Index into [`Layout::modules`].
    pub module: usize,
}

/// An input of a layer: a tensor that some of its linears read. The variants are in the order of execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Input {
    /// Read by query, key and value.
    Attention,
    /// Read by the attention's output linear.
    AttentionOutput,
    /// Read by the linear into the feed-forward.
    FeedForward,
    /// Read by the linear out of the feed-forward.
    FeedForwardOutput,
    /// Relative positions (DeBERTa). They are not rows of the batch's tokens, and they act inside the attention.
    Positions,
}

impl Input {
    /// The inputs that are rows of the batch's tokens.
    pub const TOKENS: [Self; 4] = [Self::Attention, Self::AttentionOutput, Self::FeedForward, Self::FeedForwardOutput];
}

/// The place just before the linears that read an input, where rows that ran together may fork. Points are ordered by execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Point {
    /// Layer, from 0 at the embeddings.
    pub layer: usize,
    /// Which input, one of [`Input::TOKENS`].
    pub input: Input,
}

/// A site as it is shown to users and clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct NamedSite {
    /// Layer, from 0 at the embeddings.
    pub layer: usize,
    /// Name inside the layer, such as `attention.self.query`.
    pub module: &'static str,
}

/// One kind of linear that every layer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name inside its layer in checkpoints, such as `attention.self.query`.
    pub name: &'static str,
    /// Short name for tables, such as `query`.
    pub label: &'static str,
    /// Width of the input.
    pub in_features: usize,
    /// Width of the output.
    pub out_features: usize,
    /// Which of the layer's inputs the linear reads. Modules that read the same input may share work.
    pub input: Input,
}

/// A size in the shape of a head's tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// The adapter's number of labels.
    Labels,
    /// A size that the base sets.
    Fixed(usize),
}

/// A tensor that an adapter's head may carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadParameter {
    /// Name in checkpoints, without PEFT's `base_model.model.`, such as `classifier.weight`.
    pub name: String,
    /// The tensor's shape.
    pub shape: Vec<Dim>,
    /// Whether an adapter without this tensor is rejected, because the base cannot supply it.
    pub required: bool,
}

/// The sites of one base and the tensors of its heads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The prefix of every encoder name in a classifier's checkpoint, such as `bert`.
    pub prefix: &'static str,
    /// The path of the layers below the prefix, such as `encoder.layer`.
    pub stack: &'static str,
    /// Number of layers.
    pub layers: usize,
    /// The linears of each layer, in the order in which a layer runs them, except that those of DeBERTa's positions come last.
    pub modules: Vec<Module>,
    /// Linears of the `transformers` model that lie outside the layers, such as `bert.pooler.dense`. They are never sites, but
    /// PEFT's patterns may name them. A delta of one of the head's linears becomes part of the adapter's head; a delta of any other
    /// is rejected by name.
    pub other_linears: Vec<String>,
    /// Embedding tables outside the layers, and everything else that PEFT can adapt and that is not a linear. Their deltas are
    /// rejected by name too.
    pub tables: Vec<String>,
    /// The tensors of a head.
    pub head: Vec<HeadParameter>,
    /// `hidden_size` of the base.
    pub hidden: usize,
}

impl Layout {
    /// Number of sites.
    #[must_use]
    pub fn len(&self) -> usize {
        self.layers * self.modules.len()
    }

    /// Whether there are no sites.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position of `site` among all sites, below [`Layout::len`].
    #[must_use]
    pub fn index(&self, site: Site) -> usize {
        site.layer * self.modules.len() + site.module
    }

    /// All sites, layer by layer. Within a layer they are in the order of [`Layout::modules`].
    pub fn sites(&self) -> impl Iterator<Item = Site> + '_ {
        let modules = self.modules.len();
        (0..self.len()).map(move |i| Site { layer: i / modules, module: i % modules })
    }

    /// The first of the sites for which `is_changed` holds: before it, everything is computed as in the base.
    pub fn first_changed(&self, is_changed: impl Fn(Site) -> bool) -> Option<Site> {
        self.sites().filter(|&site| is_changed(site)).min_by_key(|&site| self.point(site))
    }

    /// The site that is computed last.
    #[must_use]
    pub fn last(&self) -> Option<Site> {
        self.sites().max_by_key(|&site| self.point(site))
    }

    /// The kind of linear at `site`.
    #[must_use]
    pub fn module(&self, site: Site) -> &Module {
        &self.modules[site.module]
    }

    /// The last point before `site` at which a row still equals the base's.
    #[must_use]
    pub fn point(&self, site: Site) -> Point {
        let input = match self.module(site).input {
            Input::Positions => Input::Attention,
            tokens => tokens,
        };
        Point { layer: site.layer, input }
    }

    /// The share, from 0 to 1, of a forward pass's matrix products that run at `point` or after it.
    #[must_use]
    pub fn share_from(&self, point: Point) -> f64 {
        let work = |site| (self.module(site).in_features * self.module(site).out_features) as f64;
        let after: f64 = self.sites().filter(|&site| self.point(site) >= point).map(work).sum();
        after / self.sites().map(work).sum::<f64>()
    }

    /// The full name in a classifier's checkpoint, such as `bert.encoder.layer.0.attention.self.query`.
    #[must_use]
    pub fn name(&self, site: Site) -> String {
        format!("{}.{}.{}.{}", self.prefix, self.stack, site.layer, self.module(site).name)
    }

    /// The site's layer and its module's name.
    #[must_use]
    pub fn named(&self, site: Site) -> NamedSite {
        NamedSite { layer: site.layer, module: self.module(site).name }
    }

    /// The site with this full name, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Site> {
        let rest = name.strip_prefix(self.prefix)?.strip_prefix('.')?.strip_prefix(self.stack)?.strip_prefix('.')?;
        let (layer, module) = rest.split_once('.')?;
        let layer = layer.parse().ok().filter(|&layer| layer < self.layers)?;
        let module = self.modules.iter().position(|m| m.name == module)?;
        Some(Site { layer, module })
    }
}
