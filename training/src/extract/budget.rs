//! Distributes one budget of parameters over the ranks of all sites.

use super::Spectrum;

/// The rank of each site that keeps the most of the squared Frobenius norm of all changes, for at most `budget` parameters.
///
/// A term of a site's decomposition saves `s^2` of the squared error for `in + out` parameters. The terms are taken by what they save for
/// each parameter. A site's singular values fall, so that its terms come in their own order, and each choice is the best for the
/// parameters spent so far. Where the next term does not fit, its site is closed and the others go on. The result differs from the
/// optimum by less than one term. Singular values that are rounding errors are never taken.
#[must_use]
pub fn ranks(spectra: &[Spectrum], budget: usize) -> Vec<usize> {
    let terms = spectra.iter().enumerate().flat_map(|(site, spectrum)| {
        let gain = |s: &f64| s * s / spectrum.cost() as f64;
        spectrum.values[..spectrum.rank()].iter().map(move |s| (gain(s), site))
    });
    let mut terms: Vec<(f64, usize)> = terms.collect();
    // The sort is stable, so that equal terms come in order of the sites.
    terms.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut ranks, mut closed, mut left) = (vec![0; spectra.len()], vec![false; spectra.len()], budget);
    for (_, site) in terms {
        let cost = spectra[site].cost();
        if !closed[site] && cost <= left {
            ranks[site] += 1;
            left -= cost;
        } else {
            closed[site] = true;
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use polyrank::params::Site;

    use super::*;

    /// A site whose change is a diagonal matrix `[rows, columns]`.
    fn diagonal(rows: usize, columns: usize, values: &[f32]) -> Spectrum {
        let mut fine = vec![0.0; rows * columns];
        for (i, value) in values.iter().enumerate() {
            fine[i * columns + i] = *value;
        }
        Spectrum::new(Site { layer: 0, module: 0 }, [rows, columns], &vec![0.0; rows * columns], &fine).unwrap()
    }

    /// The error that is left, by trying all ranks within the budget.
    fn best(spectra: &[Spectrum], budget: usize) -> f64 {
        let Some((first, rest)) = spectra.split_first() else { return 0.0 };
        let ranks = 0..=first.values.len().min(budget / first.cost());
        let error =
            |rank| first.energy(first.values.len()) - first.energy(rank) + best(rest, budget - rank * first.cost());
        ranks.map(error).fold(f64::INFINITY, f64::min)
    }

    fn error(spectra: &[Spectrum], ranks: &[usize]) -> f64 {
        spectra.iter().zip(ranks).map(|(s, &rank)| s.energy(s.values.len()) - s.energy(rank)).sum()
    }

    #[test]
    fn the_budget_is_spent_where_it_saves_most() {
        let spectra = [diagonal(4, 4, &[3.0, 2.0, 1.0, 0.5]), diagonal(4, 8, &[2.5, 0.1]), diagonal(4, 4, &[1.0, 0.9])];
        assert_eq!(ranks(&spectra, 0), [0, 0, 0]);
        assert_eq!(ranks(&spectra, 8), [1, 0, 0]);
        // The wide site's 2.5^2 / 12 is more than the third term's 1 / 8, and less than the second's 4 / 8.
        assert_eq!(ranks(&spectra, 28), [2, 1, 0]);
        for budget in 0..80 {
            let (found, spent) = (ranks(&spectra, budget), |ranks: &[usize]| -> usize {
                spectra.iter().zip(ranks).map(|(spectrum, rank)| spectrum.cost() * rank).sum()
            });
            assert!(spent(&found) <= budget, "{budget}: {found:?}");
            // Greedy is optimal up to one term, which costs at most 12.
            let bound = best(&spectra, budget.saturating_sub(12));
            let (found, best) = (error(&spectra, &found), best(&spectra, budget));
            assert!(best - 1e-9 <= found && found <= bound + 1e-9, "{budget}: {found} of {best} to {bound}");
        }
    }

    #[test]
    fn zeros_cost_nothing_and_a_large_budget_is_not_used_up() {
        let spectra = [diagonal(4, 4, &[3.0, 2.0]), diagonal(4, 4, &[])];
        assert_eq!(ranks(&spectra, 1_000), [2, 0]);
        assert_eq!(error(&spectra, &[2, 0]), 0.0);
    }
}
