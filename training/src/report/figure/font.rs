//! The font of the figures: DejaVu Sans with the characters of Latin-1 and a few signs, so that figures do not depend on the fonts of
//! a machine. `font/README.md` has the command that made the file, and its licence.

use ttf_parser::{Face, GlyphId, OutlineBuilder};

const FILE: &[u8] = include_bytes!("../font/DejaVuSans.ttf");

/// The families that an SVG asks for. Verdana has nearly the same widths.
pub(super) const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

fn face() -> Option<Face<'static>> {
    Face::parse(FILE, 0).ok()
}

fn advance(face: &Face<'_>, glyph: GlyphId) -> f32 {
    f32::from(face.glyph_hor_advance(glyph).unwrap_or(0))
}

/// The glyph of `c`; the sign for a missing glyph if the font does not have it.
fn glyph(face: &Face<'_>, c: char) -> GlyphId {
    face.glyph_index(c).unwrap_or(GlyphId(0))
}

/// The width of a text in pixels.
pub(super) fn width(text: &str, size: f32) -> f32 {
    let Some(face) = face() else { return 0.0 };
    text.chars().map(|c| advance(&face, glyph(&face, c))).sum::<f32>() * size / f32::from(face.units_per_em())
}

/// Draws the outlines of a text with `pen`, which gets points in pixels: x to the right of the text's begin, and y up from its base
/// line.
pub(super) fn outline(text: &str, size: f32, pen: &mut dyn OutlineBuilder) {
    let Some(face) = face() else { return };
    let scale = size / f32::from(face.units_per_em());
    let mut x = 0.0;
    for c in text.chars() {
        let glyph = glyph(&face, c);
        face.outline_glyph(glyph, &mut Moved { pen, x, scale });
        x += advance(&face, glyph) * scale;
    }
}

/// Scales and moves the points of a glyph.
struct Moved<'a> {
    pen: &'a mut dyn OutlineBuilder,
    x: f32,
    scale: f32,
}

impl OutlineBuilder for Moved<'_> {
    fn move_to(&mut self, x: f32, y: f32) {
        self.pen.move_to(self.x + x * self.scale, y * self.scale);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.pen.line_to(self.x + x * self.scale, y * self.scale);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let Self { pen, x: left, scale } = self;
        pen.quad_to(*left + x1 * *scale, y1 * *scale, *left + x * *scale, y * *scale);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let Self { pen, x: left, scale } = self;
        let (x1, x2, x) = (*left + x1 * *scale, *left + x2 * *scale, *left + x * *scale);
        pen.curve_to(x1, y1 * *scale, x2, y2 * *scale, x, y * *scale);
    }

    fn close(&mut self) {
        self.pen.close();
    }
}

#[cfg(test)]
mod tests {
    use super::{face, width};

    #[test]
    fn font_has_the_characters_of_figures() {
        let face = face().expect("the file is a font");
        for c in "azAZ09 .,%()=+-–—·×±−…→ξλαéüß".chars() {
            assert!(face.glyph_index(c).is_some(), "{c}");
        }
        // DejaVu's digits are 0.636 of the size wide.
        assert!((width("00", 10.0) - 12.72).abs() < 0.02);
    }
}
