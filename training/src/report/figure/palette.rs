//! Colours that readers with colour blindness can tell apart: Okabe and Ito's for lines, viridis for amounts.

use super::color::Color;

pub(super) const BACKGROUND: Color = Color(255, 255, 255);
pub(super) const INK: Color = Color(33, 37, 41);
/// Axes' labels and notes.
pub(super) const QUIET: Color = Color(90, 97, 105);
pub(super) const GRID: Color = Color(226, 229, 233);
pub(super) const FRAME: Color = Color(150, 157, 165);

/// Okabe and Ito (2008), without the yellow that is hard to see on white.
const LINES: [Color; 7] = [
    Color(0, 114, 178),
    Color(213, 94, 0),
    Color(0, 158, 115),
    Color(204, 121, 167),
    Color(230, 159, 0),
    Color(86, 180, 233),
    Color(33, 37, 41),
];

/// The colour of line number `index`, and whether it is dashed. Dashes tell lines of the same colour apart.
pub(super) fn line(index: usize) -> (Color, bool) {
    (LINES[index % LINES.len()], (index / LINES.len()) % 2 == 1)
}

/// Viridis at equal distances, from little to much, so that much is dark on a light page.
const AMOUNTS: [Color; 9] = [
    Color(253, 231, 37),
    Color(170, 220, 50),
    Color(94, 201, 98),
    Color(39, 173, 129),
    Color(33, 145, 140),
    Color(44, 114, 142),
    Color(59, 82, 139),
    Color(71, 45, 123),
    Color(68, 1, 84),
];

/// The colour of an amount as a share of the largest, from 0 to 1.
pub(super) fn amount(share: f32) -> Color {
    let place = share.clamp(0.0, 1.0) * (AMOUNTS.len() - 1) as f32;
    let below = (place as usize).min(AMOUNTS.len() - 2);
    let part = place - below as f32;
    let mix = |a: u8, b: u8| (f32::from(a) + (f32::from(b) - f32::from(a)) * part).round() as u8;
    let (Color(r0, g0, b0), Color(r1, g1, b1)) = (AMOUNTS[below], AMOUNTS[below + 1]);
    Color(mix(r0, r1), mix(g0, g1), mix(b0, b1))
}

/// Black or white, whichever is easier to read on `fill`.
pub(super) fn ink_on(Color(r, g, b): Color) -> Color {
    let light = 0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b);
    if light > 120.0 { INK } else { BACKGROUND }
}

#[cfg(test)]
mod tests {
    use super::super::color::Color;
    use super::{BACKGROUND, INK, amount, ink_on};

    #[test]
    fn amounts_run_from_yellow_to_purple() {
        assert_eq!((amount(0.0), amount(1.0), amount(7.0)), (Color(253, 231, 37), Color(68, 1, 84), Color(68, 1, 84)));
        assert_eq!(amount(0.5), Color(33, 145, 140));
        assert_eq!(amount(0.0625), Color(212, 226, 44));
        assert_eq!((ink_on(amount(0.0)), ink_on(amount(1.0))), (INK, BACKGROUND));
    }
}
