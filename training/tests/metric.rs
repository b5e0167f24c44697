//! Compares metrics with the values of scikit-learn and scipy, printed by:
//! `matthews_corrcoef([0,1,2,2,1,0,2,1],[0,2,2,2,1,0,1,1])`, `f1_score([1,0,1,1,0,1],[1,1,1,0,0,1])`,
//! `pearsonr(...)`, `spearmanr(...)` of the numbers below.

use polyrank::adapter::ProblemType;
use polyrank_training::data::{DataOptions, Target, TaskData};
use polyrank_training::loss::TaskLoss;
use polyrank_training::metric::{Metric, counts, mean_loss, metrics_for, metrics_of, score};
use tempfile::TempDir;

fn classes(metric: Metric, wanted: &[usize], found: &[usize], labels: usize) -> f64 {
    let logits: Vec<Vec<f32>> =
        found.iter().map(|&f| (0..labels).map(|i| if i == f { 1.0 } else { -1.0 }).collect()).collect();
    score(metric, &logits, &wanted.iter().map(|&class| Target::Class(class)).collect::<Vec<_>>())
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
}

#[test]
fn classification_metrics_equal_scikit_learn() {
    let (wanted, found) = ([0, 1, 2, 2, 1, 0, 2, 1], [0, 2, 2, 2, 1, 0, 1, 1]);
    close(classes(Metric::Accuracy, &wanted, &found, 3), 0.75);
    close(classes(Metric::Matthews, &wanted, &found, 3), 0.619_047_619);
    close(classes(Metric::F1, &[1, 0, 1, 1, 0, 1], &[1, 1, 1, 0, 0, 1], 2), 0.75);
    close(classes(Metric::Matthews, &[0, 1, 1], &[1, 1, 1], 2), 0.0);
    close(classes(Metric::F1, &[0, 0], &[0, 0], 2), 0.0);
}

#[test]
fn correlations_equal_scipy() {
    let found: Vec<Vec<f32>> = [1.0, 2.0, 2.0, 3.5, -1.0].iter().map(|&x| vec![x]).collect();
    let wanted = [0.5, 1.5, 4.0, 3.0, 0.5].map(Target::Value);
    close(score(Metric::Pearson, &found, &wanted), 0.701_868_573);
    close(score(Metric::Spearman, &found, &wanted), 0.789_473_684);
    // NaN has a rank, too.
    let with_nan = [f32::NAN, 1.0, f32::NAN, 2.0].map(|x| vec![x]);
    close(score(Metric::Spearman, &with_nan, &[3.5, 1.0, 3.5, 2.0].map(Target::Value)), 1.0);
    close(score(Metric::Pearson, &[vec![1.0], vec![1.0]], &[Target::Value(1.0), Target::Value(2.0)]), 0.0);
}

/// `f1_score(y, p, average=..., zero_division=0)` and `accuracy_score(y, p)` of scikit-learn, of indicator matrices with a row without
/// labels, and with a label that is neither expected nor found.
#[test]
fn metrics_of_several_labels_equal_scikit_learn() {
    let check = |found: &[&[usize]], wanted: &[&[usize]], labels: usize, expected: [f64; 3]| {
        let row = |of: &&[usize]| (0..labels).map(|label| if of.contains(&label) { 0.5 } else { 0.0 }).collect();
        let logits: Vec<Vec<f32>> = found.iter().map(row).collect();
        let targets: Vec<Target> = wanted.iter().map(|of| Target::Classes(of.to_vec())).collect();
        let metrics = metrics_for(&["cola"], ProblemType::MultiLabelClassification, labels);
        assert_eq!(metrics, [Metric::F1Micro, Metric::F1Macro, Metric::Accuracy]);
        metrics.iter().zip(expected).for_each(|(&metric, expected)| close(score(metric, &logits, &targets), expected));
    };
    check(
        &[&[0, 2], &[1], &[0, 2], &[1, 2]],
        &[&[0, 2], &[], &[0, 1], &[1, 2]],
        3,
        [0.769_230_769, 0.766_666_667, 0.5],
    );
    check(
        &[&[0], &[], &[0, 2], &[1, 2], &[0, 2]],
        &[&[0, 2], &[], &[0, 1], &[1, 2], &[2]],
        4,
        [0.714_285_714, 0.533_333_333, 0.4],
    );
}

/// `precision_recall_fscore_support` of scikit-learn 1.9 with `zero_division=0` and the labels 0 to 3.
#[test]
fn scores_of_each_label_equal_scikit_learn() {
    let (wanted, found) = ([0, 0, 1, 1, 1, 2, 2, 0], [0, 1, 1, 1, 0, 0, 2, 0]);
    let logits: Vec<Vec<f32>> =
        found.iter().map(|&found| (0..4).map(|i| f32::from(u8::from(i == found))).collect()).collect();
    let targets: Vec<Target> = wanted.into_iter().map(Target::Class).collect();
    let expected = [
        (0.5, 2.0 / 3.0, 4.0 / 7.0, 3),
        (2.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0, 3),
        (1.0, 0.5, 2.0 / 3.0, 2),
        (0.0, 0.0, 0.0, 0),
    ];
    let counts = counts(&logits, &targets);
    assert_eq!(counts.len(), expected.len());
    for (counts, (precision, recall, f1, support)) in counts.into_iter().zip(expected) {
        close(counts.precision(), precision);
        close(counts.recall(), recall);
        close(counts.f1(), f1);
        assert_eq!(counts.expected, support);
    }
}

#[test]
fn validation_loss_equals_the_training_loss() {
    let logits = vec![vec![0.5, -300.0, 2.0], vec![0.0, 0.75, 300.0]];
    let tensor = candle_core::Tensor::new(logits.clone(), &candle_core::Device::Cpu).unwrap();
    let rows: [(ProblemType, [Target; 2]); 2] = [
        (ProblemType::MultiLabelClassification, [Target::Classes(vec![0, 1]), Target::Classes(vec![])]),
        (ProblemType::SingleLabelClassification, [Target::Class(2), Target::Class(1)]),
    ];
    for (problem, targets) in rows {
        let trained = TaskLoss::new(problem, &[]).mean(&tensor, &targets).unwrap().to_scalar::<f32>().unwrap();
        let found = mean_loss(&logits, &targets);
        assert!((found - f64::from(trained)).abs() < 1e-4, "{found}, expected {trained}");
    }
}

#[test]
fn glue_tasks_have_their_own_metrics() {
    use Metric::{Accuracy, F1, Matthews, Pearson, Spearman};
    let one = ProblemType::SingleLabelClassification;
    let tasks: [(&str, ProblemType, &[Metric]); 12] = [
        ("cola", one, &[Matthews, Accuracy]),
        ("CoLA", one, &[Matthews, Accuracy]),
        ("sst2", one, &[Accuracy]),
        ("mrpc", one, &[Accuracy, F1]),
        ("qqp", one, &[Accuracy, F1]),
        ("stsb", ProblemType::Regression, &[Pearson, Spearman]),
        ("STS-B", ProblemType::Regression, &[Pearson, Spearman]),
        ("mnli", one, &[Accuracy]),
        ("qnli", one, &[Accuracy]),
        ("rte", one, &[Accuracy]),
        ("wnli", one, &[Accuracy]),
        ("trec", one, &[Accuracy]),
    ];
    for (task, problem, metrics) in tasks {
        assert_eq!(metrics_for(&[task], problem, 2), metrics, "{task}");
    }
    // A task of the user's own may have the same name.
    assert_eq!(metrics_for(&["mrpc"], one, 3), [Accuracy]);
    // A name of GLUE's wins over those after it, also where its metric is the accuracy alone.
    assert_eq!(metrics_for(&["sst2", "cola"], one, 2), [Accuracy]);
    assert_eq!(metrics_for(&["reviews", "cola"], one, 2), [Matthews, Accuracy]);
}

/// A sweep may give the rows of one of GLUE's tasks a name of its own.
#[test]
fn folder_or_name_of_a_glue_task_decides_the_metrics() {
    let room = TempDir::new().unwrap();
    for (name, given, first) in [
        ("cola", None, Metric::Matthews),
        ("cola", Some("grammar"), Metric::Matthews),
        ("grammar", Some("cola"), Metric::Matthews),
        ("grammar", None, Metric::Accuracy),
    ] {
        let dir = room.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("train.tsv"), "label\tsentence\n0\tx\n1\ty\n").unwrap();
        let task = given.map(str::to_owned);
        let data = TaskData::load(&dir, &DataOptions { task, ..DataOptions::default() }).unwrap();
        assert_eq!((&*data.task, metrics_of(&data)[0]), (given.unwrap_or(name), first), "{name} {given:?}");
    }
}
