//! A task's adapter as a value: what it is, and its weights.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize, Serializer};

use crate::params::{Delta, Layout, Point, Site};

/// What the outputs mean, as in `transformers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemType {
    /// One label of several: softmax.
    SingleLabelClassification,
    /// Any of several labels: sigmoid each.
    MultiLabelClassification,
    /// A number: the output itself.
    Regression,
}

/// Ranks by layer for each module, under the module's short name and in the order of execution. In JSON a map:
/// `{"query": [0, 4, 8], ...}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranks(pub Vec<(&'static str, Vec<usize>)>);

impl Serialize for Ranks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(module, ranks)| (module, ranks)))
    }
}

/// What an adapter is, whatever its weights and wherever they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// A name for each output, in order of id.
    pub labels: Vec<String>,
    /// From the adapter's `config.json`; `None` where that says nothing.
    pub problem_type: Option<ProblemType>,
    /// Fingerprint of the base it was trained on; `None` for a file from PEFT.
    pub base_fingerprint: Option<String>,
    /// `base_model_name_or_path`, for people: never compared.
    pub base_model: Option<String>,
}

/// What an adapter does to the linear at one site.
#[derive(Debug, Clone)]
pub enum Change {
    /// Adds a low-rank delta to its output.
    LowRank(Delta),
}

impl Change {
    /// The rank of what is added.
    #[must_use]
    pub fn rank(&self) -> usize {
        let Self::LowRank(delta) = self;
        delta.rank()
    }

    /// Numbers that it holds.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let Self::LowRank(delta) = self;
        delta.parameters()
    }

    /// The low-rank delta.
    #[must_use]
    pub fn delta(&self) -> &Delta {
        let Self::LowRank(delta) = self;
        delta
    }
}

/// An adapter's tensors, all on one device.
#[derive(Debug, Clone)]
pub struct AdapterWeights {
    /// The change of each site by [`Layout::index`]; `None` is rank 0: the site costs nothing.
    pub sites: Vec<Option<Change>>,
    /// The head by name, as listed in [`Layout::head`].
    pub head: BTreeMap<String, Tensor>,
}

/// One task over one base. Immutable once made: requests share it by `Arc`.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// What it is.
    pub info: AdapterInfo,
    /// Its tensors.
    pub weights: AdapterWeights,
}

impl Adapter {
    /// The rank at a site; 0 where there is no delta.
    #[must_use]
    pub fn rank(&self, index: usize) -> usize {
        self.weights.sites[index].as_ref().map_or(0, Change::rank)
    }

    /// The rank at every site, for a base of `layout`.
    #[must_use]
    pub fn ranks(&self, layout: &Layout) -> Ranks {
        let of = |module| (0..layout.layers).map(|layer| self.rank(layout.index(Site { layer, module }))).collect();
        Ranks(layout.modules.iter().enumerate().map(|(i, module)| (module.label, of(i))).collect())
    }

    /// Numbers that the changes of its sites hold: of low-rank ones the sum of `r (in + out)`.
    #[must_use]
    pub fn delta_parameters(&self) -> usize {
        self.weights.sites.iter().flatten().map(Change::parameters).sum()
    }

    /// What the code of the SoRA paper counts: `2 * hidden` for each rank, in the feed-forward linears too.
    #[must_use]
    pub fn paper_parameters(&self, layout: &Layout) -> usize {
        2 * layout.hidden * self.weights.sites.iter().flatten().map(Change::rank).sum::<usize>()
    }

    /// Numbers that the head holds.
    #[must_use]
    pub fn head_parameters(&self) -> usize {
        self.weights.head.values().map(Tensor::elem_count).sum()
    }

    /// Bytes that it keeps resident: the changes of its sites and its head, in f32.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<f32>() * (self.delta_parameters() + self.head_parameters())
    }

    /// Where its rows leave the base's: all that comes before is the same for every adapter. `None` is at the head.
    #[must_use]
    pub fn leaves(&self, layout: &Layout) -> Option<Point> {
        layout.sites().filter(|&site| self.rank(layout.index(site)) > 0).map(|site| layout.point(site)).min()
    }

    /// The first site with a delta; all before it is the base's own work.
    #[must_use]
    pub fn first_active_site(&self, layout: &Layout) -> Option<Site> {
        layout.sites().find(|&site| self.rank(layout.index(site)) > 0)
    }
}
