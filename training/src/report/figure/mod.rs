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
mod compression;
mod font;
mod palette;
mod png;
mod rank_map;
mod svg;
mod training;

use self::canvas::Canvas;
use super::group::Group;
use super::schedule::Schedule;
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
    figures
}

/// A label as part of a file's name: `SoRA, r = 8` becomes `sora-r-8`.
fn slug(label: &str) -> String {
    let plain: String =
        label.to_lowercase().chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { ' ' }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn labels_become_names_of_files() {
        assert_eq!(super::slug("SoRA, r = 8, target ratio 0.65"), "sora-r-8-target-ratio-0.65");
    }
}
