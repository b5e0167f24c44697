//! A comparison as text.
//!
//! The tables are laid out here, because those of `comfy-table` have no headings over groups of columns, and do not continue in a
//! second table the groups that do not fit on a line.

use std::fmt::{self, Display, Formatter};
use std::iter::once;

use super::super::{Report, rank, thousands, width};
use super::{Comparison, NamedReport, defined_pairs, rank_map};
use crate::logging::printable;
use crate::params::NamedSite;

/// The width of a line, in columns.
const LINE: usize = 100;

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.facts(f)?;
        self.note(f)?;
        writeln!(f)?;
        self.maps(f)?;
        self.matrix(f)
    }
}

impl Comparison {
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

#[cfg(test)]
mod tests {
    use super::{coefficient, letter};

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
