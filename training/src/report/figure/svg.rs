//! Writes a drawing as SVG.

use std::fmt::Write;

use super::canvas::{Anchor, Canvas, Color, Shape, Stroke, Text};
use super::font;

/// The drawing as a file.
pub(super) fn svg(canvas: &Canvas) -> String {
    let (width, height, title) = (canvas.width, canvas.height, escaped(&canvas.title));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"{}\" role=\"img\">\n<title>{title}</title>\n",
        font::FAMILY
    );
    for shape in &canvas.shapes {
        draw(&mut svg, shape);
    }
    svg + "</svg>\n"
}

/// Adds a shape. Writing to a string cannot fail.
fn draw(svg: &mut String, shape: &Shape) {
    let _ = match shape {
        Shape::Rectangle { x, y, width, height, fill } => {
            let (x, y, width, height) = (short(*x), short(*y), short(*width), short(*height));
            writeln!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>", hex(*fill))
        }
        Shape::Line { points, stroke: Stroke { color, width, dashed } } => {
            let points: Vec<String> = points.iter().map(|(x, y)| format!("{},{}", short(*x), short(*y))).collect();
            let dashes = if *dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"{dashes}/>",
                points.join(" "),
                hex(*color)
            )
        }
        Shape::Disc { x, y, radius, fill } => {
            writeln!(svg, "<circle cx=\"{}\" cy=\"{}\" r=\"{radius}\" fill=\"{}\"/>", short(*x), short(*y), hex(*fill))
        }
        Shape::Text(text) => label(svg, text),
    };
}

fn label(svg: &mut String, Text { x, y, size, anchor, color, upwards, text }: &Text) -> std::fmt::Result {
    let anchor = match anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    let (x, y) = (short(*x), short(*y));
    let turn = if *upwards { format!(" transform=\"rotate(-90 {x} {y})\"") } else { String::new() };
    writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" text-anchor=\"{anchor}\" fill=\"{}\"{turn}>{}</text>",
        hex(*color),
        escaped(text)
    )
}

/// A coordinate to a hundredth of a pixel.
fn short(value: f32) -> f32 {
    (value * 100.0).round() / 100.0
}

fn hex(Color(r, g, b): Color) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// The text with XML's special characters replaced, and without the control characters that XML cannot hold.
fn escaped(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::canvas::{Anchor, Canvas, Color, Stroke};
    use super::svg;

    #[test]
    fn shapes_are_elements_of_valid_xml() {
        let mut canvas = Canvas::new(100.0, 50.0, "a < b & c");
        canvas.line(vec![(0.0, 1.0), (2.123_456, 3.0)], Stroke { color: Color(0, 114, 178), width: 1.5, dashed: true });
        canvas.disc((5.0, 6.0), 3.0, Color(255, 0, 0));
        canvas.text((7.0, 8.0), (11.0, Color(0, 0, 0)), Anchor::End, "<1 & \u{7} 2>");
        canvas.text_upwards((1.0, 2.0), (11.0, Color(0, 0, 0)), "up");
        let text = svg(&canvas);
        let document = roxmltree::Document::parse(&text).unwrap();
        let all = |name: &str| document.descendants().filter(|node| node.has_tag_name(name)).collect::<Vec<_>>();
        let counts = ["rect", "polyline", "circle", "text"].map(|name| all(name).len());
        assert_eq!(counts, [1, 1, 1, 2]);
        assert_eq!(all("title")[0].text(), Some("a < b & c"));
        assert_eq!(all("text")[0].text(), Some("<1 &   2>"));
        assert_eq!(all("polyline")[0].attribute("points"), Some("0,1 2.12,3"));
        assert_eq!(all("polyline")[0].attribute("stroke"), Some("#0072b2"));
        assert_eq!(all("text")[1].attribute("transform"), Some("rotate(-90 1 2)"));
    }
}
