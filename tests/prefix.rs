//! Equal texts for several adapters run once until each adapter's first active site. The answers are the same as for each text alone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use polyrank::adapter::{Adapter, AdapterWeights, Change};
use polyrank::encoder::{Fork, Hooks, Packed};
use polyrank::engine::plan::{Plan, Question};
use polyrank::engine::{Mixed, Row};
use polyrank::ops::Added;
use polyrank::params::{Delta, Input, Layout, Point, Site};
use polyrank::text::Encoded;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::parity::{Golden, goldens, worst};

/// An adapter with random deltas at the sites for which `active` is true, and with the head of `donor`.
fn random(donor: &Adapter, layout: &Layout, seed: u64, active: impl Fn(Site) -> bool) -> Arc<Adapter> {
    let mut rng = StdRng::seed_from_u64(seed);
    let device = donor.weights.head.values().next().unwrap().device().clone();
    let mut tensor = |shape: (usize, usize)| {
        let values: Vec<f32> = (0..shape.0 * shape.1).map(|_| rng.random_range(-0.5..0.5)).collect();
        Tensor::from_vec(values, shape, &device).unwrap()
    };
    let mut delta = |site: Site| {
        let (module, rank) = (layout.module(site), 1 + (seed as usize + layout.index(site)) % 4);
        Delta { a: tensor((rank, module.in_features)), b: tensor((module.out_features, rank)), scale: 0.7 }
    };
    let sites = layout.sites().map(|site| active(site).then(|| Change::LowRank(delta(site)))).collect();
    Arc::new(Adapter { weights: AdapterWeights { sites, head: donor.weights.head.clone() }, ..donor.clone() })
}

/// These adapters: peft's; for each point, one that is first active there (with gaps after it); one that changes only the relative
/// positions, if the base has linears for them; one with a delta at the last site only; and two without any delta.
fn adapters(golden: &Golden) -> Vec<Arc<Adapter>> {
    let layout = golden.engine.layout();
    let mut all: Vec<Arc<Adapter>> = golden.adapters().into_iter().map(|(_, adapter, _)| adapter).collect();
    let donor = Arc::clone(&all[0]);
    let last = layout.sites().max_by_key(|&site| layout.point(site)).unwrap();
    const INPUTS: usize = Input::TOKENS.len();
    for i in 0..layout.layers * INPUTS {
        let point = Point { layer: i / INPUTS, input: Input::TOKENS[i % INPUTS] };
        let active =
            |site| layout.point(site) == point || (layout.point(site) > point && layout.index(site) % 3 != i % 3);
        all.push(random(&donor, layout, i as u64, active));
        assert_eq!(all[all.len() - 1].leaves(layout), Some(point));
    }
    if layout.modules.iter().any(|module| module.input == Input::Positions) {
        let active = |site: Site| site.layer > 0 && layout.module(site).input == Input::Positions;
        all.push(random(&donor, layout, 100, active));
        assert_eq!(all[all.len() - 1].leaves(layout), Some(Point { layer: 1, input: Input::Attention }));
    }
    all.push(random(&donor, layout, 101, |site| site == last));
    all.extend([0, 1].map(|seed| random(&donor, layout, seed, |_| false)));
    all
}

fn row(text: &Encoded, adapter: &Arc<Adapter>) -> Row {
    Row { text: text.clone(), adapter: Arc::clone(adapter) }
}

/// Checks that `rows`, in batches of `size`, give the same answers as each row alone. If a row's largest logit is above 1, the
/// difference is divided by it.
fn answers_as_alone(golden: &Golden, rows: &[Row], size: usize, tolerance: f32) {
    for batch in rows.chunks(size) {
        for (row, found) in batch.iter().zip(golden.engine.logits(batch).unwrap()) {
            let alone = golden.engine.logits(std::slice::from_ref(row)).unwrap().remove(0);
            let unit = alone.iter().fold(1.0f32, |unit, logit| unit.max(logit.abs()));
            let apart = worst(&found, &alone) / unit;
            assert!(apart <= tolerance, "{}, batches of {size}: {found:?}, alone {alone:?}", golden.base);
        }
    }
}

#[test]
fn equal_texts_of_several_adapters_answer_as_alone() {
    for golden in goldens() {
        let (adapters, mut texts) = (adapters(&golden), golden.texts());
        // Kernels of the GPU take long on the CPU.
        texts.truncate(if golden.emulates_a_gpu() { 2 } else { usize::MAX });
        let mut rows: Vec<Row> = texts.iter().flat_map(|text| adapters.iter().map(move |a| row(text, a))).collect();
        // One text is there twice for one adapter, and one text is there for one adapter only.
        rows.push(rows[3].clone());
        let reversed = Encoded { ids: texts[0].ids.iter().rev().copied().collect(), ..texts[0].clone() };
        rows.push(row(&reversed, &adapters[1]));
        rand::seq::SliceRandom::shuffle(&mut rows[..], &mut StdRng::seed_from_u64(5));
        // All rows run in one batch, and then in smaller batches, which split the rows of one text.
        answers_as_alone(&golden, &rows, rows.len(), 1e-5);
        answers_as_alone(&golden, &rows, 37, 1e-5);
    }
}

/// Products of a large batch round differently from those of a short text. Up to 64 rows they round alike, except in a convolution,
/// and so a shared text gives the same answers as alone.
#[test]
fn short_text_of_several_adapters_answers_as_alone_to_rounding() {
    for golden in goldens() {
        let adapters = adapters(&golden);
        for text in golden.texts().into_iter().take(3) {
            let cut = |list: &[u32]| list.iter().copied().take(4).collect();
            let text = Encoded { ids: cut(&text.ids), type_ids: cut(&text.type_ids), truncated: true };
            let rows: Vec<Row> = adapters.iter().map(|adapter| row(&text, adapter)).collect();
            // Packed and unpacked products sum in different orders. The difference depends on the machine's vector width.
            answers_as_alone(&golden, &rows, 15, 1e-5);
        }
    }
}

/// The hooks of a batch, which record how many rows the encoder has at each site.
struct Counting<'a> {
    mixed: Mixed<'a>,
    rows: RefCell<BTreeMap<Site, Vec<usize>>>,
}

impl Hooks for Counting<'_> {
    fn added(&self, site: Site) -> Result<Added<'_>> {
        self.mixed.added(site)
    }

    fn after(&self, site: Site, h: Tensor) -> Result<Tensor> {
        self.rows.borrow_mut().entry(site).or_default().push(h.dim(0)?);
        Ok(h)
    }

    fn fork(&self, point: Point) -> Option<Fork<'_>> {
        self.mixed.fork(point)
    }

    fn groups(&self, layer: usize, tokens: usize) -> Vec<Range<usize>> {
        self.mixed.groups(layer, tokens)
    }

    fn group_delta(&self, site: Site, group: usize) -> Option<&Delta> {
        self.mixed.group_delta(site, group)
    }
}

#[test]
fn every_encoder_runs_the_planned_rows() {
    for golden in goldens() {
        let (adapters, texts, layout) = (adapters(&golden), golden.texts(), golden.engine.layout());
        let ask = |text| {
            let ask = move |(adapter, a): (usize, &Arc<Adapter>)| Question { text, adapter, leaves: a.leaves(layout) };
            adapters.iter().enumerate().map(ask)
        };
        let asked: Vec<Question> = texts[..2].iter().flat_map(ask).collect();
        for first in [None, golden.engine.encoder().first_tokens_from()] {
            let plan = Plan::new(&asked, &(0..asked.len()).collect::<Vec<_>>(), first);
            let batch = Packed::new(plan.texts.iter().map(|&question| asked[question].text));
            let hooks = Counting { mixed: Mixed::new(layout, &plan, &adapters), rows: RefCell::default() };
            golden.engine.encoder().forward(&batch, &hooks).unwrap();
            let tokens: usize = texts[..2].iter().map(|text| text.ids.len()).sum();
            let rows = hooks.rows.into_inner();
            for site in layout.sites().filter(|&site| layout.module(site).input != Input::Positions) {
                let point = layout.point(site);
                let left =
                    adapters.iter().filter(|adapter| adapter.leaves(layout).is_some_and(|at| at <= point)).count();
                // Adapters without any delta share the rows of the base to the end.
                // The batch's tokens come first. Relative positions, which DeBERTa projects by the same linears, come after them.
                let each = if first.is_some_and(|first| first <= point) { 2 } else { tokens };
                assert_eq!(rows[&site][0], each * (left + 1), "{} at {site:?}", golden.base);
                assert!(rows[&site].len() == 1 || golden.base.contains("deberta"), "{} at {site:?}", golden.base);
            }
        }
    }
}
