//! Rank maps: layers by modules, the mean rank over seeds in each cell.

use std::collections::BTreeMap;

use super::canvas::{Anchor, Canvas, Color};
use super::chart::{NORMAL, SMALL};
use super::palette::{INK, QUIET, amount, ink_on};
use super::{Figure, slug};
use crate::report::group::{Group, Kind};
use crate::report::trained::Exported;

const CELL: (f32, f32) = (68.0, 28.0);
/// The space between two cells.
const SEAM: f32 = 2.0;
const LEFT: f32 = 64.0;
const TOP: f32 = 172.0;
/// The space between two panels.
const GAP: (f32, f32) = (70.0, 86.0);
/// Panels side by side.
const COLUMNS: usize = 2;
/// A linear without rank in all seeds.
const NONE: Color = Color(240, 242, 245);

/// The mean ranks of a task: the modules' names, and the ranks by module and layer.
struct Map<'a> {
    task: &'a str,
    modules: Vec<String>,
    ranks: Vec<Vec<f64>>,
    seeds: usize,
}

/// A figure for each kind of runs whose ranks are not all the same.
pub(in crate::report) fn figures(groups: &[Group<'_>]) -> Vec<Figure> {
    let mut by_kind: BTreeMap<&Kind, Vec<Map<'_>>> = BTreeMap::new();
    for group in groups.iter().filter(|group| is_ragged(group)) {
        if let Some(map) = map(group) {
            by_kind.entry(&group.kind).or_default().push(map);
        }
    }
    by_kind.into_iter().map(|(kind, maps)| figure(kind, &maps)).collect()
}

/// Whether the adapted linears have different ranks.
fn is_ragged(group: &Group<'_>) -> bool {
    let mut all = group.runs.iter().flat_map(|(_, _, exported)| exported.ranks.iter().flat_map(|(_, ranks)| ranks));
    let first = all.next();
    all.any(|rank| Some(rank) != first)
}

/// The mean over the group's runs of which the ranks are known; `None` if there are none, or if they have different modules.
fn map<'a>(group: &Group<'a>) -> Option<Map<'a>> {
    let runs: Vec<&Exported> =
        group.runs.iter().map(|(_, _, exported)| *exported).filter(|exported| !exported.ranks.is_empty()).collect();
    let first = *runs.first()?;
    let shape = |ranks: &[(String, Vec<usize>)]| -> Vec<(String, usize)> {
        ranks.iter().map(|(module, ranks)| (module.clone(), ranks.len())).collect()
    };
    let seeds = runs.len();
    if runs.iter().any(|exported| shape(&exported.ranks) != shape(&first.ranks)) {
        return None;
    }
    let mean = |module: usize, layer: usize| {
        let sum: usize = runs.iter().map(|exported| exported.ranks[module].1[layer]).sum();
        sum as f64 / seeds as f64
    };
    let ranks = first
        .ranks
        .iter()
        .enumerate()
        .map(|(module, (_, ranks))| (0..ranks.len()).map(|layer| mean(module, layer)).collect());
    let modules = first.ranks.iter().map(|(module, _)| module.clone()).collect();
    Some(Map { task: group.task, modules, ranks: ranks.collect(), seeds })
}

fn figure(kind: &Kind, maps: &[Map<'_>]) -> Figure {
    let size = |map: &Map<'_>| {
        let layers = map.ranks.first().map_or(0, Vec::len);
        (map.modules.len() as f32 * CELL.0, layers as f32 * CELL.1)
    };
    let widest = maps.iter().map(|map| size(map).0).fold(0.0, f32::max);
    let highest = maps.iter().map(|map| size(map).1).fold(0.0, f32::max);
    let (columns, rows) = (maps.len().min(COLUMNS), maps.len().div_ceil(COLUMNS));
    let width = LEFT + columns as f32 * widest + (columns - 1) as f32 * GAP.0 + 30.0;
    let height = TOP + rows as f32 * highest + (rows - 1) as f32 * GAP.1 + 30.0;
    let label = kind.label();
    let title = format!("Ranks by layer and module: {label}");
    let mut canvas = Canvas::new(width.max(460.0), height, &title);
    canvas.text((20.0, 30.0), (16.0, INK), Anchor::Start, "Ranks by layer and module");
    canvas.text((20.0, 50.0), (NORMAL, QUIET), Anchor::Start, &label);
    let most = maps.iter().flat_map(|map| map.ranks.iter().flatten()).copied().fold(1.0, f64::max);
    scale(&mut canvas, most);
    for (i, map) in maps.iter().enumerate() {
        let (column, row) = ((i % COLUMNS) as f32, (i / COLUMNS) as f32);
        panel(&mut canvas, (LEFT + column * (widest + GAP.0), TOP + row * (highest + GAP.1)), map, most);
    }
    Figure {
        name: format!("ranks-{}", slug(&label)),
        title: format!("Figure 3: ranks of {label}"),
        note: "Layers from the input (0, on top) to the output. A number is the mean over seeds; an empty cell has no rank in any of \
               them."
            .to_owned(),
        canvas,
    }
}

/// The legend of the colours: none, then from little to `most`.
fn scale(canvas: &mut Canvas, most: f64) {
    const STEPS: usize = 60;
    const WIDTH: f32 = 180.0;
    let (x, y, high) = (20.0, 64.0, 14.0);
    canvas.rectangle((x, y), (20.0, high), NONE);
    canvas.text((x + 10.0, y + high + 15.0), (SMALL, QUIET), Anchor::Middle, "0");
    let left = x + 36.0;
    for i in 0..STEPS {
        let at = left + WIDTH * i as f32 / STEPS as f32;
        // Neighbours overlap, so that no gap shows between them.
        canvas.rectangle((at, y), (WIDTH / STEPS as f32 + 0.5, high), amount(i as f32 / (STEPS - 1) as f32));
    }
    for part in [0.5, 1.0] {
        canvas.text((left + WIDTH * part as f32, y + high + 15.0), (SMALL, QUIET), Anchor::Middle, &shown(most * part));
    }
    canvas.text((left + WIDTH + 16.0, y + high - 3.0), (SMALL, QUIET), Anchor::Start, "rank");
}

fn panel(canvas: &mut Canvas, (left, top): (f32, f32), map: &Map<'_>, most: f64) {
    let seeds = if map.seeds == 1 { "1 seed".to_owned() } else { format!("mean of {} seeds", map.seeds) };
    canvas.text((left, top - 40.0), (NORMAL, INK), Anchor::Start, &format!("{} ({seeds})", map.task));
    for (module, (name, ranks)) in map.modules.iter().zip(&map.ranks).enumerate() {
        let x = left + module as f32 * CELL.0;
        for (line, part) in two_lines(name).iter().rev().enumerate() {
            let y = top - 7.0 - 12.0 * line as f32;
            canvas.text((x + (CELL.0 - SEAM) / 2.0, y), (10.0, QUIET), Anchor::Middle, part);
        }
        for (layer, &rank) in ranks.iter().enumerate() {
            let y = top + layer as f32 * CELL.1;
            let fill = if rank == 0.0 { NONE } else { amount((rank / most) as f32) };
            canvas.rectangle((x, y), (CELL.0 - SEAM, CELL.1 - SEAM), fill);
            if rank > 0.0 {
                let middle = (x + (CELL.0 - SEAM) / 2.0, y + CELL.1 / 2.0 + 3.5);
                canvas.text(middle, (SMALL, ink_on(fill)), Anchor::Middle, &shown(rank));
            }
        }
    }
    for layer in 0..map.ranks.first().map_or(0, Vec::len) {
        let y = top + layer as f32 * CELL.1 + CELL.1 / 2.0 + 3.5;
        canvas.text((left - 8.0, y), (SMALL, QUIET), Anchor::End, &layer.to_string());
    }
    let middle = top + map.ranks.first().map_or(0, Vec::len) as f32 * CELL.1 / 2.0;
    canvas.text_upwards((left - 34.0, middle), (SMALL, QUIET), "layer");
}

/// A rank without a needless fraction: `8`, `5.4`.
fn shown(rank: f64) -> String {
    let rounded = (rank * 10.0).round() / 10.0;
    format!("{rounded}")
}

/// A module's name in at most two lines that fit above its column.
fn two_lines(name: &str) -> Vec<&str> {
    name.split_once([' ', '_', '.']).map_or_else(|| vec![name], |(first, rest)| vec![first, rest])
}
