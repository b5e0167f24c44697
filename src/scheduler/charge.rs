//! The rule of what a request is charged, in tokens of a whole forward pass.
//!
//! Equal texts of a request form one part, which runs in one batch, because the engine computes there once what the text's adapters
//! share. The part is charged the text's tokens once, for the adapter that leaves the base last. Each further adapter adds the share
//! of the pass in which it runs alone. That share is the number of its sites from its first active one, divided by the number of all
//! its sites: within half a layer of what the engine measures by sizes ([`crate::params::Layout::share_from`]), and known without the
//! base. A question that is asked twice is charged once.
//!
//! A long text for many adapters can cost many times a batch. Then its adapters are divided among several parts, each of which computes
//! what its adapters share once more.

use std::collections::HashMap;
use std::sync::Arc;

use crate::adapter::Adapter;
use crate::engine::Row;

/// The rows of one text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Indices of the rows, in order.
    pub(super) rows: Vec<usize>,
    /// The tokens that they are charged, at least 1.
    pub(super) cost: usize,
}

/// The groups of `rows`, in order of first appearance. A text for several adapters that costs more than `most` tokens has several groups
/// of at most as many, or of one adapter.
pub(super) fn groups(rows: &[Row], most: usize) -> Vec<Group> {
    let mut places = HashMap::with_capacity(rows.len());
    let mut groups: Vec<Vec<usize>> = Vec::with_capacity(rows.len());
    for (index, Row { text, .. }) in rows.iter().enumerate() {
        let place = *places.entry((&text.ids, &text.type_ids)).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Vec::new());
        }
        groups[place].push(index);
    }
    groups.into_iter().flat_map(|indices| divided(rows, indices, most)).collect()
}

/// The rows `indices`, which have the same text, in groups of at most `most` tokens.
fn divided(rows: &[Row], indices: Vec<usize>, most: usize) -> Vec<Group> {
    let whole = cost(rows, &indices);
    if whole <= most {
        return vec![Group { cost: whole, rows: indices }];
    }
    let address = |index: usize| Arc::as_ptr(&rows[index].adapter);
    // Adapters that leave the base at about the same place share most.
    let mut ordered: Vec<(f64, usize)> = indices.iter().map(|&index| (alone(&rows[index].adapter), index)).collect();
    ordered.sort_by(|a, b| a.0.total_cmp(&b.0).then(address(a.1).cmp(&address(b.1))).then(a.1.cmp(&b.1)));
    let tokens = rows[ordered[0].1].text.ids.len() as f64;
    let mut groups: Vec<Vec<usize>> = Vec::new();
    // Of the last group: the least share, the sum of all, and the last adapter.
    let (mut least, mut sum, mut last) = (0.0, 0.0, std::ptr::null());
    for (share, index) in ordered {
        let same = address(index) == last;
        let fits = tokens * (1.0 - least + sum + share) <= most as f64;
        match groups.last_mut() {
            Some(group) if same || fits => group.push(index),
            _ => {
                groups.push(vec![index]);
                (least, sum, last) = (share, share, address(index));
                continue;
            }
        }
        if !same {
            (sum, last) = (sum + share, address(index));
        }
    }
    let group = |mut indices: Vec<usize>| {
        indices.sort_unstable();
        Group { cost: cost(rows, &indices), rows: indices }
    };
    groups.into_iter().map(group).collect()
}

/// What the rows `indices`, which have the same text, are charged.
fn cost(rows: &[Row], indices: &[usize]) -> usize {
    let mut adapters: Vec<&Arc<Adapter>> = indices.iter().map(|&index| &rows[index].adapter).collect();
    adapters.sort_unstable_by_key(|adapter| Arc::as_ptr(adapter));
    adapters.dedup_by_key(|adapter| Arc::as_ptr(adapter));
    let tokens = indices.first().map_or(0, |&index| rows[index].text.ids.len());
    // One adapter is the usual case, and needs no look at its sites.
    let passes = if adapters.len() > 1 { passes(adapters.into_iter().map(|adapter| alone(adapter))) } else { 1.0 };
    ((tokens as f64 * passes).round() as usize).max(1)
}

/// The number of whole passes that a text needs for adapters that run these shares of a pass alone.
fn passes(alone: impl Iterator<Item = f64>) -> f64 {
    let (sum, least) = alone.fold((0.0, 1.0), |(sum, least): (f64, f64), share| (sum + share, least.min(share)));
    1.0 - least + sum
}

/// The share of a pass in which the rows of `adapter` differ from the base's.
fn alone(adapter: &Adapter) -> f64 {
    let sites = &adapter.weights.sites;
    let first = sites.iter().position(|change| change.as_ref().is_some_and(|change| change.rank() > 0));
    first.map_or(0.0, |first| (sites.len() - first) as f64 / sites.len() as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use candle_core::{Device, Tensor};

    use super::*;
    use crate::adapter::{AdapterInfo, AdapterWeights, Change};
    use crate::params::Delta;
    use crate::text::Encoded;

    /// An adapter of 10 sites, of which those from `first` are active.
    fn adapter(first: usize) -> Arc<Adapter> {
        let change = || {
            let tensor = |shape| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
            Change::LowRank(Delta { a: tensor((1, 2)), b: tensor((2, 1)), scale: 1.0 })
        };
        Arc::new(Adapter {
            info: AdapterInfo { labels: Vec::new(), problem_type: None, base_fingerprint: None, base_model: None },
            weights: AdapterWeights {
                sites: (0..10).map(|site| (site >= first).then(change)).collect(),
                head: BTreeMap::new(),
            },
        })
    }

    fn row(id: u32, tokens: usize, adapter: &Arc<Adapter>) -> Row {
        let text = Encoded { ids: vec![id; tokens], type_ids: vec![0; tokens], truncated: false };
        Row { text, adapter: Arc::clone(adapter) }
    }

    fn charged(rows: &[Row]) -> Vec<(Vec<usize>, usize)> {
        groups(rows, usize::MAX).into_iter().map(|Group { rows, cost }| (rows, cost)).collect()
    }

    #[test]
    fn texts_of_one_adapter_are_charged_their_tokens() {
        let a = adapter(0);
        assert_eq!(charged(&[row(1, 10, &a), row(2, 20, &a)]), [(vec![0], 10), (vec![1], 20)]);
        assert_eq!(charged(&[row(1, 0, &a)]), [(vec![0], 1)], "a batch ends");
        assert!(charged(&[]).is_empty());
    }

    #[test]
    fn text_for_many_adapters_is_divided_where_it_costs_too_much() {
        let all: Vec<_> = (0..32).map(|_| adapter(0)).collect();
        // Every adapter is asked twice, the second time in another order.
        let asked = all.iter().chain(all.iter().rev());
        let rows: Vec<Row> = asked.map(|adapter| row(1, 100, adapter)).collect();
        let found = groups(&rows, 1000);
        assert_eq!(found.iter().map(|group| group.cost).collect::<Vec<_>>(), [1000, 1000, 1000, 200]);
        let mut indices: Vec<usize> = found.iter().flat_map(|group| group.rows.clone()).collect();
        assert!(found.iter().all(|group| group.rows.is_sorted()));
        for Group { rows: indices, .. } in &found {
            assert!(indices.iter().all(|index| indices.contains(&(63 - index))), "one question is not computed twice");
        }
        indices.sort_unstable();
        assert_eq!(indices, (0..64).collect::<Vec<_>>());
        // One adapter cannot be divided, and heads alone cost nothing.
        assert_eq!(groups(&[row(1, 100, &all[0]), row(1, 100, &all[1])], 50).len(), 2);
        let heads: Vec<Row> = (0..32).map(|_| row(1, 100, &adapter(10))).collect();
        assert_eq!(groups(&heads, 100).len(), 1);
        // Those that leave late share a group, and pay for one trunk.
        let mixed: Vec<Row> = (0..10).map(|i| row(1, 100, &adapter([0, 9][i % 2]))).collect();
        let costs: Vec<usize> = groups(&mixed, 200).iter().map(|group| group.cost).collect();
        assert_eq!(costs, [140, 200, 200, 100]);
    }

    #[test]
    fn shared_text_is_charged_once_up_to_where_adapters_leave() {
        let (all, upper, head) = (adapter(0), adapter(7), adapter(10));
        // The trunk ends with the last adapter that leaves, which takes it over.
        assert_eq!(charged(&[row(1, 100, &upper), row(1, 100, &upper)]), [(vec![0, 1], 100)], "asked twice");
        let upper = [upper, adapter(7), adapter(7)];
        let rows: Vec<Row> = upper.iter().map(|adapter| row(1, 100, adapter)).collect();
        assert_eq!(charged(&rows), [(vec![0, 1, 2], 160)], "the lower 70% once, the upper 30% three times");
        // One adapter shares nothing from the first site on.
        assert_eq!(charged(&[row(1, 100, &all), row(2, 50, &all), row(1, 100, &upper[0])])[0], (vec![0, 2], 200));
        assert_eq!(charged(&[row(1, 100, &head), row(1, 100, &adapter(10))]), [(vec![0, 1], 100)], "only heads differ");
    }
}
