//! A panel with lines over two axes.

use super::axis::Axis;
use super::canvas::{Anchor, Canvas, Color, Stroke};
use super::palette::{FRAME, GRID, INK, QUIET};

/// The size of the font of ticks and axes.
pub(super) const SMALL: f32 = 12.0;
/// The size of the font of a panel's title and of legends.
pub(super) const NORMAL: f32 = 13.0;

/// A line of a panel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) points: Vec<(f64, f64)>,
    pub(super) color: Color,
    pub(super) width: f32,
    pub(super) dashed: bool,
    /// Whether each point is marked.
    pub(super) marked: bool,
}

/// A panel. Its area is that of the lines, without ticks and labels.
pub(super) struct Panel<'a> {
    pub(super) title: &'a str,
    pub(super) x: (Axis, &'a str),
    pub(super) y: (Axis, &'a str),
    /// The upper left corner.
    pub(super) corner: (f32, f32),
    pub(super) size: (f32, f32),
}

impl Panel<'_> {
    pub(super) fn draw(&self, canvas: &mut Canvas, lines: &[Line]) {
        let ((left, top), (width, height)) = (self.corner, self.size);
        canvas.text((left, top - 10.0), (NORMAL, INK), Anchor::Start, self.title);
        for (value, text) in self.y.0.ticks() {
            let y = self.at_y(value);
            canvas.line(vec![(left, y), (left + width, y)], Stroke { color: GRID, width: 1.0, dashed: false });
            canvas.text((left - 7.0, y + 4.0), (SMALL, QUIET), Anchor::End, &text);
        }
        for (value, text) in self.x.0.ticks() {
            let x = self.at_x(value);
            canvas.line(
                vec![(x, top + height), (x, top + height + 4.0)],
                Stroke { color: FRAME, width: 1.0, dashed: false },
            );
            canvas.text((x, top + height + 18.0), (SMALL, QUIET), Anchor::Middle, &text);
        }
        let base = vec![(left, top), (left, top + height), (left + width, top + height)];
        canvas.line(base, Stroke { color: FRAME, width: 1.0, dashed: false });
        canvas.text((left + width / 2.0, top + height + 37.0), (SMALL, QUIET), Anchor::Middle, self.x.1);
        canvas.text_upwards((left - 48.0, top + height / 2.0), (SMALL, QUIET), self.y.1);
        lines.iter().for_each(|line| self.line(canvas, line));
    }

    fn line(&self, canvas: &mut Canvas, line: &Line) {
        let finite = |(x, y): &&(f64, f64)| x.is_finite() && y.is_finite();
        let points: Vec<(f32, f32)> =
            line.points.iter().filter(finite).map(|&(x, y)| (self.at_x(x), self.at_y(y))).collect();
        if line.marked {
            points.iter().for_each(|&point| canvas.disc(point, 3.0, line.color));
        }
        canvas.line(points, Stroke { color: line.color, width: line.width, dashed: line.dashed });
    }

    fn at_x(&self, value: f64) -> f32 {
        self.corner.0 + self.x.0.place(value) * self.size.0
    }

    fn at_y(&self, value: f64) -> f32 {
        self.corner.1 + (1.0 - self.y.0.place(value)) * self.size.1
    }
}

/// An entry of a legend.
pub(super) struct Key<'a> {
    pub(super) label: &'a str,
    pub(super) color: Color,
    pub(super) dashed: bool,
}

/// Draws a legend that begins at `corner` and is at most `width` wide, and returns its height. With no canvas, only measures it.
pub(super) fn legend(mut canvas: Option<&mut Canvas>, corner: (f32, f32), width: f32, keys: &[Key<'_>]) -> f32 {
    const LINE: f32 = 20.0;
    let (mut x, mut y) = corner;
    for Key { label, color, dashed } in keys {
        let wide = 36.0 + super::font::width(label, NORMAL);
        if x > corner.0 && x + wide > corner.0 + width {
            (x, y) = (corner.0, y + LINE);
        }
        if let Some(canvas) = canvas.as_deref_mut() {
            canvas.line(vec![(x, y - 4.0), (x + 24.0, y - 4.0)], Stroke { color: *color, width: 2.5, dashed: *dashed });
            canvas.text((x + 30.0, y), (NORMAL, INK), Anchor::Start, label);
        }
        x += wide + 18.0;
    }
    y - corner.1 + LINE
}
