//! Compression curves: what is left of the metric as parameters become zero, over the stages of Algorithm 1.

use super::Figure;
use super::axis::Axis;
use super::canvas::{Anchor, Canvas};
use super::chart::{Key, Line, Panel, legend};
use super::palette::{self, INK};
use crate::report::stages::Schedule;
use crate::schedule::Stage;

const PANEL: (f32, f32) = (380.0, 250.0);
const LEFT: f32 = 70.0;
const TOP: f32 = 104.0;
const GAP: (f32, f32) = (90.0, 96.0);

/// Whether a stage has a point: parameters, and a metric in percent of stage 0's.
fn has_point(stage: &Stage) -> bool {
    stage.parameters > 0 && (stage.percent.train.is_some() || stage.percent.validation.is_some())
}

/// The figure, with a panel for each task; `None` if no schedule has a point.
pub(in crate::report) fn figure(schedules: &[Schedule]) -> Option<Figure> {
    let mut tasks: Vec<&str> = Vec::new();
    for schedule in schedules.iter().filter(|schedule| schedule.stages.iter().any(has_point)) {
        if !tasks.contains(&schedule.task.as_str()) {
            tasks.push(&schedule.task);
        }
    }
    if tasks.is_empty() {
        return None;
    }
    let columns = tasks.len().min(2);
    let rows = tasks.len().div_ceil(2);
    let width = LEFT + columns as f32 * PANEL.0 + (columns - 1) as f32 * GAP.0 + 40.0;
    let height = TOP + rows as f32 * PANEL.1 + (rows - 1) as f32 * GAP.1 + 56.0;
    let title = "Compression: metric against parameters";
    let mut canvas = Canvas::new(width, height, title);
    canvas.text((20.0, 30.0), (16.0, INK), Anchor::Start, title);
    let (memory, general) = (palette::line(1).0, palette::line(0).0);
    let keys = [
        Key { label: "memorisation (train)", color: memory, dashed: true },
        Key { label: "generalisation (validation)", color: general, dashed: false },
    ];
    legend(Some(&mut canvas), (20.0, 56.0), width - 40.0, &keys);
    for (i, task) in tasks.iter().enumerate() {
        let (column, row) = (i % 2, i / 2);
        let corner = (LEFT + column as f32 * (PANEL.0 + GAP.0), TOP + row as f32 * (PANEL.1 + GAP.1));
        let of: Vec<&Schedule> = schedules.iter().filter(|schedule| schedule.task == *task).collect();
        let line = |schedule: &Schedule, dashed: bool, percent: fn(&Stage) -> Option<f64>| {
            let point = |stage: &Stage| Some((stage.parameters as f64, percent(stage)?)).filter(|(x, _)| *x > 0.0);
            let points = schedule.stages.iter().filter_map(point).collect();
            Line { points, color: if dashed { memory } else { general }, width: 2.0, dashed, marked: true }
        };
        let train = of.iter().map(|schedule| line(schedule, true, |stage| stage.percent.train));
        let validation = of.iter().map(|schedule| line(schedule, false, |stage| stage.percent.validation));
        let lines: Vec<Line> = train.chain(validation).collect();
        let points = || lines.iter().flat_map(|line| line.points.iter().copied());
        let axes = Axis::log(points().map(|(x, _)| x)).zip(Axis::linear(points().map(|(_, y)| y)));
        let Some((x, y)) = axes else { continue };
        let labels = ("parameters that are not zero (log scale)", "% of the metric of stage 0");
        Panel { title: task, x: (x, labels.0), y: (y, labels.1), corner, size: PANEL }.draw(&mut canvas, &lines);
    }
    Some(Figure {
        name: "compression".to_owned(),
        title: "Figure 2: compression".to_owned(),
        note:
            "Each point is a stage of Algorithm 1. The metrics on training data (memorisation) and on validation data \
               (generalisation) are in percent of stage 0's: a schedule whose stage 0 has a metric of 0 has no points. A stage \
               without parameters has no place on the axis."
                .to_owned(),
        canvas,
    })
}
