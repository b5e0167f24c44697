//! A table as Markdown, and its numbers as CSV.

use super::Statistic;

/// What stands in a cell without a value.
const MISSING: &str = "–";

/// A table for people, and the same as numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    /// The name of its files.
    pub(super) name: &'static str,
    pub(super) title: String,
    /// What its cells are.
    pub(super) note: String,
    pub(super) head: Vec<String>,
    /// The rows, each as long as the head.
    pub(super) rows: Vec<Vec<String>>,
    pub(super) csv: Csv,
}

/// Rows of numbers, one for each cell of a table.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Csv {
    pub(super) head: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    /// The table in Markdown, with its title. Columns of numbers are aligned to the right, the first one and those of text to the left.
    pub(super) fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let is_text = |i: usize| i == 0 || self.rows.iter().any(|row| !is_number(&row[i]));
        let rule: Vec<&str> = (0..self.head.len()).map(|i| if is_text(i) { "---" } else { "---:" }).collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("## {}\n\n{}\n\n{}| {} |\n{rows}", self.title, self.note, line(&self.head), rule.join(" | "))
    }
}

/// Whether a cell begins with a number, or is empty.
fn is_number(cell: &str) -> bool {
    let digits = cell.trim_start_matches(['*', '-', '+']);
    cell.is_empty() || cell == MISSING || digits.starts_with(|first: char| first.is_ascii_digit())
}

impl Csv {
    /// The file's text.
    pub(super) fn text(&self) -> Result<Vec<u8>, csv::Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&self.head)?;
        self.rows.iter().try_for_each(|row| writer.write_record(row))?;
        writer.into_inner().map_err(|error| error.into_error().into())
    }
}

/// `87.25 ± 0.41 (5)`: mean, standard deviation and number of seeds; without the deviation for one seed.
pub(super) fn cell(value: Option<Statistic>) -> String {
    match value {
        None => MISSING.to_owned(),
        Some(Statistic { n, mean, deviation: None }) => format!("{mean:.2} ({n})"),
        Some(Statistic { n, mean, deviation: Some(deviation) }) => format!("{mean:.2} ± {deviation:.2} ({n})"),
    }
}

/// A number with `digits` digits after the point.
pub(super) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| MISSING.to_owned(), |value| format!("{value:.digits$}"))
}

/// A count with separators: `123,456`.
pub(super) fn count(value: Option<f64>) -> String {
    value.map_or_else(|| MISSING.to_owned(), |value| indicatif::HumanCount(value.round() as u64).to_string())
}

/// A number for CSV; empty if there is none.
pub(super) fn plain(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Mean, standard deviation and number of seeds for CSV.
pub(super) fn plain_statistic(value: Option<Statistic>) -> [String; 3] {
    match value {
        None => [String::new(), String::new(), "0".to_owned()],
        Some(Statistic { n, mean, deviation }) => [mean.to_string(), plain(deviation), n.to_string()],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::Statistic;
    use super::{Csv, Table, cell, count, number, plain_statistic};

    #[test]
    fn missing_values_are_dashes_and_never_zero() {
        assert_eq!((cell(None), number(None, 1), count(None)), ("–".into(), "–".into(), "–".into()));
        assert_eq!(cell(Statistic::of(&[87.251])), "87.25 (1)");
        assert_eq!(cell(Statistic::of(&[4.0, 4.0, 4.0, 8.0])), "5.00 ± 2.00 (4)");
        assert_eq!((number(Some(0.456), 1), count(Some(1_234_567.4))), ("0.5".into(), "1,234,567".into()));
        assert_eq!(plain_statistic(None), ["", "", "0"]);
        assert_eq!(plain_statistic(Statistic::of(&[0.5])), ["0.5", "", "1"]);
    }

    #[test]
    fn table_is_markdown_and_csv() {
        let csv = Csv { head: vec!["method", "mean"], rows: vec![vec!["LoRA, r = 8".into(), "1.5".into()]] };
        let table = Table {
            name: "t",
            title: "Title".into(),
            note: "Note.".into(),
            head: vec!["method".into(), "a".into()],
            rows: vec![vec!["a|b".into(), "–".into()]],
            csv,
        };
        assert_eq!(table.markdown(), "## Title\n\nNote.\n\n| method | a |\n| --- | ---: |\n| a\\|b | – |\n");
        assert_eq!(String::from_utf8(table.csv.text().unwrap()).unwrap(), "method,mean\n\"LoRA, r = 8\",1.5\n");
    }
}
