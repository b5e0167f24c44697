//! Loss, threshold and mean rank over the steps of runs.

use std::collections::{BTreeMap, BTreeSet};

use super::axis::Axis;
use super::canvas::{Anchor, Canvas};
use super::chart::{Key, Line, Panel, legend};
use super::color::Color;
use super::palette::{self, INK};
use super::{Figure, slug};
use crate::report::group::{Group, tasks};
use crate::report::trained::StepLine;

const PANEL: (f32, f32) = (640.0, 180.0);
const LEFT: f32 = 80.0;
const GAP: f32 = 88.0;

/// What a panel shows: its title and axis, and the value of a step.
type Quantity = (&'static str, &'static str, fn(&StepLine) -> Option<f64>);
const LOSS: &str = "loss";
const QUANTITIES: [Quantity; 3] = [
    ("Training loss", LOSS, |step| step.loss),
    ("Threshold of the gates", "xi", |step| step.xi),
    ("Mean rank over adapted linears", "rank", |step| step.mean_rank.filter(|rank| *rank > 0.0)),
];

/// A figure for each task of which runs have logged their steps.
pub(in crate::report) fn figures(groups: &[Group<'_>]) -> Vec<Figure> {
    tasks(groups).into_iter().filter_map(|task| figure(groups, task)).collect()
}

fn figure(groups: &[Group<'_>], task: &str) -> Option<Figure> {
    let logged = |group: &&Group<'_>| group.task == task && group.runs.iter().any(|(_, run, _)| !run.steps.is_empty());
    let groups: Vec<&Group<'_>> = groups.iter().filter(logged).collect();
    let styles = styles(&groups);
    let panels: Vec<(Quantity, Vec<Line>)> = QUANTITIES
        .into_iter()
        .map(|quantity| (quantity, lines(&groups, &styles, quantity.2, quantity.1 == LOSS)))
        .filter(|(_, lines)| lines.iter().any(|line| !line.points.is_empty()))
        .collect();
    let steps = groups.iter().flat_map(|group| group.runs.iter().flat_map(|(_, run, _)| &run.steps));
    let x = Axis::exact(steps.map(|step| step.step as f64).chain([0.0]))?;
    if panels.is_empty() {
        return None;
    }
    let labels: Vec<String> = groups.iter().map(|group| group.kind.label()).collect();
    let key = |(label, &(color, dashed))| Key { label, color, dashed };
    let keys: Vec<Key<'_>> = labels.iter().map(String::as_str).zip(&styles).map(key).collect();
    let width = LEFT + PANEL.0 + 40.0;
    let top = 56.0 + legend(None, (20.0, 56.0), width - 40.0, &keys) + 24.0;
    let height = top + panels.len() as f32 * (PANEL.1 + GAP) - GAP + 56.0;
    let title = format!("Training: {task}");
    let mut canvas = Canvas::new(width, height, &title);
    canvas.text((20.0, 30.0), (16.0, INK), Anchor::Start, &title);
    legend(Some(&mut canvas), (20.0, 56.0), width - 40.0, &keys);
    for (i, ((title, label, _), lines)) in panels.iter().enumerate() {
        let values = lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
        let Some(y) = Axis::linear(values.chain([0.0])) else { continue };
        let corner = (LEFT, top + i as f32 * (PANEL.1 + GAP));
        Panel { title, x: (x, "step"), y: (y, label), corner, size: PANEL }.draw(&mut canvas, lines);
    }
    Some(Figure {
        name: format!("training-{}", slug(task)),
        title: format!("Training on {task}"),
        note: "Means over seeds. The loss is a moving average over a twentieth of the logged steps.".to_owned(),
        canvas,
    })
}

/// The colour of each group, and whether its line is dashed. A method has the same colour in the figures of all tasks, unless one task
/// has several groups of it.
fn styles(groups: &[&Group<'_>]) -> Vec<(Color, bool)> {
    let places: BTreeSet<usize> = groups.iter().map(|group| group.kind.place).collect();
    let apart = places.len() == groups.len();
    let place = |(i, group): (usize, &&Group<'_>)| if apart { group.kind.place } else { i };
    groups.iter().enumerate().map(place).map(palette::line).collect()
}

/// A line for each group that has the quantity.
fn lines(
    groups: &[&Group<'_>],
    styles: &[(Color, bool)],
    quantity: fn(&StepLine) -> Option<f64>,
    smooth: bool,
) -> Vec<Line> {
    let line = |(group, &(color, dashed)): (&&Group<'_>, &(Color, bool))| {
        let mean = mean(group, quantity);
        let points = if smooth { smoothed(&mean) } else { mean };
        Line { points, color, width: 1.8, dashed, marked: false }
    };
    groups.iter().zip(styles).map(line).collect()
}

/// The mean over the group's runs, at the steps that all of them have logged.
fn mean(group: &Group<'_>, quantity: fn(&StepLine) -> Option<f64>) -> Vec<(f64, f64)> {
    let mut at: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for step in group.runs.iter().flat_map(|(_, run, _)| &run.steps) {
        if let Some(value) = quantity(step) {
            at.entry(step.step).or_default().push(value);
        }
    }
    let logged = group.runs.iter().filter(|(_, run, _)| run.steps.iter().any(|step| quantity(step).is_some())).count();
    let all = at.into_iter().filter(|(_, values)| values.len() == logged);
    all.map(|(step, values)| (step as f64, values.iter().sum::<f64>() / values.len() as f64)).collect()
}

/// The moving average over a twentieth of the points. At the ends it is over fewer.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let side = points.len() / 40;
    let average = |i: usize| {
        let near = &points[i.saturating_sub(side)..(i + side + 1).min(points.len())];
        near.iter().map(|(_, y)| y).sum::<f64>() / near.len() as f64
    };
    points.iter().enumerate().map(|(i, (x, _))| (*x, average(i))).collect()
}

#[cfg(test)]
mod tests {
    use super::smoothed;

    #[test]
    fn smoothing_keeps_few_points_and_averages_many() {
        let points = |n: usize| (0..n).map(|i| (i as f64, (i % 2) as f64)).collect::<Vec<_>>();
        assert_eq!(smoothed(&points(39)), points(39));
        let found = smoothed(&points(40));
        assert_eq!((found[0], found[1], found[39].1), ((0.0, 0.5), (1.0, 1.0 / 3.0), 0.5));
    }
}
