//! Divides a batch into micro-batches of nearly equal work.

use std::cmp::Reverse;

/// Divides texts of these `lengths`, in tokens, into micro-batches of about the same number of tokens: at least `least`, if there are as
/// many, and fewer than twice as many. Their number is a power of two, so that two, four or eight cores get equal work. It does not
/// depend on the number of cores, so that they do not change a run's result. Returns the texts of each micro-batch in ascending order;
/// none is empty.
///
/// The longest text goes first, each to the micro-batch that has the fewest tokens so far (Graham 1969).
#[must_use]
pub(crate) fn balanced(lengths: &[usize], least: usize) -> Vec<Vec<usize>> {
    let tokens: usize = lengths.iter().sum();
    let count = (tokens / least.max(1)).checked_ilog2().map_or(1, |exponent| 1 << exponent);
    let mut parts = vec![(0, Vec::new()); count.min(lengths.len())];
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&text| Reverse(lengths[text]));
    for text in order {
        // Every micro-batch gets a text before any gets a second one, even if texts have no tokens.
        if let Some((size, texts)) = parts.iter_mut().min_by_key(|(size, texts)| (*size, texts.len())) {
            *size += lengths[text];
            texts.push(text);
        }
    }
    let sorted = |(_, mut texts): (usize, Vec<usize>)| {
        texts.sort_unstable();
        texts
    };
    parts.into_iter().map(sorted).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::balanced;

    #[test]
    fn micro_batches_get_equal_work() {
        assert_eq!(balanced(&[5, 1, 4, 2], 6), [vec![0, 1], vec![2, 3]]);
        assert_eq!(balanced(&[3, 3, 3, 3], 3), [[0], [1], [2], [3]]);
        assert_eq!(balanced(&[9, 1], 1), [[0], [1]]);
        assert_eq!(balanced(&[0, 0], 2), [[0, 1]]);
        assert_eq!(balanced(&[7, 7, 7], usize::MAX), [[0, 1, 2]]);
        assert!(balanced(&[], 2).is_empty());
    }

    proptest! {
        #[test]
        fn every_text_is_in_one_part_of_about_the_same_size(
            lengths in prop::collection::vec(0usize..60, 1..80), least in 1usize..400,
        ) {
            let parts = balanced(&lengths, least);
            let mut all = parts.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert!(parts.iter().all(|part| part.is_sorted() && !part.is_empty()));
            let (tokens, longest) = (lengths.iter().sum::<usize>(), lengths.iter().copied().max().unwrap_or(0));
            prop_assert!(parts.len() == lengths.len() || parts.len().is_power_of_two());
            prop_assert!(parts.len() == 1 || tokens / parts.len() >= least);
            let sizes = parts.iter().map(|part| part.iter().map(|&text| lengths[text]).sum::<usize>());
            let (smallest, largest) = sizes.fold((usize::MAX, 0), |(low, high), size| (low.min(size), high.max(size)));
            prop_assert!(largest - smallest <= longest);
        }
    }
}
