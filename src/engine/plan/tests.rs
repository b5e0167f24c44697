//! Tests what a plan promises: the rows of every question get the deltas of their own adapter at each of its sites and no others,
//! and no row is computed twice.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::params::Input;

const INPUTS: usize = Input::TOKENS.len();

const LAYERS: usize = 3;

fn points() -> impl Iterator<Item = Point> {
    (0..LAYERS * INPUTS).map(|i| Point { layer: i / INPUTS, input: Input::TOKENS[i % INPUTS] })
}

/// Texts, the points at which each adapter is active, and questions as (text, adapter).
#[derive(Debug, Clone)]
struct Batch {
    texts: Vec<Encoded>,
    active: Vec<Vec<bool>>,
    questions: Vec<(usize, usize)>,
}

impl Batch {
    fn asked(&self) -> Vec<Question<'_>> {
        let leaves = |adapter: usize| points().zip(&self.active[adapter]).find(|(_, active)| **active).map(|(p, _)| p);
        let asked = |&(text, adapter)| Question { text: &self.texts[text], adapter, leaves: leaves(adapter) };
        self.questions.iter().map(asked).collect()
    }

    /// The smallest possible number of rows at `point`: for each text, one set for each adapter that left it and one for all that
    /// did not. From `first_tokens` on, a set is one row.
    fn fewest(&self, point: Point, first_tokens: Option<Point>) -> usize {
        let asked = self.asked();
        let mut sets = BTreeSet::new();
        for Question { text, adapter, leaves } in asked {
            let left = leaves.is_some_and(|leaves| leaves <= point);
            sets.insert((&text.ids, &text.type_ids, left.then_some(adapter)));
        }
        let narrow = first_tokens.is_some_and(|from| from <= point);
        sets.into_iter().map(|(ids, ..)| if narrow { 1 } else { ids.len() }).sum()
    }
}

fn text() -> impl Strategy<Value = Encoded> {
    // Few different tokens, so that equal texts, and texts that differ only in their segments, occur.
    let token = (0u32..2, prop_oneof![9 => Just(0u32), 1 => Just(1)]);
    (prop::collection::vec(token, 1..5), any::<bool>()).prop_map(|(tokens, truncated)| {
        let (ids, type_ids) = tokens.into_iter().unzip();
        Encoded { ids, type_ids, truncated }
    })
}

/// A point from which only first tokens are computed, or none.
fn first_tokens() -> impl Strategy<Value = Option<Point>> {
    prop::option::of((0..LAYERS * INPUTS).prop_map(|i| Point { layer: i / INPUTS, input: Input::TOKENS[i % INPUTS] }))
}

fn batch() -> impl Strategy<Value = Batch> {
    // An adapter may be active at any points from its first on, and perhaps at none.
    let active =
        (0..=LAYERS * INPUTS, prop::collection::vec(any::<bool>(), LAYERS * INPUTS)).prop_map(|(first, mut on)| {
            on.iter_mut().take(first).for_each(|on| *on = false);
            on
        });
    (prop::collection::vec(text(), 1..5), prop::collection::vec(active, 1..6)).prop_flat_map(|(texts, active)| {
        let question = (0..texts.len(), 0..active.len());
        prop::collection::vec(question, 0..20).prop_map(move |questions| Batch {
            texts: texts.clone(),
            active: active.clone(),
            questions,
        })
    })
}

/// The row at each stage, from the first, from which `row` of the last stage was copied.
fn path(plan: &Plan, row: usize) -> Vec<usize> {
    let mut path = vec![row];
    for stage in plan.stages.iter().skip(1).rev() {
        path.push(stage.rows[path[path.len() - 1]] as usize);
    }
    path.reverse();
    path
}

fn adapter_of(stage: &Stage, row: usize) -> Option<usize> {
    let runs: Vec<&Run> = stage.runs.iter().filter(|run| run.rows.contains(&row)).collect();
    assert_eq!(runs.len(), 1, "row {row} in {runs:?}");
    runs[0].adapter
}

/// Checks every row of a question's text, through all stages and at all points.
fn check_rows(plan: &Plan, batch: &Batch, (text, adapter): (usize, usize), last: usize, narrow: bool) {
    let asked = batch.asked();
    let start: Vec<(u32, u32)> = plan
        .texts
        .iter()
        .flat_map(|&question| {
            asked[question].text.ids.iter().copied().zip(asked[question].text.type_ids.iter().copied())
        })
        .collect();
    let text = &batch.texts[text];
    let span = plan.last()[last]..plan.last()[last + 1];
    assert_eq!(span.len(), if narrow { 1 } else { text.ids.len() });
    for (i, row) in span.enumerate() {
        let path = path(plan, row);
        assert_eq!(start[path[0]], (text.ids[i], text.type_ids[i]), "token {i}");
        for (point, &active) in points().zip(&batch.active[adapter]) {
            let stage = plan.stages.iter().rposition(|stage| stage.from <= Some(point)).unwrap_or_default();
            let found = adapter_of(&plan.stages[stage], path[stage]);
            if active {
                assert_eq!(found, Some(adapter), "at {point:?}")
            } else {
                assert!(found.is_none_or(|found| found == adapter), "{found:?}, not {adapter}, at {point:?}")
            }
        }
    }
}

proptest! {
    #[test]
    fn questions_get_only_their_own_adapters_deltas(batch in batch(), first in first_tokens()) {
        let asked = batch.asked();
        let all: Vec<usize> = (0..asked.len()).collect();
        let plan = Plan::new(&asked, &all, first);
        let mut answered = vec![0; asked.len()];
        for Readout { adapter, texts, questions } in &plan.readouts {
            prop_assert!(texts.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(texts.len(), questions.len());
            for (&text, questions) in texts.iter().zip(questions) {
                for &question in questions {
                    answered[question] += 1;
                    prop_assert_eq!(batch.questions[question].1, *adapter);
                    check_rows(&plan, &batch, batch.questions[question], text, first.is_some());
                }
            }
        }
        prop_assert!(answered.iter().all(|&times| times == 1), "{:?}", answered);
    }

    #[test]
    fn rows_are_computed_once_and_grouped_by_adapter(batch in batch(), first in first_tokens()) {
        let asked = batch.asked();
        let plan = Plan::new(&asked, &(0..asked.len()).collect::<Vec<_>>(), first);
        for point in points() {
            prop_assert_eq!(plan.stage(point).tokens(), batch.fewest(point, first), "at {:?}", point);
            prop_assert_eq!(plan.fork(point).is_some(), plan.stages.iter().any(|stage| stage.from == Some(point)));
        }
        for (i, stage) in plan.stages.iter().enumerate() {
            prop_assert_eq!(stage.rows.len(), if i == 0 { 0 } else { stage.tokens() });
            let grows = |i: usize| stage.tokens() > plan.stages[i - 1].tokens();
            prop_assert!(i == 0 || grows(i) || stage.from == first);
            prop_assert!(stage.runs.windows(2).all(|pair| pair[0].adapter < pair[1].adapter));
        }
    }

    #[test]
    fn micro_batches_hold_each_question_once_and_keep_equal_texts_together(
        batch in batch(), least in 1usize..20, more in 0usize..20, cores in 1usize..5,
    ) {
        let asked = batch.asked();
        let all: Vec<usize> = (0..asked.len()).collect();
        let sizes = Sizes { least, most: least + more, cores };
        let micro_batches = cut(&asked, &all, |point| 1.0 - (point.layer * INPUTS + point.input as usize) as f64 / 12.0, sizes);
        let mut of = vec![None; asked.len()];
        for (index, questions) in micro_batches.iter().enumerate() {
            prop_assert!(!questions.is_empty());
            for &question in questions {
                prop_assert_eq!(of[question].replace(index), None);
            }
        }
        for (a, b) in all.iter().flat_map(|&a| all.iter().map(move |&b| (a, b))) {
            let same = (&asked[a].text.ids, &asked[a].text.type_ids) == (&asked[b].text.ids, &asked[b].text.type_ids);
            prop_assert!(of[a].is_some() && (!same || of[a] == of[b]));
        }
    }
}

/// The questions of each micro-batch.
fn cut(asked: &[Question], questions: &[usize], share: impl Fn(Point) -> f64, sizes: Sizes) -> Vec<Vec<usize>> {
    let of = |plan: &Plan| {
        let mut of: Vec<usize> = plan.readouts.iter().flat_map(|head| head.questions.concat()).collect();
        of.sort_unstable();
        of
    };
    plans(asked, questions, None, share, sizes).iter().map(of).collect()
}

fn encoded(ids: &[u32]) -> Encoded {
    Encoded { ids: ids.to_vec(), type_ids: vec![0; ids.len()], truncated: false }
}

fn at(layer: usize, input: usize) -> Option<Point> {
    Some(Point { layer, input: Input::TOKENS[input] })
}

/// The number of rows at the first point of each of the first `layers` layers.
fn by_layer(plan: &Plan, layers: usize) -> Vec<usize> {
    (0..layers).map(|layer| plan.stage(Point { layer, input: Input::Attention }).tokens()).collect()
}

#[test]
fn adapters_share_rows_until_their_first_active_site() {
    let text = encoded(&[7, 8, 9]);
    let asked: Vec<Question> = (0..8).map(|adapter| Question { text: &text, adapter, leaves: at(3, 0) }).collect();
    let plan = Plan::new(&asked, &[0, 1, 2, 3, 4, 5, 6, 7], None);
    assert_eq!(by_layer(&plan, 6), [3, 3, 3, 24, 24, 24]);
    assert_eq!(plan.stages[1].rows[..6], [0, 1, 2, 0, 1, 2]);
    // The last adapter to leave needs no copy, and a text of one adapter is never copied.
    let leaves = [at(1, 3), at(2, 0), None];
    let asked: Vec<Question> =
        (0..3).map(|adapter| Question { text: &text, adapter, leaves: leaves[adapter] }).collect();
    let plan = Plan::new(&asked, &[0, 1, 2], None);
    assert_eq!(plan.stages.iter().map(|stage| stage.from).collect::<Vec<_>>(), [None, at(1, 3), at(2, 0)]);
    assert_eq!(by_layer(&plan, 4), [3, 3, 9, 9]);
    assert_eq!(Plan::new(&asked, &[1], None).stages.len(), 1);
    // Adapters with only a head share everything.
    let asked: Vec<Question> = (0..3).map(|adapter| Question { text: &text, adapter, leaves: None }).collect();
    let plan = Plan::new(&asked, &[0, 1, 2], None);
    assert_eq!((plan.stages.len(), plan.last()), (1, &[0, 3][..]));
    assert_eq!(plan.readouts.iter().map(|head| &head.texts[..]).collect::<Vec<_>>(), [[0]; 3]);
}

#[test]
fn different_texts_are_grouped_by_adapter_and_cut_by_tokens() {
    let texts: Vec<Encoded> = (0..8).map(|i| encoded(&[i; 10])).collect();
    let asked: Vec<Question> = (0..8).map(|i| Question { text: &texts[i], adapter: i % 2, leaves: at(0, 0) }).collect();
    let all: Vec<usize> = (0..8).collect();
    let micro_batches = |asked: &[Question], least, most, cores| {
        cut(asked, &(0..asked.len()).collect::<Vec<_>>(), |_| 1.0, Sizes { least, most, cores })
    };
    assert_eq!(micro_batches(&asked, 20, 20, 1), [[0, 2], [4, 6], [1, 3], [5, 7]]);
    assert_eq!(micro_batches(&asked, 20, 30, 1).len(), 3);
    assert_eq!(micro_batches(&asked, 20, 30, 2).len(), 4, "the same number for each core");
    assert_eq!(micro_batches(&asked, 10, 80, 8).len(), 8);
    assert_eq!(micro_batches(&asked, 20, 80, 7).len(), 4, "no micro-batch below the least work");
    assert_eq!(micro_batches(&asked, 20, 80, 8).len(), 1, "half of the cores would be idle");
    assert_eq!(micro_batches(&asked, 41, 41, 1).len(), 1, "too little work for two");
    assert_eq!(Plan::new(&asked, &all, None).runs_of_first(), [(0..40, Some(0)), (40..80, Some(1))]);
    // A text with more than half of the work makes the batch run as one micro-batch.
    let long = encoded(&[1; 90]);
    let asked: Vec<Question> = [asked, vec![Question { text: &long, adapter: 0, leaves: None }]].concat();
    assert_eq!(micro_batches(&asked, 20, 20, 2).len(), 1);
}

#[test]
fn shared_texts_cost_the_rows_they_fork_into() {
    let texts: Vec<Encoded> = (0..4).map(|i| encoded(&[i; 10])).collect();
    let query = |i: usize| Question { text: &texts[i / 8], adapter: i % 8, leaves: at(3, 0) };
    let asked: Vec<Question> = (0..32).map(query).collect();
    // Half of the work is shared: 10 tokens for 8 adapters cost 5 + 8 * 5.
    let sizes = |most| Sizes { least: most, most, cores: 1 };
    let all: Vec<usize> = (0..32).collect();
    let cuts = |most| cut(&asked, &all, |_| 0.5, sizes(most)).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(cuts(45), [8, 8, 8, 8]);
    assert_eq!(cuts(46), [8, 16, 8]);
    assert_eq!(cuts(91), [32]);
}

impl Plan {
    fn runs_of_first(&self) -> Vec<(Range<usize>, Option<usize>)> {
        self.stages[0].runs.iter().map(|run| (run.rows.clone(), run.adapter)).collect()
    }
}
