//! The reference: candle's operations.

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::params::Param;

pub(in crate::ops) fn reference(lookups: &[(&Param, &[u32])], device: &Device) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (table, ids) in lookups {
        let ids = Tensor::new(*ids, device)?.to_dtype(DType::U32)?;
        let rows = table.tensor()?.index_select(&ids, 0)?;
        sum = Some(match sum {
            Some(sum) => (sum + rows)?,
            None => rows,
        });
    }
    match sum {
        Some(sum) => Ok(sum),
        None => bail!("embed: no table"),
    }
}

pub(in crate::ops) fn gather_reference(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    x.contiguous()?.index_select(&Tensor::new(rows, x.device())?, 0)
}
