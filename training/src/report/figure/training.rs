//! Loss, threshold and mean rank over the steps of runs.

use super::axis::Axis;
use super::canvas::{Anchor, Canvas};
use super::chart::{Key, Line, Panel, legend};
use super::palette::{self, INK};
use super::{Figure, slug};
use crate::report::group::{Group, tasks};
use crate::report::trained::StepLine;

const PANEL: (f32, f32) = (640.0, 180.0);
const LEFT: f32 = 80.0;
const GAP: f32 = 88.0;

/// What a panel shows: its title and axis, and the value of a step.
type Quantity = (&'static str, &'static str, fn(&StepLine) -> Option<f64>);
const QUANTITIES: [Quantity; 3] = [
    ("Training loss", "loss", |step| step.loss),
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
    let panels: Vec<(Quantity, Vec<Line>)> = QUANTITIES
        .into_iter()
        .map(|quantity| (quantity, lines(&groups, quantity.2)))
        .filter(|(_, lines)| lines.iter().any(|line| !line.points.is_empty()))
        .collect();
    let steps = groups.iter().flat_map(|group| group.runs.iter().flat_map(|(_, run, _)| &run.steps));
    let x = Axis::exact(steps.map(|step| step.step as f64))?;
    if panels.is_empty() {
        return None;
    }
    let modules = groups.iter().any(|group| group.kind.modules != groups[0].kind.modules);
    let labels: Vec<String> = groups.iter().map(|group| group.kind.label(modules)).collect();
    let keys: Vec<Key<'_>> =
        labels.iter().enumerate().map(|(i, label)| Key { label, color: palette::line(i), dashed: false }).collect();
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
        note: "A line is a run; runs of one colour differ in their seed.".to_owned(),
        canvas,
    })
}

/// A line for each run that has the quantity, in the colour of its group.
fn lines(groups: &[&Group<'_>], quantity: fn(&StepLine) -> Option<f64>) -> Vec<Line> {
    let line = |(place, group): (usize, &&Group<'_>)| -> Vec<Line> {
        let points = |steps: &[StepLine]| -> Vec<(f64, f64)> {
            steps.iter().filter_map(|step| Some((step.step as f64, quantity(step)?))).collect()
        };
        let color = palette::line(place);
        let line = |steps: &[StepLine]| Line { points: points(steps), color, width: 1.4, dashed: false, marked: false };
        group.runs.iter().map(|(_, run, _)| line(&run.steps)).collect()
    };
    groups.iter().enumerate().flat_map(line).collect()
}
