//! Pearson's correlation. [`crate::inspect`] correlates rank maps; training correlates predictions with targets.

/// Pearson's correlation coefficient of `a` and `b`, from -1 to 1. It is `None` where it is not defined: the lengths differ, a slice
/// has fewer than two values, or all values of one slice are equal.
#[must_use]
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || is_constant(a) || is_constant(b) {
        return None;
    }
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        ab += (a - mean_a) * (b - mean_b);
        aa += (a - mean_a) * (a - mean_a);
        bb += (b - mean_b) * (b - mean_b);
    }
    // The clamp is needed because rounding may give slightly more than 1. If a value is NaN, the comparison is false.
    (aa > 0.0 && bb > 0.0).then(|| (ab / (aa * bb).sqrt()).clamp(-1.0, 1.0))
}

/// Whether all values are equal. Their computed variance need not be 0 then, because their mean is rounded.
fn is_constant(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::pearson;

    #[test]
    fn values_by_hand() {
        // Deviations (-1, 0, 1) and (-1, 1, 0): 1 / sqrt(2 * 2).
        assert_eq!(pearson(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0]), Some(0.5));
        // Deviations (-3, -1, 1, 3) / 2 and (-1, -1, -1, 3): 6 / sqrt(5 * 12).
        let found = pearson(&[1.0, 2.0, 3.0, 4.0], &[0.0, 0.0, 0.0, 4.0]).unwrap();
        assert!((found - 6.0 / 60f64.sqrt()).abs() < 1e-15, "{found}");
        assert_eq!(pearson(&[0.0, 0.0, 1.0, 1.0], &[0.0, 1.0, 0.0, 1.0]), Some(0.0));
        assert_eq!(pearson(&[1.0, 5.0, 9.0], &[1.0, 5.0, 9.0]), Some(1.0));
        assert_eq!(pearson(&[1.0, 5.0, 9.0], &[9.0, 5.0, 1.0]), Some(-1.0));
    }

    #[test]
    fn undefined_without_variance() {
        assert_eq!(pearson(&[2.0, 2.0, 2.0], &[1.0, 2.0, 3.0]), None);
        assert_eq!(pearson(&[1.0, 2.0, 3.0], &[0.0, 0.0, 0.0]), None);
        // The mean of ten times 0.1 is not 0.1 in f64.
        assert_eq!(pearson(&[0.1; 10], &[0.1; 10]), None);
        assert_eq!(pearson(&[1.0], &[2.0]), None);
        assert_eq!(pearson(&[], &[]), None);
    }

    #[test]
    fn undefined_for_unequal_lengths_and_nan() {
        assert_eq!(pearson(&[1.0, 2.0], &[1.0, 2.0, 3.0]), None);
        assert_eq!(pearson(&[1.0, f64::NAN], &[1.0, 2.0]), None);
    }

    fn pairs() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
        let pair = (0u8..20, 0u8..20).prop_map(|(a, b)| (f64::from(a), f64::from(b)));
        vec(pair, 0..80).prop_map(|pairs| pairs.into_iter().unzip())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn symmetric_and_bounded((a, b) in pairs()) {
            let found = pearson(&a, &b);
            prop_assert_eq!(found, pearson(&b, &a));
            prop_assert!(found.is_none_or(|r| (-1.0..=1.0).contains(&r)), "{:?}", found);
            prop_assert!(pearson(&a, &a).is_none_or(|r| r == 1.0));
        }

        #[test]
        fn affine_maps_change_only_the_sign((a, b) in pairs(), scale in 1i8..9, flip: bool, shift in -9i8..9) {
            let scale = if flip { -f64::from(scale) } else { f64::from(scale) };
            let mapped: Vec<f64> = a.iter().map(|x| scale * x + f64::from(shift)).collect();
            match (pearson(&a, &b), pearson(&mapped, &b)) {
                (Some(before), Some(after)) => prop_assert!((after - before * scale.signum()).abs() < 1e-12),
                (before, after) => prop_assert_eq!(before, after),
            }
        }
    }
}
