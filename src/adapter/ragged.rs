//! A mixed batch: the answer of serving to the seam's questions.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::Adapter;
use crate::encoder::{Layout, Seam, Site};
use crate::kernel::{Segment, ragged_delta};

/// Which adapter each run of rows of a packed batch takes. Runs are in order and do not overlap.
#[derive(Debug)]
pub struct Mixed<'a> {
    layout: &'a Layout,
    runs: Vec<(Range<usize>, Arc<Adapter>)>,
}

impl<'a> Mixed<'a> {
    /// A batch over the sites of `layout`; `runs` are (token rows, adapter).
    #[must_use]
    pub fn new(layout: &'a Layout, runs: Vec<(Range<usize>, Arc<Adapter>)>) -> Self {
        Self { layout, runs }
    }
}

impl Seam for Mixed<'_> {
    fn project(&self, site: Site, x: &Tensor, y: Tensor) -> Result<Tensor> {
        let index = self.layout.index(site);
        let segments: Vec<Segment> = self
            .runs
            .iter()
            .filter_map(|(rows, adapter)| Some(Segment { rows: rows.clone(), delta: adapter.deltas[index].as_ref()? }))
            .collect();
        ragged_delta(x, y, &segments)
    }

    fn groups(&self, _tokens: usize) -> Vec<Range<usize>> {
        self.runs.iter().map(|(rows, _)| rows.clone()).collect()
    }

    fn project_shared(&self, site: Site, group: usize, x: &Tensor, y: Tensor) -> Result<Tensor> {
        let adapter = self.runs.get(group).map(|(_, adapter)| adapter);
        match adapter.and_then(|adapter| adapter.deltas[self.layout.index(site)].as_ref()) {
            Some(delta) => ragged_delta(x, y.copy()?, &[Segment { rows: 0..x.dim(0)?, delta }]),
            None => Ok(y),
        }
    }
}
