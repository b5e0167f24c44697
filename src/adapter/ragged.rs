//! A mixed batch: the answer of serving to the seam's questions.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::Adapter;
use crate::encoder::{Layout, Seam, Site};
use crate::kernel::{Segment, ragged_delta, ragged_deltas};

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

    /// The runs whose adapter has something to add at `site`.
    fn segments(&self, site: Site) -> Vec<Segment<'_>> {
        let index = self.layout.index(site);
        self.runs
            .iter()
            .filter_map(|(rows, adapter)| Some(Segment { rows: rows.clone(), delta: adapter.deltas[index].as_ref()? }))
            .collect()
    }
}

impl Seam for Mixed<'_> {
    fn project(&self, site: Site, x: &Tensor, y: Tensor) -> Result<Tensor> {
        ragged_delta(x, y, &self.segments(site))
    }

    fn project_all(&self, sites: &[Site], x: &Tensor, linear: &dyn Fn(usize) -> Result<Tensor>) -> Result<Vec<Tensor>> {
        let segments: Vec<_> = sites.iter().map(|&site| self.segments(site)).collect();
        ragged_deltas(x, &segments, linear)
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
