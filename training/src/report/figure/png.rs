//! Writes a drawing as PNG, with two pixels for each pixel of the drawing.

use tiny_skia::{FillRule, LineJoin, Paint, Path, PathBuilder, Pixmap, Rect, Stroke as Pen, StrokeDash, Transform};
use ttf_parser::OutlineBuilder;

use super::canvas::{Canvas, Color, Shape, Stroke, Text};
use super::font;

const SCALE: f32 = 2.0;

/// The drawing as a file; `None` if it is empty or too large for memory.
pub(super) fn png(canvas: &Canvas) -> Option<Vec<u8>> {
    let (width, height) = ((canvas.width * SCALE).ceil() as u32, (canvas.height * SCALE).ceil() as u32);
    let mut pixels = Pixmap::new(width, height)?;
    for shape in &canvas.shapes {
        draw(&mut pixels, shape);
    }
    pixels.encode_png().ok()
}

/// Adds a shape. A shape without area has no path, and nothing is drawn.
fn draw(pixels: &mut Pixmap, shape: &Shape) {
    let scale = Transform::from_scale(SCALE, SCALE);
    match shape {
        Shape::Rectangle { x, y, width, height, fill } => {
            if let Some(rect) = Rect::from_xywh(*x, *y, *width, *height) {
                pixels.fill_rect(rect, &paint(*fill), scale, None);
            }
        }
        Shape::Line { points, stroke: Stroke { color, width, dashed } } => {
            let dash = if *dashed { StrokeDash::new(vec![6.0, 4.0], 0.0) } else { None };
            let pen = Pen { width: *width, line_join: LineJoin::Round, dash, ..Pen::default() };
            if let Some(path) = path_through(points) {
                pixels.stroke_path(&path, &paint(*color), &pen, scale, None);
            }
        }
        Shape::Disc { x, y, radius, fill } => {
            if let Some(path) = PathBuilder::from_circle(*x, *y, *radius) {
                pixels.fill_path(&path, &paint(*fill), FillRule::Winding, scale, None);
            }
        }
        Shape::Text(text) => {
            if let Some((path, place)) = outlines(text) {
                pixels.fill_path(&path, &paint(text.color), FillRule::Winding, place.post_concat(scale), None);
            }
        }
    }
}

fn paint(Color(r, g, b): Color) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color_rgba8(r, g, b, 255);
    paint
}

fn path_through(points: &[(f32, f32)]) -> Option<Path> {
    let mut path = PathBuilder::new();
    for (i, &(x, y)) in points.iter().enumerate() {
        if i == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
    }
    path.finish()
}

/// The outlines of a text from its begin, and where they are placed.
fn outlines(text: &Text) -> Option<(Path, Transform)> {
    let mut pen = Outline(PathBuilder::new());
    font::outline(&text.text, text.size, &mut pen);
    let turned = if text.upwards { Transform::from_rotate(-90.0) } else { Transform::identity() };
    let place = Transform::from_translate(-text.shift(), 0.0).post_concat(turned).post_translate(text.x, text.y);
    Some((pen.0.finish()?, place))
}

/// Turns the font's outlines, whose y axis points up, into a path, whose y axis points down.
struct Outline(PathBuilder);

impl OutlineBuilder for Outline {
    fn move_to(&mut self, x: f32, y: f32) {
        self.0.move_to(x, -y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.0.line_to(x, -y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.0.quad_to(x1, -y1, x, -y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.0.cubic_to(x1, -y1, x2, -y2, x, -y);
    }

    fn close(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tiny_skia::Pixmap;

    use super::super::canvas::{Anchor, Canvas, Color};
    use super::png;

    /// The number of dark pixels in each half of the picture.
    fn dark(pixels: &Pixmap) -> [usize; 2] {
        let mut halves = [0; 2];
        for (i, pixel) in pixels.pixels().iter().enumerate() {
            let right = (i as u32 % pixels.width()) >= pixels.width() / 2;
            halves[usize::from(right)] += usize::from(pixel.red() < 128);
        }
        halves
    }

    #[test]
    fn texts_are_drawn_where_their_anchor_says() {
        for (anchor, drawn) in [(Anchor::Start, [false, true]), (Anchor::End, [true, false])] {
            let mut canvas = Canvas::new(100.0, 20.0, "");
            canvas.text((50.0, 15.0), (12.0, Color(0, 0, 0)), anchor, "mmm");
            let pixels = Pixmap::decode_png(&png(&canvas).unwrap()).unwrap();
            assert_eq!((pixels.width(), pixels.height()), (200, 40));
            assert_eq!(dark(&pixels).map(|count| count > 50), drawn);
        }
    }
}
