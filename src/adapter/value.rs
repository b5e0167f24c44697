//! A task's adapter as a value: its description and its weights.

use std::collections::BTreeMap;

use candle_core::Tensor;
use clap::ValueEnum;
use serde::{Deserialize, Serialize, Serializer};

use crate::params::{Delta, Layout, Point, Site};

/// The kind of task, which decides what the outputs mean, as in `transformers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ProblemType {
    /// One label of several: softmax.
    SingleLabelClassification,
    /// Any number of several labels: sigmoid of each output.
    MultiLabelClassification,
    /// A number, which is the output itself.
    Regression,
}

impl ProblemType {
    /// The name in `transformers`, which is also that of the JSON form.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SingleLabelClassification => "single_label_classification",
            Self::MultiLabelClassification => "multi_label_classification",
            Self::Regression => "regression",
        }
    }
}

/// The ranks of each module by layer. Modules have their short names and are in order of execution. The JSON form is a map:
/// `{"query": [0, 4, 8], ...}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranks(pub Vec<(&'static str, Vec<usize>)>);

impl Serialize for Ranks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(module, ranks)| (module, ranks)))
    }
}

/// The description of an adapter, without its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// The name of each output, in order of id.
    pub labels: Vec<String>,
    /// From the adapter's `config.json`; `None` if it is not given there.
    pub problem_type: Option<ProblemType>,
    /// Fingerprint of the base it was trained on; `None` for a file from PEFT.
    pub base_fingerprint: Option<String>,
    /// `base_model_name_or_path`. Without a fingerprint, only it says for which base the adapter was made.
    pub base_model: Option<String>,
}

/// An adapter's change to the linear at one site.
#[derive(Debug, Clone)]
pub enum Change {
    /// Adds a low-rank delta to the linear's output.
    LowRank(Delta),
}

impl Change {
    /// The rank of the delta.
    #[must_use]
    pub fn rank(&self) -> usize {
        let Self::LowRank(delta) = self;
        delta.rank()
    }

    /// Its number of parameters.
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
    /// The change at each site, by [`Layout::index`]. `None` means rank 0: the site costs nothing.
    pub sites: Vec<Option<Change>>,
    /// The tensors of the head, by the names in [`Layout::head`].
    pub head: BTreeMap<String, Tensor>,
}

/// An adapter for one task on one base. It never changes, and requests share it by `Arc`.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// The adapter's description.
    pub info: AdapterInfo,
    /// The adapter's tensors.
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

    /// The number of parameters at its sites: for low-rank deltas, the sum of `r (in + out)`.
    #[must_use]
    pub fn delta_parameters(&self) -> usize {
        self.weights.sites.iter().flatten().map(Change::parameters).sum()
    }

    /// The number of parameters at its sites as the code of the SoRA paper counts them: `2 * hidden` for each rank, even in the
    /// feed-forward linears.
    #[must_use]
    pub fn paper_parameters(&self, layout: &Layout) -> usize {
        2 * layout.hidden * self.weights.sites.iter().flatten().map(Change::rank).sum::<usize>()
    }

    /// The number of parameters of the head.
    #[must_use]
    pub fn head_parameters(&self) -> usize {
        self.weights.head.values().map(Tensor::elem_count).sum()
    }

    /// The bytes of its tensors, in the types that they have in memory. In a GPU's memory, alignment adds less than 16 bytes for each
    /// tensor whose size is not a multiple of 16.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let deltas = self.weights.sites.iter().flatten().map(Change::delta).flat_map(|delta| [&delta.a, &delta.b]);
        let tensors = deltas.chain(self.weights.head.values());
        tensors.map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }

    /// The point from which its rows differ from the base's. Everything before this point is the same for every adapter. `None` if only
    /// the head differs.
    #[must_use]
    pub fn leaves(&self, layout: &Layout) -> Option<Point> {
        self.first_active_site(layout).map(|site| layout.point(site))
    }

    /// The first site with a delta. Everything before that site is computed as in the base.
    #[must_use]
    pub fn first_active_site(&self, layout: &Layout) -> Option<Site> {
        layout.first_changed(|site| self.rank(layout.index(site)) > 0)
    }
}
