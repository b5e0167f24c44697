//! Scales of axes: which values get a tick, how it is written, and where a value lies.

/// An axis that maps values to `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    /// The distance of ticks on a linear axis.
    step: f64,
    log: bool,
}

impl Axis {
    /// A linear axis that holds all of `values`, from one tick to another. `None` if no value is finite.
    pub(super) fn linear(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (least, most) = extent(values)?;
        let (least, most) = if least == most { (least - 0.5, most + 0.5) } else { (least, most) };
        let step = step(most - least);
        Some(Self { from: (least / step).floor() * step, to: (most / step).ceil() * step, step, log: false })
    }

    /// A linear axis from the least to the largest of `values`.
    pub(super) fn exact(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (from, to) = extent(values)?;
        let to = if from == to { from + 1.0 } else { to };
        Some(Self { from, to, step: step(to - from), log: false })
    }

    /// A logarithmic axis with some room around `values`, of which only positive ones count.
    pub(super) fn log(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (least, most) = extent(values.filter(|value| *value > 0.0))?;
        Some(Self { from: least / 1.15, to: most * 1.15, step: 0.0, log: true })
    }

    /// Where a value lies, from 0 to 1.
    pub(super) fn place(&self, value: f64) -> f32 {
        let Self { from, to, log, .. } = *self;
        let share = if log { (value / from).ln() / (to / from).ln() } else { (value - from) / (to - from) };
        share as f32
    }

    /// The values with a tick, and how they are written.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        if self.log { self.log_ticks() } else { self.linear_ticks() }
    }

    fn linear_ticks(&self) -> Vec<(f64, String)> {
        let step = self.step;
        let digits = (-step.log10().floor()).max(0.0) as usize;
        let (first, last) = ((self.from / step - 1e-6).ceil() as i64, (self.to / step + 1e-6).floor() as i64);
        let large = self.to.abs().max(self.from.abs()) >= 10_000.0;
        let small = step < 1e-4;
        let written = |value: f64| match (large, small) {
            (true, _) => short(value),
            (_, true) => scientific(value),
            _ => format!("{value:.digits$}"),
        };
        (first..=last).map(|i| i as f64 * step).map(|value| (value, written(value))).collect()
    }

    /// 1, 2 and 5 times powers of ten where these are few, else powers of ten. An axis on which fewer than two of them lie has the first
    /// and the last round number in their place.
    fn log_ticks(&self) -> Vec<(f64, String)> {
        let decades = (self.to / self.from).log10();
        let factors: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let (first, last) = (self.from.log10().floor() as i32, self.to.log10().ceil() as i32);
        let all = (first..=last).flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)));
        let within: Vec<f64> = all.filter(|value| (self.from..=self.to).contains(value)).collect();
        let ticks = if within.len() < 2 { self.round_ends().to_vec() } else { within };
        ticks.into_iter().map(|value| (value, short(value))).collect()
    }

    /// The least and the largest value on the axis with two digits other than zero.
    fn round_ends(&self) -> [f64; 2] {
        let unit = |value: f64| 10_f64.powf(value.log10().floor() - 1.0);
        let (below, above) = (unit(self.from), unit(self.to));
        [(self.from / below).ceil() * below, (self.to / above).floor() * above]
    }
}

/// The least and the largest finite value.
fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |range, value| {
        let (least, most) = range.unwrap_or((value, value));
        Some((value.min(least), value.max(most)))
    })
}

/// A distance of ticks that makes about five of them: 1, 2 or 5 times a power of ten.
fn step(span: f64) -> f64 {
    let power = 10_f64.powf((span / 5.0).log10().floor());
    let factor = span / 5.0 / power;
    // A few ticks more than five are better than three.
    let nearest = [1.0, 2.0, 5.0, 10.0].into_iter().find(|nice| factor <= nice * 1.3).unwrap_or(10.0);
    nearest * power
}

/// `50k`, `1.5M`.
pub(super) fn short(value: f64) -> String {
    let (divided, unit) = match value.abs() {
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let rounded = (divided * 100.0).round() / 100.0;
    format!("{rounded}{unit}")
}

/// `2e-5`, `2.5e-4`, and `0` for zero.
fn scientific(value: f64) -> String {
    if value == 0.0 { "0".to_owned() } else { format!("{value:.1e}").replace(".0e", "e") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Axis;

    fn written(axis: Option<Axis>) -> Vec<String> {
        axis.unwrap().ticks().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        let linear = |values: [f64; 2]| written(Axis::linear(values.into_iter()));
        assert_eq!(linear([0.0, 1.0]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(linear([71.3, 98.0]), ["70", "75", "80", "85", "90", "95", "100"]);
        assert_eq!(linear([3.0, 3.0]), ["2.4", "2.6", "2.8", "3.0", "3.2", "3.4", "3.6"]);
        assert_eq!(linear([0.0, 5e-5]), ["0", "1e-5", "2e-5", "3e-5", "4e-5", "5e-5"]);
        assert_eq!(linear([0.0, 3e-4]), ["0", "5e-5", "1e-4", "1.5e-4", "2e-4", "2.5e-4", "3e-4"]);
        assert_eq!(linear([0.0, 40_000.0]), ["0", "10k", "20k", "30k", "40k"]);
        let log = |values: [f64; 2]| written(Axis::log(values.into_iter()));
        assert_eq!(log([4096.0, 47_104.0]), ["5k", "10k", "20k", "50k"]);
        assert_eq!(log([0.0, 500.0]), ["440", "570"]);
        assert_eq!(log([280_000.0, 330_000.0]), ["250k", "370k"]);
        assert_eq!(log([10.0, 1e6]), ["10", "100", "1k", "10k", "100k", "1M"]);
        assert!(Axis::linear([f64::NAN].into_iter()).is_none() && Axis::log([0.0].into_iter()).is_none());
    }

    #[test]
    fn values_lie_between_the_ends() {
        let axis = Axis::exact([10.0, 30.0].into_iter()).unwrap();
        assert_eq!([10.0, 20.0, 30.0].map(|value| axis.place(value)), [0.0, 0.5, 1.0]);
        let axis = Axis::log([1.0, 100.0].into_iter()).unwrap();
        assert!((axis.place(10.0) - 0.5).abs() < 1e-6);
    }
}
