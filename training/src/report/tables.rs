//! The tables of the SoRA paper for the runs at hand. A table for which there are no runs to compare is left out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Statistic;
use super::group::{Group, Kind, shown, tasks};
use super::table::{Csv, Table, cell, count, number, plain, plain_statistic};

/// The method with which table 4 compares the others, if it is there.
const REFERENCE: &str = "adalora";

/// The kinds of the groups, in the order of tables.
fn kinds<'a>(groups: &'a [Group<'_>]) -> BTreeSet<&'a Kind> {
    groups.iter().map(|group| &group.kind).collect()
}

fn find<'a, 'b>(groups: &'a [Group<'b>], task: &str, kind: &Kind) -> Option<&'a Group<'b>> {
    groups.iter().find(|group| group.task == task && group.kind == *kind)
}

/// The mean over the groups of a group's mean.
fn mean_of(groups: &[&Group<'_>], of: impl Fn(&Group<'_>) -> Option<Statistic>) -> Option<f64> {
    let means: Vec<f64> = groups.iter().filter_map(|group| of(group)).map(|value| value.mean).collect();
    Statistic::of(&means).map(|value| value.mean)
}

fn parameters(group: &Group<'_>) -> Option<Statistic> {
    group.mean(|_, exported| Some(exported.parameters as f64))
}

fn paper_parameters(group: &Group<'_>) -> Option<Statistic> {
    group.mean(|_, exported| exported.paper.map(|count| count as f64))
}

const COUNTS: &str = "Parameters are without the head: the sum of r (in + out) over the linears, and as the paper's code counts \
                      them, 2 hidden for each rank.";

/// Table 1: methods by tasks. `tests` gives each run's metrics on the test split, in place of the validation split.
pub(super) fn methods(groups: &[Group<'_>], tests: Option<&BTreeMap<String, Map<String, Value>>>) -> Option<Table> {
    let tasks = tasks(groups);
    let score = |group: &Group<'_>| match tests {
        None => group.score(),
        Some(tests) => {
            let metric = group.metric();
            let value = |name: &&str| Some(100.0 * tests.get(*name)?.get(metric)?.as_f64()?);
            Statistic::of(&group.runs.iter().filter_map(|(name, _, _)| value(name)).collect::<Vec<_>>())
        }
    };
    if groups.is_empty() || !groups.iter().any(|group| score(group).is_some()) {
        return None;
    }
    let named = |task: &&str| {
        let metric = groups.iter().find(|group| group.task == *task).map_or("", |group| group.metric());
        format!("{task} ({metric})")
    };
    let head = ["method", "parameters", "paper's count"].map(str::to_owned).into_iter().chain(tasks.iter().map(named));
    let mut csv = Csv {
        head: vec!["method", "task", "metric", "mean", "deviation", "n", "parameters", "paper_parameters"],
        rows: Vec::new(),
    };
    let row = |kind: &Kind| {
        let cells: Vec<Option<&Group<'_>>> = tasks.iter().map(|task| find(groups, task, kind)).collect();
        let present: Vec<&Group<'_>> = cells.iter().copied().flatten().collect();
        let label = kind.label();
        for group in &present {
            let [mean, deviation, n] = plain_statistic(score(group));
            let counts = [parameters(group), paper_parameters(group)].map(|count| plain(count.map(|count| count.mean)));
            let [ours, paper] = counts;
            let metric = group.metric().to_owned();
            csv.rows.push(vec![label.clone(), group.task.to_owned(), metric, mean, deviation, n, ours, paper]);
        }
        let scores: Vec<Option<Statistic>> = cells.iter().map(|group| group.and_then(score)).collect();
        let all: Option<Vec<f64>> = scores.iter().map(|score| score.map(|score| score.mean)).collect();
        let average = all.and_then(|all| Statistic::of(&all)).map(|value| value.mean);
        let counts = [count(mean_of(&present, parameters)), count(mean_of(&present, paper_parameters))];
        let mut row = vec![label];
        row.extend(counts);
        row.extend(scores.into_iter().map(cell));
        row.push(number(average, 2));
        row
    };
    let rows = kinds(groups).into_iter().map(row).collect();
    let (name, split) = if tests.is_some() { ("table1-test", "test") } else { ("table1", "validation") };
    Some(Table {
        name,
        title: format!("Table 1: methods by tasks ({split})"),
        note: format!(
            "Metrics in percent on the {split} split: mean ± standard deviation over seeds, with their number. The average is over \
             all tasks, and there is none where a task is missing. {COUNTS}"
        ),
        head: head.chain(["average".to_owned()]).collect(),
        rows,
        csv,
    })
}

/// Table 2: ranks. For each task of which there are runs with several ranks, a row for each rank.
pub(super) fn ranks(groups: &[Group<'_>]) -> Option<Table> {
    let label = |group: &Group<'_>| group.kind.without_rank();
    let several = |group: &&Group<'_>| {
        let other = |other: &Group<'_>| other.task == group.task && label(other) == label(group);
        group.kind.rank.is_some() && groups.iter().any(|found| other(found) && found.kind.rank != group.kind.rank)
    };
    let with: Vec<&Group<'_>> = groups.iter().filter(several).collect();
    let tasks: Vec<&str> =
        tasks(groups).into_iter().filter(|task| with.iter().any(|group| group.task == *task)).collect();
    let mut labels: Vec<String> = Vec::new();
    for group in &with {
        if !labels.contains(&label(group)) {
            labels.push(label(group));
        }
    }
    let mut head = vec!["task".to_owned(), "rank".to_owned()];
    head.extend(labels.iter().flat_map(|label| [label.clone(), "parameters".to_owned(), "paper's count".to_owned()]));
    let mut table = Table {
        name: "table2",
        title: "Table 2: ranks".to_owned(),
        note: format!("The rank is that before pruning. Metrics in percent on the validation split. {COUNTS}"),
        head,
        rows: Vec::new(),
        csv: Csv {
            head: vec!["task", "rank", "method", "metric", "mean", "deviation", "n", "parameters", "paper_parameters"],
            rows: Vec::new(),
        },
    };
    for task in tasks {
        let of: Vec<&&Group<'_>> = with.iter().filter(|group| group.task == task).collect();
        let ranks: BTreeSet<usize> = of.iter().filter_map(|group| group.kind.rank).collect();
        for rank in ranks {
            let mut row = vec![task.to_owned(), rank.to_string()];
            for name in &labels {
                let group = of.iter().find(|group| group.kind.rank == Some(rank) && label(group) == *name);
                let counts =
                    [group.and_then(|group| parameters(group)), group.and_then(|group| paper_parameters(group))];
                let counts = counts.map(|count| count.map(|count| count.mean));
                row.push(cell(group.and_then(|group| group.score())));
                row.extend(counts.map(count));
                if let Some(group) = group {
                    let mut line = vec![task.to_owned(), rank.to_string(), name.clone(), group.metric().to_owned()];
                    line.extend(plain_statistic(group.score()));
                    line.extend(counts.map(plain));
                    table.csv.rows.push(line);
                }
            }
            table.rows.push(row);
        }
    }
    (!table.rows.is_empty()).then_some(table)
}

/// Table 3: adapted modules. For each task and method of which there are runs with several sets of modules, a row for each set.
pub(super) fn modules(groups: &[Group<'_>]) -> Option<Table> {
    let head =
        ["task", "method", "modules", "rank", "parameters", "paper's count", "metric"].map(str::to_owned).to_vec();
    let mut table = Table {
        name: "table3",
        title: "Table 3: adapted modules".to_owned(),
        note: format!("Sets of modules are comparable where their parameters are about equal. {COUNTS}"),
        head,
        rows: Vec::new(),
        csv: Csv {
            head: vec![
                "task",
                "method",
                "modules",
                "rank",
                "metric",
                "mean",
                "deviation",
                "n",
                "parameters",
                "paper_parameters",
            ],
            rows: Vec::new(),
        },
    };
    let several = |group: &&Group<'_>| {
        let other = |other: &Group<'_>| {
            (other.task, &other.kind.method) == (group.task, &group.kind.method)
                && other.kind.modules != group.kind.modules
        };
        group.kind.rank.is_some() && groups.iter().any(other)
    };
    for group in groups.iter().filter(several) {
        let Kind { method, rest, modules, rank, .. } = &group.kind;
        let method = if rest.is_empty() { shown(method).to_owned() } else { format!("{}, {rest}", shown(method)) };
        let rank = rank.map_or(String::new(), |rank| rank.to_string());
        let counts = [parameters(group), paper_parameters(group)].map(|count| count.map(|count| count.mean));
        let mut row = vec![group.task.to_owned(), method, modules.clone(), rank];
        let mut line = row.clone();
        row.extend(counts.map(count));
        row.push(cell(group.score()));
        line.push(group.metric().to_owned());
        line.extend(plain_statistic(group.score()));
        line.extend(counts.map(plain));
        table.rows.push(row);
        table.csv.rows.push(line);
    }
    (!table.rows.is_empty()).then_some(table)
}

/// Table 4: seconds an epoch.
pub(super) fn seconds(groups: &[Group<'_>]) -> Option<Table> {
    let (tasks, kinds) = (tasks(groups), kinds(groups));
    let seconds = |group: &Group<'_>| group.mean(|run, _| run.seconds_per_epoch());
    let reference = kinds.iter().find(|kind| kind.method == REFERENCE).or_else(|| kinds.iter().next()).copied()?;
    let mut csv = Csv {
        head: vec!["method", "task", "seconds", "deviation", "n", "ratio", "tokens_per_second"],
        rows: Vec::new(),
    };
    let mut rows = Vec::new();
    for kind in &kinds {
        let mut row = vec![kind.label()];
        for task in &tasks {
            let group = find(groups, task, kind);
            let found = group.and_then(seconds);
            let other = find(groups, task, reference).and_then(seconds).map(|value| value.mean);
            let ratio = found.zip(other).map(|(found, other)| found.mean / other);
            let shown_ratio = ratio.map_or(String::new(), |ratio| format!(" [{ratio:.2}]"));
            row.push(format!("{}{shown_ratio}", cell(found)));
            if let Some(group) = group {
                let speed = group.mean(|run, _| {
                    let speeds: Vec<f64> = run.epochs.iter().map(|epoch| epoch.tokens_per_second).collect();
                    Statistic::of(&speeds).map(|value| value.mean)
                });
                let [mean, deviation, n] = plain_statistic(found);
                let speed = plain(speed.map(|speed| speed.mean));
                csv.rows.push(vec![kind.label(), (*task).to_owned(), mean, deviation, n, plain(ratio), speed]);
            }
        }
        rows.push(row);
    }
    let against = reference.label();
    Some(Table {
        name: "table4",
        title: "Table 4: seconds an epoch".to_owned(),
        note: format!(
            "The duration of an epoch's steps, without evaluation: mean ± standard deviation over seeds, with their number; in brackets \
             the ratio to {against}. Durations compare only where the runs had the same machine, batch size and other load."
        ),
        head: ["method".to_owned()].into_iter().chain(tasks.iter().map(|task| (*task).to_owned())).collect(),
        rows,
        csv,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::fixtures::run;
    use super::super::group::groups;
    use super::{methods, modules, ranks, seconds};
    use crate::report::TrainedRun;

    fn settings(method: &str, rank: usize, seed: usize) -> String {
        format!("method = \"{method}\"\nrank = {rank}\nseed = {seed}\n")
    }

    fn runs() -> Vec<(String, TrainedRun)> {
        vec![
            run("rte", &settings("sora", 8, 0), 0.6, &[("query", &[3, 1])]),
            run("mrpc", &settings("sora", 8, 0), 0.9, &[("query", &[1, 1])]),
            run("mrpc", &settings("sora", 8, 1), 0.8, &[("query", &[3, 1])]),
            run("mrpc", &settings("lora", 8, 0), 0.7, &[("query", &[8, 8])]),
            run("mrpc", &settings("lora", 4, 0), 0.65, &[("query", &[4, 4])]),
            run("mrpc", &settings("bitfit", 8, 0), 0.6, &[]),
        ]
    }

    #[test]
    fn methods_by_tasks_have_means_and_missing_cells() {
        let runs = runs();
        let table = methods(&groups(&runs), None).unwrap();
        assert_eq!(
            table.head,
            ["method", "parameters", "paper's count", "mrpc (accuracy)", "rte (accuracy)", "average"]
        );
        // The standard deviation of 80 and 90 is the root of 50. SoRA's parameters are 30 on MRPC and 40 on RTE.
        let expected = [
            ["BitFit", "0", "–", "60.00 (1)", "–", "–"],
            ["LoRA, r = 4", "80", "64", "65.00 (1)", "–", "–"],
            ["LoRA, r = 8", "160", "128", "70.00 (1)", "–", "–"],
            ["SoRA, r = 8", "35", "28", "85.00 ± 7.07 (2)", "60.00 (1)", "72.50"],
        ];
        assert_eq!(table.rows, expected);
        assert_eq!(table.csv.rows[3][..4], ["SoRA, r = 8", "mrpc", "accuracy", "85"]);
        assert_eq!(table.csv.rows[3][5..], ["2", "30", "24"]);
    }

    #[test]
    fn ranks_have_rows_for_methods_with_several() {
        let runs = runs();
        let table = ranks(&groups(&runs)).unwrap();
        let expected = [["mrpc", "4", "65.00 (1)", "80", "64"], ["mrpc", "8", "70.00 (1)", "160", "128"]];
        assert_eq!(table.rows, expected);
        assert_eq!(table.csv.rows.len(), 2);
        let one_rank: Vec<_> = runs.into_iter().filter(|(_, run)| run.setting("rank") == "8").collect();
        assert_eq!(ranks(&groups(&one_rank)), None);
    }

    #[test]
    fn settings_that_follow_from_the_rank_tell_no_ranks_apart() {
        let of = |rank: usize, more: &str| {
            let settings = settings("adalora", rank, 0) + &format!("init_rank = {}\n{more}", rank * 3 / 2);
            run("mrpc", &settings, 0.8, &[("query", &[rank, 2])])
        };
        let ranks_of = |runs: &[(String, TrainedRun)]| ranks(&groups(runs)).map(|table| table.csv.rows.len());
        assert_eq!(ranks_of(&[of(4, ""), of(8, "")]), Some(2));
        let mut other = of(4, "");
        other.1.settings.insert("init_rank".into(), 10.into());
        let runs = [of(4, ""), other];
        let labels: Vec<String> = groups(&runs).iter().map(|group| group.kind.label()).collect();
        assert_eq!(labels, ["AdaLoRA, r = 4, init rank 10", "AdaLoRA, r = 4, init rank 6"]);
    }

    #[test]
    fn runs_that_are_carried_out_differently_are_one_group() {
        let of = |seed: usize, more: &str| run("mrpc", &(settings("lora", 8, seed) + more), 0.8, &[("query", &[8, 8])]);
        let runs = [of(0, "device = \"cuda:0\"\nlog_every = 10"), of(1, "device = \"cuda:1\"\ncheckpoint_every = 50")];
        let found = groups(&runs);
        assert_eq!((found.len(), found[0].runs.len(), found[0].kind.label().as_str()), (1, 2, "LoRA, r = 8"));
    }

    #[test]
    fn only_runs_on_fewer_examples_are_told_apart() {
        let of = |task: &str, seed: usize, examples: usize| {
            let mut run = run(task, &settings("lora", 8, seed), 0.8, &[("query", &[8, 8])]);
            run.1.examples = examples;
            run
        };
        let runs = [of("mrpc", 0, 3668), of("cola", 0, 8551), of("mrpc", 1, 100)];
        let table = methods(&groups(&runs), None).unwrap();
        let rows: Vec<[&str; 2]> = table.rows.iter().map(|row| [row[0].as_str(), row.last().unwrap()]).collect();
        assert_eq!(rows, [["LoRA, r = 8", "80.00"], ["LoRA, r = 8, 100 examples", "–"]]);
    }

    #[test]
    fn longer_runs_are_always_marked() {
        let longer = settings("lora", 8, 0) + "epochs = 6\nextended_from = [3]";
        let runs = [run("mrpc", &longer, 0.8, &[("query", &[8, 8])])];
        let labels: Vec<String> = groups(&runs).iter().map(|group| group.kind.label()).collect();
        assert_eq!(labels, ["LoRA, r = 8, extended from 3"]);
    }

    /// Defaults follow from the number of rows, so that they differ between tasks, and on fewer examples.
    #[test]
    fn settings_count_only_where_they_vary_within_a_task() {
        let of = |task: &str, seed: usize, lr: &str, examples: usize| {
            let mut run = run(task, &(settings("lora", 8, seed) + &format!("lr = {lr}")), 0.8, &[("query", &[8, 8])]);
            run.1.examples = examples;
            run
        };
        let mut runs = vec![of("mrpc", 0, "0.0005", 3668), of("rte", 0, "0.001", 2490), of("mrpc", 1, "0.0015", 100)];
        let labels = |runs: &[(String, TrainedRun)]| {
            let table = methods(&groups(runs), None).unwrap();
            table.rows.iter().map(|row| [row[0].clone(), row.last().unwrap().clone()]).collect::<Vec<_>>()
        };
        assert_eq!(labels(&runs), [["LoRA, r = 8", "80.00"], ["LoRA, r = 8, 100 examples", "–"]]);
        runs.push(of("cola", 0, "0.001", 8551));
        runs.push(of("cola", 0, "0.002", 8551));
        let found: Vec<String> = labels(&runs).into_iter().map(|[label, _]| label).collect();
        let expected = ["LoRA, r = 8", "LoRA, r = 8, 100 examples", "LoRA, r = 8, lr 0.001", "LoRA, r = 8, lr 0.002"];
        assert_eq!(found, expected);
    }

    #[test]
    fn bases_have_names_of_their_own() {
        let of = |model: &str, base: &str, seed: usize| {
            let mut run = run("mrpc", &(settings("lora", 8, seed) + &format!("model_id = \"{model}\"")), 0.8, &[]);
            run.1.base = base.into();
            run
        };
        let labels =
            |runs: &[(String, TrainedRun)]| groups(runs).iter().map(|group| group.kind.label()).collect::<Vec<_>>();
        let (small, large) = ("sha256:0123456789", "sha256:abcdef0123");
        assert_eq!(labels(&[of("default", small, 0), of("a/model", small, 1)]), ["LoRA"]);
        let two = [of("default", small, 0), of("a/model/", small, 1), of("large", large, 0)];
        assert_eq!(labels(&two), ["LoRA, default", "LoRA, large"]);
        let clash = [of("small/model", small, 0), of("large/model", large, 1)];
        assert_eq!(labels(&clash), ["LoRA, model 01234567", "LoRA, model abcdef01"]);
    }

    #[test]
    fn modules_and_settings_that_vary_tell_runs_apart() {
        let of = |more: &str, value| run("mrpc", &(settings("sora", 8, 0) + more), value, &[("query", &[2, 1])]);
        let runs = [of("target_modules = []\nlr = 0.001", 0.9), of("target_modules = [\"query\"]\nlr = 0.002", 0.8)];
        let groups = groups(&runs);
        let table = modules(&groups).unwrap();
        let expected = [
            ["mrpc", "SoRA, lr 0.001", "all linears", "8", "30", "24", "90.00 (1)"],
            ["mrpc", "SoRA, lr 0.002", "query", "8", "30", "24", "80.00 (1)"],
        ];
        assert_eq!(table.rows, expected);
        let labels: Vec<String> = groups.iter().map(|group| group.kind.label()).collect();
        assert_eq!(labels, ["SoRA, r = 8, lr 0.001", "SoRA, r = 8, query, lr 0.002"]);
        assert_eq!(modules(&groups[..1]), None);
    }

    #[test]
    fn seconds_have_a_ratio_to_adalora() {
        let mut runs = vec![run("mrpc", &settings("adalora", 8, 0), 0.9, &[("query", &[1, 2])])];
        runs.extend(self::runs());
        runs[0].1.epochs[0].seconds = 4.0;
        let table = seconds(&groups(&runs)).unwrap();
        assert_eq!(table.rows[3], ["AdaLoRA, r = 8", "4.00 (1) [1.00]", "–"]);
        assert_eq!(table.rows[4], ["SoRA, r = 8", "2.00 ± 0.00 (2) [0.50]", "2.00 (1)"]);
    }
}
