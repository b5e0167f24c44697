//! Writes the files of a report.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use polyrank::atomic_file;

use super::figure::{self, Figure};
use super::group::{Group, groups};
use super::stages;
use super::table::{Csv, Table, plain};
use super::tables;
use super::tree::Tree;
use crate::error::Error;

/// The file with the text of a report.
const REPORT: &str = "report.md";

/// How that text begins.
const BEGINNING: &str = "# Report\n\n`polyrank-train report` wrote this from ";

/// The headings of the tables, and the names of their files.
const TABLES: [(&str, &str); 6] = [
    ("Table 1: methods by tasks (validation)", "table1"),
    ("Table 1: methods by tasks (test)", "table1-test"),
    ("Table 2", "table2"),
    ("Table 3", "table3"),
    ("Table 4", "table4"),
    ("Stages", "compression"),
];

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The number of finished runs, without the stages of schedules.
    pub runs: usize,
    /// The number of files.
    pub files: usize,
    /// What a reader should know about the runs.
    pub notes: Vec<String>,
}

/// Writes a report on the runs in the tree `runs` to the folder `output`, which is created if it does not exist.
///
/// # Errors
/// There are no finished runs, a file of a run is malformed, or a file cannot be written or is not of a report.
pub fn write(runs: &Path, output: &Path) -> Result<Written, Error> {
    let tree = Tree::read(runs)?;
    if tree.runs.is_empty() && tree.schedules.is_empty() {
        return Err(Error::NoFinishedRuns { runs: runs.to_owned(), notes: notes(&tree, &[]) });
    }
    let groups = groups(&tree.runs);
    let tests = (!tree.tests.is_empty()).then_some(&tree.tests);
    let tables = [
        tables::methods(&groups, None),
        tests.and_then(|tests| tables::methods(&groups, Some(tests))),
        tables::ranks(&groups),
        tables::modules(&groups),
        tables::seconds(&groups),
        stages::table(&tree.schedules),
    ];
    let tables: Vec<Table> = tables.into_iter().flatten().collect();
    let figures: Vec<Figure> = figure::all(&groups, &tree.schedules);
    let notes = notes(&tree, &groups);
    let mut files = Vec::new();
    for table in &tables {
        files.push((format!("{}.csv", table.name), csv(&table.csv)?));
    }
    if !tree.runs.is_empty() {
        files.push(("runs.csv".to_owned(), csv(&every_run(&groups))?));
    }
    for figure in &figures {
        files.push((format!("{}.svg", figure.name), figure.svg().into_bytes()));
        files.push((format!("{}.png", figure.name), figure.png()?));
    }
    files.push((REPORT.to_owned(), markdown(&tree, &tables, &figures, &notes).into_bytes()));
    let old = fs::read_to_string(output.join(REPORT)).unwrap_or_default();
    refuse_other_files(output, &old, &files)?;
    fs::create_dir_all(output).map_err(Error::io(output))?;
    for name in former(&old).into_iter().filter(|name| !files.iter().any(|(new, _)| new == name)) {
        let path = output.join(name);
        if path.is_file() {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    for (name, bytes) in &files {
        let path = output.join(name);
        atomic_file::write(&path, bytes).map_err(Error::io(&path))?;
    }
    Ok(Written { runs: tree.runs.len(), files: files.len(), notes })
}

/// Refuses to replace files, unless a report wrote them.
fn refuse_other_files(output: &Path, old: &str, files: &[(String, Vec<u8>)]) -> Result<(), Error> {
    if old.starts_with(BEGINNING) {
        return Ok(());
    }
    match files.iter().map(|(name, _)| output.join(name)).find(|path| path.exists()) {
        Some(path) => Err(Error::NotOfReport(path)),
        None => Ok(()),
    }
}

/// The names of the tables and figures of a report with the text `old`.
fn former(old: &str) -> Vec<String> {
    if !old.starts_with(BEGINNING) {
        return Vec::new();
    }
    let linked = old.split("](").skip(1).filter_map(|rest| rest.split_once(".svg)")).map(|(name, _)| name);
    let is_figure = |name: &&str| *name == "compression" || name.starts_with("ranks-") || name.starts_with("training-");
    let figures = linked.filter(is_figure).filter(|name| !name.contains(['/', '\\']));
    let figures = figures.flat_map(|name| [format!("{name}.svg"), format!("{name}.png")]);
    let tables = TABLES.into_iter().filter(|(heading, _)| old.contains(&format!("\n## {heading}")));
    figures.chain(tables.map(|(_, name)| format!("{name}.csv"))).collect()
}

fn csv(csv: &Csv) -> Result<Vec<u8>, Error> {
    csv.text().map_err(Error::Csv)
}

/// What a reader of the numbers should know.
fn notes(tree: &Tree, groups: &[Group<'_>]) -> Vec<String> {
    let mut notes = Vec::new();
    if !tree.gone.is_empty() {
        let count = tree.gone.len();
        notes.push(format!(
            "known from results.jsonl alone, without their steps: {count} runs ({})",
            tree.gone.join(", ")
        ));
    }
    if !tree.unknown.is_empty() {
        notes
            .push(format!("left out, because results.jsonl does not have their settings: {}", tree.unknown.join(", ")));
    }
    if !tree.retrained.is_empty() {
        let names = tree.retrained.join(", ");
        notes.push(format!("without the metrics on test in results.jsonl, which are of an earlier training: {names}"));
    }
    notes.extend(tree.broken.iter().map(|(name, reason)| format!("cannot be read and left out: {name}: {reason}")));
    if !tree.unfinished.is_empty() {
        notes.push(format!("not finished and left out: {}", tree.unfinished.join(", ")));
    }
    for group in groups {
        let names = || group.runs.iter().map(|(name, _, _)| *name).collect::<Vec<_>>().join(", ");
        if differs_in_data(group) {
            notes.push(format!(
                "counted as seeds of one setting, although they were not trained on the same data: {}",
                names()
            ));
        }
        let seeds: BTreeSet<String> = group.runs.iter().map(|(_, run, _)| run.setting("seed")).collect();
        if seeds.len() < group.runs.len() {
            notes.push(format!("counted as different seeds, although some have the same: {}", names()));
        }
    }
    notes
}

/// Whether runs of a group had other data, and not only other rows of it held out, which the seed chooses.
fn differs_in_data(group: &Group<'_>) -> bool {
    let mut known: BTreeMap<Option<String>, BTreeSet<[&str; 2]>> = BTreeMap::new();
    for data in group.runs.iter().filter_map(|(_, run, _)| run.data.as_ref()) {
        let held_out = data.held_out.map(|held_out| format!("{held_out:?}"));
        known.entry(held_out).or_default().insert([&data.train, &data.validation]);
    }
    known.values().any(|data| data.len() > 1) || (known.len() > 1 && known.contains_key(&None))
}

/// A line for each run.
fn every_run(groups: &[Group<'_>]) -> Csv {
    let head = vec![
        "name",
        "task",
        "method",
        "rank",
        "modules",
        "settings",
        "seed",
        "metric",
        "value",
        "metrics",
        "parameters",
        "paper_parameters",
        "epoch",
        "epochs",
        "seconds_per_epoch",
    ];
    let rows = groups.iter().flat_map(|group| {
        group.runs.iter().map(|(name, run, exported)| {
            let (metric, value) = exported.metric().unzip();
            let metrics: Vec<String> = exported.metrics.iter().map(|(name, value)| format!("{name}={value}")).collect();
            vec![
                (*name).to_owned(),
                run.task.clone(),
                group.kind.method.clone(),
                group.kind.rank.map_or(String::new(), |rank| rank.to_string()),
                group.kind.modules.clone(),
                group.kind.rest.clone(),
                run.setting("seed"),
                metric.unwrap_or_default().to_owned(),
                plain(value),
                metrics.join(" "),
                exported.parameters.to_string(),
                exported.paper.map_or(String::new(), |count| count.to_string()),
                exported.epoch.to_string(),
                run.epochs.len().to_string(),
                plain(run.seconds_per_epoch()),
            ]
        })
    });
    Csv { rows: rows.collect(), head }
}

fn markdown(tree: &Tree, tables: &[Table], figures: &[Figure], notes: &[String]) -> String {
    let (runs, schedules) = (tree.runs.len(), tree.schedules.len());
    let mut text = format!("{BEGINNING}{runs} runs and {schedules} schedules.\n\n");
    notes.iter().for_each(|note| text += &format!("- {note}\n"));
    if !notes.is_empty() {
        text.push('\n');
    }
    tables.iter().for_each(|table| text += &format!("{}\n", table.markdown()));
    for Figure { name, title, note, .. } in figures {
        text += &format!("## {title}\n\n{note}\n\n![{title}]({name}.svg)\n\n");
    }
    text.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::run;
    use super::super::trained::TrainedOn;
    use super::*;
    use crate::data::HoldOut;

    #[test]
    fn runs_of_one_group_on_other_data_are_told() {
        let noted = |data: [(&str, Option<u64>); 2]| {
            let made = data.into_iter().enumerate().map(|(seed, (rows, held_out))| {
                let (name, mut run) = run("mrpc", &format!("method = \"lora\"\nrank = 8\nseed = {seed}"), 0.8, &[]);
                let held_out = held_out.map(|seed| HoldOut { share: 0.1, seed });
                run.data = Some(TrainedOn { train: rows.to_owned(), validation: "v".to_owned(), held_out });
                (name, run)
            });
            let runs: Vec<_> = made.collect();
            notes(&Tree::default(), &groups(&runs))
        };
        let told = "counted as seeds of one setting, although they were not trained on the same data: mrpc/lora-s0, mrpc/lora-s1";
        assert_eq!(noted([("a", None), ("b", None)]), [told]);
        assert_eq!(noted([("a", None), ("b", Some(1))]), [told]);
        assert_eq!(noted([("a", Some(0)), ("b", Some(0))]), [told]);
        assert_eq!(noted([("a", Some(0)), ("b", Some(1))]), [""; 0]);
        assert_eq!(noted([("a", None), ("a", None)]), [""; 0]);
    }
}
