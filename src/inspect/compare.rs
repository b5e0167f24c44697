//! Compares several adapters: shows their rank maps side by side, and correlates these.
//!
//! | file | idea |
//! | --- | --- |
//! | `mismatch.rs` | adapters that cannot be compared |
//! | `names.rs` | names that distinguish the adapters' folders |
//! | `table.rs` | a comparison as text |

mod mismatch;
mod names;
mod table;

use std::path::PathBuf;

use serde::Serialize;

pub use self::mismatch::{LayoutDifference, LayoutMismatch};
use self::names::names;
use super::Report;
use crate::correlation::pearson;
use crate::params::Layout;

/// A comparison of the ranks of several adapters whose bases have the same layout.
///
/// [`Display`](std::fmt::Display) gives each adapter a letter. The rank maps come in one table, layer by module, where each module has a
/// column for each adapter: the ranks of one site stand next to each other. Modules that would make the lines longer than about 100 columns
/// follow in a second table below the first. The correlations of the maps come last.
///
/// ```text
///    adapter  parameters  total rank  first active                   base
/// A  intent        5,888          78  layer 0, attention.self.query  some/base (sha256:5f0c1a9e…)
/// B  topic           896          12  layer 1, attention.self.query  some/base (sha256:5f0c1a9e…)
///
///         query   key     value   attention output   intermediate   output   total
/// layer    A  B    A  B    A  B    A  B               A  B           A  B     A  B
///     0    1  ·    4  ·    9  ·    2  ·               7  ·           3  ·    26  ·
///     1    5  2    8  2    6  ·    1  ·               2  ·           9  2    31  6
///     2    3  2    4  2    1  ·    6  ·               2  ·           5  2    21  6
/// total    9  4   16  4   16  ·    9  ·              11  ·          17  4    78 12
///
/// correlation of the ranks (Pearson, over 18 sites)
///              A     B
/// A  intent  1.00  0.36
/// B  topic   0.36  1.00
/// mean of 1 pair: 0.36
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The adapters, in the order in which they were given.
    pub adapters: Vec<NamedReport>,
    /// Pearson's correlation of the ranks of each pair of adapters over all sites. A site without a delta counts as rank 0. `None` if
    /// all ranks of one of the two adapters are equal, because the correlation is not defined then.
    pub correlation: Vec<Vec<Option<f64>>>,
    /// The mean of the defined correlations of pairs of different adapters; `None` if there are none.
    pub mean_correlation: Option<f64>,
}

/// An adapter's report under a name that no other adapter of the comparison has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NamedReport {
    /// The folder's name. If several folders have the same name, it includes as many parent folders as distinguish them.
    pub name: String,
    /// The adapter's report.
    #[serde(flatten)]
    pub report: Report,
}

impl Comparison {
    /// Compares adapters, each with its folder and its base's layout.
    ///
    /// # Errors
    /// An adapter has another layout than the first one: another architecture, hidden size, number of layers, or other modules.
    pub fn new(adapters: Vec<(PathBuf, Layout, Report)>) -> Result<Self, LayoutMismatch> {
        if let Some((first, expected, _)) = adapters.first() {
            for (other, found, _) in &adapters {
                if let Some(difference) = LayoutDifference::between(expected, found) {
                    return Err(LayoutMismatch { first: first.clone(), other: other.clone(), difference });
                }
            }
        }
        let names = names(&adapters.iter().map(|(dir, ..)| &**dir).collect::<Vec<_>>());
        let adapters = names.into_iter().zip(adapters).map(|(name, (_, _, report))| NamedReport { name, report });
        let adapters: Vec<NamedReport> = adapters.collect();
        let maps: Vec<Vec<f64>> = adapters
            .iter()
            .map(|adapter| rank_map(&adapter.report).into_iter().map(|rank| rank as f64).collect())
            .collect();
        let correlation: Vec<Vec<_>> = maps.iter().map(|a| maps.iter().map(|b| pearson(a, b)).collect()).collect();
        let mean_correlation = mean(&defined_pairs(&correlation));
        Ok(Self { adapters, correlation, mean_correlation })
    }

    fn reports(&self) -> impl Iterator<Item = &Report> {
        self.adapters.iter().map(|adapter| &adapter.report)
    }
}

/// The rank of every site.
fn rank_map(report: &Report) -> Vec<usize> {
    report.ranks.0.iter().flat_map(|(_, ranks)| ranks).copied().collect()
}

/// The defined correlations above the diagonal.
fn defined_pairs(correlation: &[Vec<Option<f64>>]) -> Vec<f64> {
    correlation.iter().enumerate().flat_map(|(i, row)| row.iter().skip(i + 1).copied().flatten()).collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
