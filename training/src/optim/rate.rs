//! The learning rate over a run.

/// The share of the peak rate at `step` (from 0) of `total`: linear warm-up over `warmup * total` steps, then linear decay to 0, as
/// `transformers.get_linear_schedule_with_warmup`.
#[must_use]
pub fn linear_rate(step: usize, total: usize, warmup: f64) -> f64 {
    let (step, warm) = (step as f64, (warmup * total as f64).floor());
    if step < warm { step / warm } else { ((total as f64 - step) / (total as f64 - warm).max(1.0)).max(0.0) }
}

#[cfg(test)]
mod tests {
    use super::linear_rate;

    #[test]
    fn rises_then_falls_to_zero() {
        let rates: Vec<f64> = (0..=10).map(|step| linear_rate(step, 10, 0.2)).collect();
        assert_eq!(rates, [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0]);
    }
}
