//! Reports on an adapter's ranks and sizes, and on how adapters differ, as JSON or as a table.

mod compare;

use std::fmt::{self, Display, Formatter};

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

pub use self::compare::{Comparison, LayoutDifference, LayoutMismatch, NamedReport};
use crate::adapter::{Adapter, ProblemType, Ranks};
use crate::logging::printable;
use crate::params::{Layout, NamedSite};

/// An adapter's ranks and sizes.
///
/// [`Display`] prints the ranks as a table of layers by modules, with the first layer on top, in plain text of about 100 columns:
///
/// ```text
/// layer  query  key  value  attention output  intermediate  output  total
///     0      ·    ·      ·                 ·             ·       1      1  ▊
///     1      4    ·      3                 2             5       8     22  ████████████████
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `base_model_name_or_path`, for display only.
    pub base_model: Option<String>,
    /// Fingerprint of the base's weights; `None` for a file from PEFT.
    pub base_fingerprint: Option<String>,
    /// The name of each output, in order of id.
    pub labels: Vec<String>,
    /// What the outputs mean.
    pub problem_type: Option<ProblemType>,
    /// Number of layers.
    pub layers: usize,
    /// The rank at every site.
    pub ranks: Ranks,
    /// How many parameters it has.
    pub parameters: Parameters,
    /// Bytes that its deltas and its head take in memory.
    pub bytes: usize,
    /// The first site that it changes. Everything before that site is computed as in the base.
    pub first_active_site: Option<NamedSite>,
}

/// An adapter's numbers of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// Parameters of the deltas in the file: the sum of `r (in + out)`.
    pub adapter: usize,
    /// Parameters of the deltas as the SoRA paper's code counts them: `2 * hidden` for each rank, even in the feed-forward linears.
    pub paper: usize,
    /// Parameters of the head.
    pub head: usize,
}

impl Report {
    /// The report on `adapter`, for a base of `layout`.
    #[must_use]
    pub fn new(layout: &Layout, adapter: &Adapter) -> Self {
        Self {
            base_model: adapter.info.base_model.clone(),
            base_fingerprint: adapter.info.base_fingerprint.clone(),
            labels: adapter.info.labels.clone(),
            problem_type: adapter.info.problem_type,
            layers: layout.layers,
            ranks: adapter.ranks(layout),
            parameters: Parameters {
                adapter: adapter.delta_parameters(),
                paper: adapter.paper_parameters(layout),
                head: adapter.head_parameters(),
            },
            bytes: adapter.bytes(),
            first_active_site: adapter.first_active_site(layout).map(|site| layout.named(site)),
        }
    }

    fn layer_total(&self, layer: usize) -> usize {
        self.ranks.0.iter().map(|(_, ranks)| ranks[layer]).sum()
    }

    fn facts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let base = self.base_model.as_deref().unwrap_or("not named");
        let fingerprint = self.base_fingerprint.as_ref().map_or(String::new(), |print| format!(" ({print})"));
        writeln!(f, "base          {}", printable(&format!("{base}{fingerprint}")))?;
        writeln!(f, "problem type  {}", self.problem_type.map_or("not said", ProblemType::name))?;
        writeln!(f, "labels        {}", labels(&self.labels))?;
        let Parameters { adapter, paper, head } = self.parameters;
        let counts = [adapter, paper, head].map(thousands);
        writeln!(f, "parameters    {} ({} as the paper's code counts), head {}", counts[0], counts[1], counts[2])?;
        writeln!(f, "memory        {}", HumanBytes(self.bytes as u64))?;
        match self.first_active_site {
            Some(NamedSite { layer, module }) => writeln!(f, "first active  layer {layer}, {module}"),
            None => writeln!(f, "first active  none: only the head differs from the base"),
        }
    }

    fn table(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sums: Vec<usize> = self.ranks.0.iter().map(|(_, ranks)| ranks.iter().sum()).collect();
        let widths = self.ranks.0.iter().zip(&sums).map(|((label, _), sum)| width(label).max(width(&thousands(*sum))));
        let widths: Vec<usize> = widths.collect();
        let total = thousands(sums.iter().sum());
        let last = width(&total).max(5);
        let line = |f: &mut Formatter<'_>, first: &str, cells: Vec<String>, total: &str, bar: &str| {
            let cells = cells.iter().zip(&widths).map(|(cell, width)| format!("  {cell:>width$}"));
            let row = format!("{first:>5}{}  {total:>last$}  {bar}", cells.collect::<String>());
            writeln!(f, "{}", row.trim_end())
        };
        let labels = self.ranks.0.iter().map(|(label, _)| (*label).to_owned());
        line(f, "layer", labels.collect(), "total", "")?;
        let most = (0..self.layers).map(|layer| self.layer_total(layer)).max().unwrap_or(0);
        for layer in 0..self.layers {
            let cells = self.ranks.0.iter().map(|(_, ranks)| rank(ranks[layer]));
            let total = self.layer_total(layer);
            line(f, &layer.to_string(), cells.collect(), &rank(total), &bar(total, most))?;
        }
        line(f, "total", sums.into_iter().map(rank).collect(), &total, "")
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.facts(f)?;
        writeln!(f)?;
        self.table(f)
    }
}

/// The number of labels and the labels, as in `3: no, maybe, "not at all"`. Only as many labels are listed as fit on a line.
fn labels(labels: &[String]) -> String {
    const LONGEST: usize = 72;
    let mut shown = String::new();
    for (i, label) in labels.iter().enumerate() {
        let next = format!("{}{}", if i == 0 { " " } else { ", " }, quoted(label));
        if i > 0 && width(&shown) + width(&next) > LONGEST {
            shown += &format!(", and {} more", labels.len() - i);
            break;
        }
        shown += &next;
    }
    format!("{}:{shown}", labels.len())
}

/// A label as it is shown in a list. It is put in quotes, with `"` and `\` escaped, if it could be mistaken for several labels or for
/// none.
fn quoted(name: &str) -> String {
    let splits = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | '"' | '\'' | '\\');
    if !name.is_empty() && !name.contains(splits) {
        return name.to_owned();
    }
    format!("\"{}\"", printable(name).replace('\\', "\\\\").replace('"', "\\\""))
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A rank, or `·` for rank 0.
fn rank(rank: usize) -> String {
    match rank {
        0 => "·".to_owned(),
        rank => thousands(rank),
    }
}

/// A bar that fills `share / whole` of 16 cells, in steps of an eighth of a cell. Any share above 0 gives at least one step.
fn bar(share: usize, whole: usize) -> String {
    const CELLS: usize = 16;
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if share == 0 {
        return String::new();
    }
    let eighths = (8 * CELLS * share / whole).max(1);
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// `47,104`
fn thousands(number: usize) -> String {
    HumanCount(number as u64).to_string()
}
