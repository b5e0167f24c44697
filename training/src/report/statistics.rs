//! The mean and the standard deviation over seeds.

/// The mean of some values, and how they spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistic {
    /// The number of values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, with `n - 1`; `None` for one value.
    pub deviation: Option<f64>,
}

impl Statistic {
    /// The statistic of `values`; `None` if there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        Some(Self { n, mean, deviation })
    }
}

#[cfg(test)]
mod tests {
    use super::Statistic;

    #[test]
    fn deviation_divides_by_one_less_than_the_number_of_values() {
        let expected = Statistic { n: 4, mean: 5.0, deviation: Some(2.0) };
        // The squares of the distances are 1, 1, 1 and 9; a third of their sum is 4.
        assert_eq!(Statistic::of(&[4.0, 4.0, 4.0, 8.0]), Some(expected));
        assert_eq!(Statistic::of(&[0.5]), Some(Statistic { n: 1, mean: 0.5, deviation: None }));
        assert_eq!(Statistic::of(&[]), None);
    }
}
