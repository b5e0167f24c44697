//! Compares several adapters: shows their rank maps side by side, and correlates these.

use std::fmt::{self, Display, Formatter};
use std::iter::once;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use super::{Report, rank, thousands, width};
use crate::correlation::pearson;
use crate::logging::printable;
use crate::params::{Layout, NamedSite};

/// The width of a line, in columns.
const LINE: usize = 100;

/// A comparison of the ranks of several adapters whose bases have the same layout.
///
/// [`Display`] gives each adapter a letter. The rank maps come in one table, layer by module, where each module has a column for
/// each adapter: the ranks of one site stand next to each other. Modules that would make the lines longer than about 100 columns
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
    fn between(expected: &Layout, found: &Layout) -> Option<Self> {
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

    fn letters(&self) -> Vec<String> {
        (0..self.adapters.len()).map(letter).collect()
    }

    /// The letters of the adapters for which `holds` is true, as in `A, C`.
    fn which(&self, holds: impl Fn(&Report) -> bool) -> String {
        let those = self.reports().zip(self.letters()).filter(|(report, _)| holds(report));
        those.map(|(_, letter)| letter).collect::<Vec<_>>().join(", ")
    }

    fn facts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut rows =
            vec![["", "adapter", "parameters", "total rank", "first active", "base"].map(str::to_owned).to_vec()];
        for (letter, NamedReport { name, report }) in self.letters().into_iter().zip(&self.adapters) {
            let first = report
                .first_active_site
                .map_or_else(|| "none".to_owned(), |NamedSite { layer, module }| format!("layer {layer}, {module}"));
            let (parameters, ranks) = (report.parameters.adapter, rank_map(report).iter().sum());
            rows.push(vec![letter, printable(name), thousands(parameters), thousands(ranks), first, base(report)]);
        }
        grid(f, &rows, |column| column == 2 || column == 3)
    }

    /// Prints a note if the adapters' bases differ or may differ. Their ranks can still be compared.
    fn note(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut known: Vec<&str> = self.reports().filter_map(|report| report.base_fingerprint.as_deref()).collect();
        known.sort_unstable();
        known.dedup();
        let unknown = self.which(|report| report.base_fingerprint.is_none());
        if known.len() > 1 {
            writeln!(f, "note: the bases differ: their fingerprints are not equal")
        } else if unknown.is_empty() {
            Ok(())
        } else if known.is_empty() {
            writeln!(f, "note: the bases may differ: no adapter records its base's fingerprint")
        } else {
            writeln!(f, "note: the bases may differ: no fingerprint in {unknown}")
        }
    }

    /// The columns of each module, and the columns of the totals.
    fn groups(&self) -> Vec<Group> {
        let Some(first) = self.reports().next() else { return Vec::new() };
        let column = |ranks: Vec<usize>| {
            let total = ranks.iter().sum();
            ranks.into_iter().chain(once(total)).map(rank).collect()
        };
        let module = |(i, &(label, _)): (usize, &(&'static str, Vec<usize>))| {
            Group::new(label, self.reports().map(|report| column(report.ranks.0[i].1.clone())).collect())
        };
        let totals = |report: &Report| column((0..report.layers).map(|layer| report.layer_total(layer)).collect());
        let total = Group::new("total", self.reports().map(totals).collect());
        first.ranks.0.iter().enumerate().map(module).chain(once(total)).collect()
    }

    fn maps(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let layers = self.reports().next().map_or(0, |report| report.layers);
        let (groups, letters) = (self.groups(), self.letters());
        let mut rest = &*groups;
        while !rest.is_empty() {
            let (table, later) = rest.split_at(fitting(rest));
            line(f, "", table.iter().map(|group| (group, group.label.to_owned())))?;
            line(f, "layer", table.iter().map(|group| (group, group.cells(&letters))))?;
            for row in 0..=layers {
                let first = if row < layers { row.to_string() } else { "total".to_owned() };
                line(f, &first, table.iter().map(|group| (group, group.row(row))))?;
            }
            writeln!(f)?;
            rest = later;
        }
        Ok(())
    }

    fn matrix(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sites = self.reports().next().map_or(0, |report| rank_map(report).len());
        writeln!(f, "correlation of the ranks (Pearson, over {sites} sites)")?;
        let letters = self.letters();
        let mut rows = vec![["", ""].map(str::to_owned).into_iter().chain(letters.clone()).collect::<Vec<_>>()];
        for ((letter, adapter), row) in letters.into_iter().zip(&self.adapters).zip(&self.correlation) {
            let cells = row.iter().copied().map(coefficient);
            rows.push([letter, printable(&adapter.name)].into_iter().chain(cells).collect());
        }
        grid(f, &rows, |column| column > 1)?;
        let (n, defined) = (self.adapters.len(), defined_pairs(&self.correlation).len());
        let pairs = n * n.saturating_sub(1) / 2;
        let part = if defined == pairs { String::new() } else { format!("{defined} of ") };
        let noun = if pairs == 1 { "pair" } else { "pairs" };
        writeln!(f, "mean of {part}{pairs} {noun}: {}", coefficient(self.mean_correlation))?;
        let constant = self.which(|report| rank_map(report).windows(2).all(|pair| pair[0] == pair[1]));
        if constant.is_empty() {
            Ok(())
        } else {
            writeln!(f, "-: not defined, because all sites have the same rank in {constant}")
        }
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.facts(f)?;
        self.note(f)?;
        writeln!(f)?;
        self.maps(f)?;
        self.matrix(f)
    }
}

/// Neighbouring columns of the rank maps, one for each adapter, under one label.
struct Group {
    label: &'static str,
    /// `[adapter][layer]`; the last cell of each column is its total.
    columns: Vec<Vec<String>>,
    /// The width of each column.
    widths: Vec<usize>,
}

impl Group {
    fn new(label: &'static str, columns: Vec<Vec<String>>) -> Self {
        let widest = |(i, column): (usize, &Vec<String>)| {
            let cells = column.iter().map(|cell| width(cell)).max().unwrap_or(0);
            cells.max(width(&letter(i))).max(2)
        };
        let widths = columns.iter().enumerate().map(widest).collect();
        Self { label, columns, widths }
    }

    fn width(&self) -> usize {
        let cells = self.widths.iter().sum::<usize>() + self.widths.len().saturating_sub(1);
        cells.max(width(self.label))
    }

    fn row(&self, row: usize) -> String {
        self.cells(&self.columns.iter().map(|column| &column[row]).collect::<Vec<_>>())
    }

    fn cells<T: Display>(&self, cells: &[T]) -> String {
        let cells = cells.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:>width$}"));
        cells.collect::<Vec<_>>().join(" ")
    }
}

/// How many of `groups` fit on a line, but at least one.
fn fitting(groups: &[Group]) -> usize {
    let ends = groups.iter().scan(width("layer"), |end, group| {
        *end += 3 + group.width();
        Some(*end)
    });
    ends.take_while(|&end| end <= LINE).count().max(1)
}

fn line<'a>(f: &mut Formatter<'_>, first: &str, groups: impl Iterator<Item = (&'a Group, String)>) -> fmt::Result {
    let cells = groups.map(|(group, text)| format!("   {text:<width$}", width = group.width()));
    writeln!(f, "{}", format!("{first:>5}{}", cells.collect::<String>()).trim_end())
}

/// Prints `rows` in aligned columns. Columns for which `flush_right` is true are flush right, the others flush left.
fn grid(f: &mut Formatter<'_>, rows: &[Vec<String>], flush_right: impl Fn(usize) -> bool) -> fmt::Result {
    let widest = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = widest(column).unwrap_or(0);
            if flush_right(column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// The letters of the adapter with index `i`: `A` to `Z`, then `AA`, `AB` and so on.
fn letter(i: usize) -> String {
    let last = char::from(b'A' + (i % 26) as u8);
    if i < 26 { last.to_string() } else { format!("{}{last}", letter(i / 26 - 1)) }
}

/// `some/base (sha256:5f0c1a9e…)`
fn base(report: &Report) -> String {
    // The length of `sha256:` and eight digits.
    const SHORT: usize = 15;
    let name = report.base_model.as_deref().unwrap_or("not named");
    let Some(fingerprint) = &report.base_fingerprint else { return printable(name) };
    let short: String = fingerprint.chars().take(SHORT).collect();
    let more = if short.len() < fingerprint.len() { "…" } else { "" };
    printable(&format!("{name} ({short}{more})"))
}

fn coefficient(r: Option<f64>) -> String {
    // Adding 0 turns -0 into 0.
    r.map_or_else(|| "-".to_owned(), |r| format!("{:.2}", (r * 100.0).round() / 100.0 + 0.0))
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

/// A unique name for each folder: its own name, preceded by as many parent folders as distinguish it from the others. A folder that
/// is listed twice gets a number the second time, as in `intent (2)`.
fn names(dirs: &[&Path]) -> Vec<String> {
    let paths: Vec<Vec<String>> = dirs.iter().map(|dir| parts(dir)).collect();
    let end = |path: &[String], depth: usize| path[path.len().saturating_sub(depth)..].join("/");
    let mut names: Vec<String> = Vec::new();
    for path in &paths {
        let is_taken = |depth: usize| paths.iter().any(|other| other != path && end(other, depth) == end(path, depth));
        let depth = (1..path.len()).find(|&depth| !is_taken(depth)).unwrap_or(path.len());
        let name = end(path, depth);
        let numbered = (2..).map(|n| format!("{name} ({n})"));
        let free = once(name.clone()).chain(numbered).find(|name| !names.contains(name));
        names.push(free.unwrap_or(name));
    }
    names
}

/// The parts of a folder's absolute path. The last part is not resolved if it is a link, because the user knows the folder by that
/// name.
fn parts(dir: &Path) -> Vec<String> {
    let whole = match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            parent.canonicalize().map(|parent| parent.join(name))
        }
        _ => dir.canonicalize(),
    };
    let whole = whole.unwrap_or_else(|_| dir.to_owned());
    let part = |part| match part {
        Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
        _ => None,
    };
    whole.components().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{coefficient, letter, names};

    fn named<const N: usize>(dirs: [&str; N]) -> Vec<String> {
        names(&dirs.map(Path::new))
    }

    #[test]
    fn names_are_as_short_as_possible() {
        assert_eq!(named(["/no/adapters/intent", "/no/adapters/topic/"]), ["intent", "topic"]);
        assert_eq!(named(["/no/a/intent", "/no/b/intent", "/no/b/topic"]), ["a/intent", "b/intent", "topic"]);
        assert_eq!(named(["/no/a/x/intent", "/no/b/x/intent"]), ["a/x/intent", "b/x/intent"]);
        assert_eq!(named(["/no/intent", "/no/no/intent"]), ["no/intent", "no/no/intent"]);
    }

    #[test]
    fn folder_listed_twice_gets_a_number() {
        assert_eq!(named(["/no/intent", "/no/intent/.", "/no/topic"]), ["intent", "intent (2)", "topic"]);
        assert_eq!(named(["/no/x", "/no/x (2)", "/no/x"]), ["x", "x (2)", "x (3)"]);
    }

    #[test]
    fn relative_folder_is_named_by_its_absolute_path() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        // Cargo runs tests in the package's folder.
        assert_eq!(named(["."]).first().cloned(), name(here));
        assert_eq!(named(["src/.."]).first().cloned(), name(here));
        assert_eq!(named(["src", "tests"]), ["src", "tests"]);
    }

    #[test]
    fn letters_continue_after_z() {
        assert_eq!([0, 25, 26, 51, 52, 701, 702].map(letter), ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]);
    }

    #[test]
    fn coefficients_have_two_decimals() {
        let shown = [Some(1.0), Some(-0.004), Some(-0.125), Some(0.996), None].map(coefficient);
        assert_eq!(shown, ["1.00", "0.00", "-0.13", "1.00", "-"]);
    }
}
