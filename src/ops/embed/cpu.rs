//! The CPU's form: reads only the requested rows of mapped tables. It has no gradient, so it runs only if all tables are frozen.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::reference;
use crate::cpu::rows_per_task;
use crate::params::Param;

pub(in crate::ops) fn cpu(lookups: &[(&Param, &[u32])], device: &Device) -> Result<Tensor> {
    let mut mapped = Vec::with_capacity(lookups.len());
    for (table, ids) in lookups {
        match table {
            Param::Frozen(frozen) => match (frozen.slice(), frozen.shape()) {
                (Some(rows), &[n, width]) => {
                    if let Some(id) = ids.iter().find(|&&id| id as usize >= n) {
                        bail!("embed: {} has {n} rows, asked for row {id}", frozen.name());
                    }
                    mapped.push((rows, width, *ids));
                }
                _ => return reference(lookups, device),
            },
            Param::Tensor(_) => return reference(lookups, device),
        }
    }
    let Some(&(_, width, first)) = mapped.first() else { bail!("embed: no table") };
    if mapped.iter().any(|&(_, w, ids)| w != width || ids.len() != first.len()) {
        bail!("embed: tables of different width, or ids of different length");
    }
    let mut out = vec![0.0; first.len() * width];
    let rows = rows_per_task(width);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(chunk, out)| {
        for (t, out) in (chunk * rows..).zip(out.chunks_exact_mut(width)) {
            for &(table, _, ids) in &mapped {
                let start = ids[t] as usize * width;
                for (out, value) in out.iter_mut().zip(&table[start..start + width]) {
                    *out += value;
                }
            }
        }
    });
    Tensor::from_vec(out, (first.len(), width), device)
}
