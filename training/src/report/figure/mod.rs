//! The figures of a report.
//!
//! | module | idea |
//! | --- | --- |
//! | `compression` | parameters against the metric, over the stages of Algorithm 1 (the SoRA paper's figure 2) |
//! | `rank_map` | ranks by layer and module (figure 3) |
//! | `training` | loss, threshold and mean rank over the steps of runs |
//! | `chart` | a panel with lines over two axes |
//! | `axis` | the scale of an axis |
//! | `canvas` | a drawing as shapes, which `svg` and `png` write |
//! | `font`, `palette` | the letters and the colours |

mod axis;
mod canvas;
mod chart;
mod color;
mod compression;
mod font;
mod palette;
mod png;
mod rank_map;
mod svg;
mod training;

use std::collections::BTreeSet;

use self::canvas::Canvas;
use super::group::Group;
use super::stages::Schedule;
use crate::error::Error;

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    /// The name of its files.
    pub(super) name: String,
    pub(super) title: String,
    /// What it shows.
    pub(super) note: String,
    canvas: Canvas,
}

impl Figure {
    pub(super) fn svg(&self) -> String {
        svg::svg(&self.canvas)
    }

    pub(super) fn png(&self) -> Result<Vec<u8>, Error> {
        let Canvas { width, height, .. } = self.canvas;
        let reason = || Error::Settings(format!("{}.png: {width} x {height} pixels cannot be drawn", self.name));
        png::png(&self.canvas).ok_or_else(reason)
    }
}

/// All figures for which there is something to show.
pub(super) fn all(groups: &[Group<'_>], schedules: &[Schedule]) -> Vec<Figure> {
    let mut figures: Vec<Figure> = compression::figure(schedules).into_iter().collect();
    figures.extend(rank_map::figures(groups));
    figures.extend(training::figures(groups));
    name_apart(&mut figures);
    figures
}

/// Numbers the names that several figures have: `a-b` of the task `a_b` becomes `a-b-2`.
fn name_apart(figures: &mut [Figure]) {
    let mut taken = BTreeSet::new();
    for figure in figures {
        let name = figure.name.clone();
        let mut number = 1;
        while !taken.insert(figure.name.clone()) {
            number += 1;
            figure.name = format!("{name}-{number}");
        }
    }
}

/// A label as part of a file's name: `SoRA, r = 8` becomes `sora-r-8`.
fn slug(label: &str) -> String {
    let plain: String =
        label.to_lowercase().chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { ' ' }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::super::fixtures::run;
    use super::super::group::groups;
    use super::super::stages::Schedule;
    use super::{Figure, all};
    use crate::schedule::{Percent, Stage};

    /// The texts of the figure, which must be valid XML.
    fn texts(figure: &Figure) -> Vec<String> {
        let svg = figure.svg();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts = document.descendants().filter(|node| node.has_tag_name("text"));
        texts.map(|node| node.text().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn rank_map_has_the_mean_over_seeds_and_nothing_where_there_is_no_rank() {
        let settings = |seed| format!("method = \"sora\"\nrank = 8\nseed = {seed}");
        let runs = [
            run("mrpc", &settings(0), 0.9, &[("query", &[0, 3]), ("attention output", &[0, 8])]),
            run("mrpc", &settings(1), 0.9, &[("query", &[0, 4]), ("attention output", &[1, 8])]),
        ];
        let figures = all(&groups(&runs), &[]);
        assert_eq!(figures.iter().map(|figure| &*figure.name).collect::<Vec<_>>(), ["ranks-sora-r-8", "training-mrpc"]);
        let texts = texts(&figures[0]);
        let count = |wanted: &str| texts.iter().filter(|text| *text == wanted).count();
        // Cells, the scale's 0, 4 and 8, and the layers 0 and 1.
        assert_eq!(["3.5", "0.5", "8", "4", "0"].map(count), [1, 1, 2, 1, 2]);
        assert!(texts.contains(&"mrpc (mean of 2 seeds)".to_owned()) && texts.contains(&"attention".to_owned()));
        assert!(figures[0].png().unwrap().starts_with(b"\x89PNG"));
        // Runs without a threshold have no panel for it.
        let titles = self::texts(&figures[1]);
        assert!(titles.contains(&"Training loss".to_owned()) && !titles.contains(&"Threshold of the gates".to_owned()));
    }

    #[test]
    fn compression_has_a_panel_for_each_task() {
        let stage = |stage, parameters, percent| Stage {
            stage,
            xi: 1e-4,
            epochs: 1,
            parameters,
            paper_parameters: parameters,
            train_sample: None,
            train: BTreeMap::new(),
            validation: BTreeMap::new(),
            percent: Percent { parameters: None, train: Some(percent), validation: (stage > 0).then_some(percent) },
        };
        let of = |task: &str| Schedule {
            task: task.to_owned(),
            stages: vec![stage(0, 50_000, 100.0), stage(1, 4000, 90.0)],
        };
        // Where stage 0's metric is 0, there are no percentages.
        let nothing = Percent { parameters: None, train: None, validation: None };
        let empty =
            Schedule { task: "cola".to_owned(), stages: vec![Stage { percent: nothing, ..stage(0, 50_000, 0.0) }] };
        assert!(all(&[], std::slice::from_ref(&empty)).is_empty());
        let figures = all(&[], &[of("mrpc"), of("sst2"), of("mrpc"), empty]);
        let svg = figures[0].svg();
        let document = roxmltree::Document::parse(&svg).unwrap();
        // Two points of the one line and one of the other, for three schedules.
        assert_eq!(document.descendants().filter(|node| node.has_tag_name("circle")).count(), 9);
        let texts = texts(&figures[0]);
        assert!(
            ["mrpc", "sst2", "5k", "50k", "100"].iter().all(|text| texts.iter().any(|other| other == text)),
            "{texts:?}"
        );
    }

    #[test]
    fn labels_become_names_of_files() {
        assert_eq!(super::slug("SoRA, r = 8, target ratio 0.65"), "sora-r-8-target-ratio-0.65");
    }
}
