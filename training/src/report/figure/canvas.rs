//! A drawing as a list of shapes. `svg` and `png` write it; both use the same numbers, so that the two files look alike.

pub(super) use super::color::Color;
use super::font;

/// Where a text's position lies in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    /// At its left end.
    Start,
    /// In its middle.
    Middle,
    /// At its right end.
    End,
}

/// A line of text. `(x, y)` is a point on its base line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Text {
    pub(super) x: f32,
    pub(super) y: f32,
    /// Size of the font in pixels.
    pub(super) size: f32,
    pub(super) anchor: Anchor,
    pub(super) color: Color,
    /// Whether it reads from the bottom to the top.
    pub(super) upwards: bool,
    pub(super) text: String,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stroke {
    pub(super) color: Color,
    pub(super) width: f32,
    pub(super) dashed: bool,
}

/// A part of a drawing, in pixels from the upper left corner.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// A filled rectangle.
    Rectangle { x: f32, y: f32, width: f32, height: f32, fill: Color },
    /// Straight lines from point to point.
    Line { points: Vec<(f32, f32)>, stroke: Stroke },
    /// A filled disc.
    Disc { x: f32, y: f32, radius: f32, fill: Color },
    /// A line of text.
    Text(Text),
}

/// A drawing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Canvas {
    pub(super) width: f32,
    pub(super) height: f32,
    /// What the drawing shows, for readers who do not see it.
    pub(super) title: String,
    pub(super) shapes: Vec<Shape>,
}

impl Canvas {
    pub(super) fn new(width: f32, height: f32, title: &str) -> Self {
        let shapes = vec![Shape::Rectangle { x: 0.0, y: 0.0, width, height, fill: super::palette::BACKGROUND }];
        Self { width, height, title: title.to_owned(), shapes }
    }

    pub(super) fn rectangle(&mut self, (x, y): (f32, f32), (width, height): (f32, f32), fill: Color) {
        self.shapes.push(Shape::Rectangle { x, y, width, height, fill });
    }

    pub(super) fn line(&mut self, points: Vec<(f32, f32)>, stroke: Stroke) {
        self.shapes.push(Shape::Line { points, stroke });
    }

    pub(super) fn disc(&mut self, (x, y): (f32, f32), radius: f32, fill: Color) {
        self.shapes.push(Shape::Disc { x, y, radius, fill });
    }

    pub(super) fn text(&mut self, (x, y): (f32, f32), (size, color): (f32, Color), anchor: Anchor, text: &str) {
        self.shapes.push(Shape::Text(Text { x, y, size, anchor, color, upwards: false, text: text.to_owned() }));
    }

    pub(super) fn text_upwards(&mut self, (x, y): (f32, f32), (size, color): (f32, Color), text: &str) {
        let anchor = Anchor::Middle;
        self.shapes.push(Shape::Text(Text { x, y, size, anchor, color, upwards: true, text: text.to_owned() }));
    }
}

impl Text {
    /// How far left of its position the text begins.
    pub(super) fn shift(&self) -> f32 {
        match self.anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => font::width(&self.text, self.size) / 2.0,
            Anchor::End => font::width(&self.text, self.size),
        }
    }
}
