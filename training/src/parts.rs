//! Divides a batch into micro-batches of nearly equal work.

use std::cmp::Reverse;

/// Divides texts of these `lengths`, in tokens, into micro-batches of about at most `most` tokens. Their number is a multiple of `groups`,
/// which run them in parallel, so that all groups end at nearly the same time. Returns the texts of each micro-batch in ascending order;
/// none is empty.
///
/// The longest text goes first, each to the micro-batch that has the fewest tokens so far (Graham 1969).
#[must_use]
pub(crate) fn balanced(lengths: &[usize], groups: usize, most: usize) -> Vec<Vec<usize>> {
    let (tokens, groups): (usize, usize) = (lengths.iter().sum(), groups.max(1));
    let rounds = tokens.div_ceil(most.saturating_mul(groups).max(1)).max(1);
    // With an unlimited size, one micro-batch takes all.
    let count = if most == usize::MAX { 1 } else { rounds * groups };
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
    fn groups_get_equal_work() {
        assert_eq!(balanced(&[5, 1, 4, 2], 2, 100), [vec![0, 1], vec![2, 3]]);
        assert_eq!(balanced(&[3, 3, 3, 3], 2, 3), [[0], [1], [2], [3]]);
        assert_eq!(balanced(&[9, 1], 4, 100), [[0], [1]]);
        assert_eq!(balanced(&[0, 0], 2, 100), [[0], [1]]);
        assert_eq!(balanced(&[7, 7, 7], 2, usize::MAX), [[0, 1, 2]]);
        assert!(balanced(&[], 2, 100).is_empty());
    }

    proptest! {
        #[test]
        fn every_text_is_in_one_part_of_about_the_same_size(
            lengths in prop::collection::vec(0usize..60, 0..80), groups in 1usize..5, most in 1usize..400,
        ) {
            let parts = balanced(&lengths, groups, most);
            let mut all = parts.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert!(parts.iter().all(|part| part.is_sorted() && !part.is_empty()));
            prop_assert!(parts.len() % groups == 0 || parts.len() == lengths.len());
            let longest = lengths.iter().copied().max().unwrap_or(0);
            let sizes = parts.iter().map(|part| part.iter().map(|&text| lengths[text]).sum::<usize>());
            let (least, largest) = sizes.fold((usize::MAX, 0), |(low, high), size| (low.min(size), high.max(size)));
            prop_assert!(parts.is_empty() || largest - least <= longest && largest < most + longest);
        }
    }
}
