//! The table of relative positions, and the rows of it that a batch needs.

use std::cell::RefCell;

use candle_core::{Result, Tensor};

use super::super::Hooks;
use super::super::layers::{Loader, Norm, is_frozen, resolve};
use crate::base::architecture::deberta::Settings;
use crate::base::{BaseConfig, ModelError};
use crate::ops::Ops;
use crate::params::Frozen;

/// The table of relative positions.
pub(super) struct Positions {
    table: Frozen,
    norm: Option<Norm>,
    span: usize,
    buckets: Buckets,
}

impl Positions {
    pub(super) fn load(
        loader: &mut Loader,
        config: &BaseConfig,
        settings: &Settings,
    ) -> std::result::Result<Self, ModelError> {
        let (span, hidden) = (settings.span(config), config.hidden_size);
        let norms = settings.norm_rel_ebd.as_deref().unwrap_or("none").to_lowercase();
        let norm = if norms.split('|').any(|each| each.trim() == "layer_norm") {
            Some(loader.norm("deberta.encoder.LayerNorm", hidden, config.layer_norm_eps, true)?)
        } else {
            None
        };
        let table = loader.take("deberta.encoder.rel_embeddings.weight", &[2 * span, hidden])?;
        let size = usize::try_from(settings.position_buckets).unwrap_or(0);
        Ok(Self { table, norm, span, buckets: Buckets { size, reach: settings.reach(config) } })
    }

    /// The relative positions of a batch whose longest text has `longest` tokens.
    pub(super) fn relative(&self, longest: usize, hooks: &dyn Hooks) -> Result<Relative> {
        let frozen = is_frozen(&self.table, hooks)?
            && match &self.norm {
                Some(norm) => norm.is_frozen(hooks)?,
                None => true,
            };
        Ok(Relative { slice: self.slice(longest), frozen, whole: self.whole(hooks)?, copies: RefCell::default() })
    }

    fn slice(&self, longest: usize) -> TableSlice {
        let farthest = longest.saturating_sub(1) as i64;
        let last = 2 * self.span as i64 - 1;
        let row = |distance| self.buckets.of(distance).saturating_add(self.span as i64).clamp(0, last) as usize;
        let all: Vec<usize> = (-farthest..=farthest).map(row).collect();
        // The last distance need not have the last row: some configurations have buckets that run backwards.
        let first = all.iter().copied().min().unwrap_or(0);
        let distances: Vec<usize> = all.into_iter().map(|row| row - first).collect();
        TableSlice { first, rows: distances.iter().max().map_or(0, |last| last + 1), distances }
    }

    /// The whole table after its norm, `[2 span, hidden]`.
    fn whole(&self, hooks: &dyn Hooks) -> Result<Tensor> {
        let table = resolve(&self.table, hooks)?.tensor()?;
        match &self.norm {
            Some(norm) => norm.without_residual(&table, hooks),
            None => Ok(table),
        }
    }
}

/// The part of the table that a batch needs: the rows of the distances in its texts.
pub(super) struct TableSlice {
    first: usize,
    pub(super) rows: usize,
    /// The row of each distance from `-(longest - 1)`, counted from `first`.
    pub(super) distances: Vec<usize>,
}

impl TableSlice {
    /// Its part of a table `[2 span, n]`.
    pub(super) fn of(&self, table: &Tensor) -> Result<Tensor> {
        table.narrow(0, self.first, self.rows)?.contiguous()
    }
}

/// The relative positions of one batch.
pub(super) struct Relative {
    pub(super) slice: TableSlice,
    pub(super) whole: Tensor,
    /// Whether the table and its norm are the base's own, so that its projections are the same for every batch.
    pub(super) frozen: bool,
    /// Copies of the batch's rows, one after another, made once for all layers.
    copies: RefCell<Option<Tensor>>,
}

impl Relative {
    /// The batch's rows of the table, `[R, hidden]`.
    pub(super) fn rows(&self) -> Result<Tensor> {
        self.slice.of(&self.whole)
    }

    /// `count` copies of [`Self::rows`], `[count * R, hidden]`.
    pub(super) fn copies(&self, count: usize, ops: &dyn Ops) -> Result<Tensor> {
        let (mut kept, rows) = (self.copies.borrow_mut(), count * self.slice.rows);
        match &*kept {
            Some(kept) if kept.dim(0)? >= rows => kept.narrow(0, 0, rows),
            _ => Ok(kept.insert(repeated(&self.rows()?, count, ops)?).clone()),
        }
    }
}

/// `count` copies of `x [R, n]`, one after another.
pub(super) fn repeated(x: &Tensor, count: usize, ops: &dyn Ops) -> Result<Tensor> {
    let rows = x.dim(0)? as u32;
    ops.gather(x, &(0..count).flat_map(|_| 0..rows).collect::<Vec<_>>())
}

/// How distances are mapped to buckets.
#[derive(Debug, Clone, Copy)]
struct Buckets {
    /// The number of buckets; 0 if every distance has its own.
    size: usize,
    reach: usize,
}

impl Buckets {
    /// `make_log_bucket_position` of `transformers`, in f32 as there.
    fn of(self, distance: i64) -> i64 {
        let middle = (self.size / 2) as i64;
        if self.size == 0 || distance.abs() <= middle {
            return distance;
        }
        let (far, mid) = (distance.unsigned_abs() as f32, middle as f32);
        let widest = ((self.reach as f64 - 1.0) / middle as f64) as f32;
        let log = ((far / mid).ln() / widest.ln() * (mid - 1.0)).ceil() + mid;
        // What is not finite becomes the least integer in PyTorch, whatever its sign.
        if log.is_finite() { log as i64 * distance.signum() } else { i64::MIN }
    }
}

#[cfg(test)]
mod tests {
    use super::Buckets;

    /// `make_log_bucket_position(distances, size, reach)`, computed by transformers 5.23.0. Where the reach is less than half of the
    /// buckets, they run backwards; where it is one more, they are infinite.
    #[test]
    fn buckets_of_a_short_reach_match_transformers() {
        const LEAST: i64 = i64::MIN;
        let small: Vec<i64> = (0..12).collect();
        let large = [100, 128, 129, 130, 200, 300, 511];
        let cases: [(usize, usize, &[i64], &[i64]); 4] = [
            (256, 64, &large, &[100, 128, 127, 126, 49, -24, -120]),
            (8, 5, &small, &[0, 1, 2, 3, 4, LEAST, LEAST, LEAST, LEAST, LEAST, LEAST, LEAST]),
            (8, 3, &small, &[0, 1, 2, 3, 4, 4, 3, 2, 1, 1, 1, 0]),
            (8, 1, &small, &[0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4]),
        ];
        for (size, reach, distances, expected) in cases {
            let buckets = Buckets { size, reach };
            let found: Vec<i64> = distances.iter().map(|&distance| buckets.of(distance)).collect();
            assert_eq!(found, expected, "{buckets:?}");
        }
    }

    /// `make_log_bucket_position(torch.arange(512), 256, 512)`, and the same for small tables, computed by transformers 5.23.0. The
    /// file lists the bucket of each distance.
    #[test]
    fn buckets_match_transformers() {
        let golden = include_str!("../../../tests/goldens/deberta_buckets.json");
        let golden: serde_json::Value = serde_json::from_str(golden).unwrap_or_default();
        let tables = golden.as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(tables.len(), 3);
        for table in tables {
            let number = |key: &str| table[key].as_u64().unwrap_or_default() as usize;
            let buckets = Buckets { size: number("size"), reach: number("reach") };
            let expected = table["buckets"].as_array().map(Vec::as_slice).unwrap_or_default();
            assert!(!expected.is_empty());
            for (distance, expected) in expected.iter().enumerate() {
                let distance = distance as i64;
                assert_eq!(Some(buckets.of(distance)), expected.as_i64(), "{distance} in {buckets:?}");
                assert_eq!(buckets.of(-distance), -buckets.of(distance));
            }
        }
    }
}
