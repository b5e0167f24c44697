//! The GPU's form: one launch for all tables, with the gradients of trained tables. A gather of rows is the same with one table.

use candle_core::{D, DType, Device, Result, Tensor, bail};

use crate::cuda::{Matrix, Output, Params, Place, Table, launch, recorded};
use crate::ops::rows::{EACH, grid, in_eights, neighbouring};
use crate::params::Param;

/// The largest number of tables, `EMBED_TABLES` in `kernels.cu`.
const TABLES: usize = 4;

/// `EmbedParams` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct EmbedParams {
    tables: [u64; TABLES],
    strides: [u64; TABLES],
    ids: u64,
    y: u64,
    tokens: u32,
    width: u32,
    number: u32,
    wide: u32,
    fast: u32,
    unused: u32,
}

/// `EmbedBackwardParams` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct EmbedBackwardParams {
    dy: u64,
    starts: u64,
    tokens: u64,
    y: u64,
    stride: u64,
    rows: u32,
    width: u32,
    fast: u32,
    unused: u32,
}

// SAFETY: the structs are those of the kernels.
unsafe impl Params for EmbedParams {}
// SAFETY: the struct is that of the kernel, field by field, without padding.
unsafe impl Params for EmbedBackwardParams {}

/// A table, its name in errors, and the ids that are looked up in it.
struct Lookup<'a> {
    table: Tensor,
    name: &'a str,
    ids: &'a [u32],
}

/// The sum of the rows in `dtype`. Tables are in that type or in f32.
fn forward(lookups: &[Lookup], dtype: DType, device: &Device) -> Result<Output> {
    let Some(first) = lookups.first() else { bail!("embed: no table") };
    let (tokens, width) = (first.ids.len(), first.table.dim(D::Minus1)?);
    if lookups.len() > TABLES {
        bail!("embed: {} tables, at most {TABLES} fit", lookups.len());
    }
    let y = Output::new((tokens, width), dtype, device)?;
    let (mut tables, mut strides, mut wide, mut fast) = ([0; TABLES], [0; TABLES], 0, true);
    let mut ids = Vec::with_capacity(lookups.len() * tokens);
    for (k, lookup) in lookups.iter().enumerate() {
        let table = Matrix::of("embed", &lookup.table)?;
        if table.width != width || lookup.ids.len() != tokens {
            bail!("embed: tables of different width, or ids of different length");
        }
        if let Some(id) = lookup.ids.iter().find(|&&id| id as usize >= table.rows) {
            bail!("embed: {} has {} rows, asked for row {id}", lookup.name, table.rows);
        }
        if table.dtype != dtype && table.dtype != DType::F32 {
            bail!("embed: {} is {:?}, the others are {dtype:?}", lookup.name, table.dtype);
        }
        (tables[k], strides[k]) = (table.address, table.stride as u64);
        wide |= u32::from(table.dtype == DType::F32) << k;
        fast &= in_eights([&table]);
        ids.extend_from_slice(lookup.ids);
    }
    let ids = Table::new(&ids, device)?;
    let params = EmbedParams {
        tables,
        strides,
        ids: ids.address()?,
        y: y.address(),
        tokens: tokens as u32,
        width: width as u32,
        number: lookups.len() as u32,
        wide,
        fast: u32::from(fast),
        unused: 0,
    };
    let grid = grid("embed", tokens * width.div_ceil(EACH))?;
    // SAFETY: the loop above has checked widths, types, and every id against its table.
    unsafe { launch(&Place::of(device)?, "embed", dtype, grid, &params)? };
    Ok(y)
}

/// The gradient of `table [n, width]`, in whose rows `ids [T]` were looked up, for the gradient `dy [T, width]` of the result.
fn backward(table: &Tensor, ids: &[u32], dy: &Tensor) -> Result<Tensor> {
    let ((rows, width), device) = (table.dims2()?, table.device());
    let mut starts = vec![0u32; rows + 1];
    for &id in ids {
        starts[id as usize + 1] += 1;
    }
    for row in 0..rows {
        starts[row + 1] += starts[row];
    }
    let mut tokens: Vec<u32> = (0..ids.len() as u32).collect();
    tokens.sort_by_key(|&token| ids[token as usize]);
    let (starts, tokens) = (Table::new(&starts, device)?, Table::new(&tokens, device)?);
    let dy = neighbouring(dy)?;
    let (from, y) = (Matrix::of("embed", &dy)?, Output::new((rows, width), DType::F32, device)?);
    let params = EmbedBackwardParams {
        dy: from.address,
        starts: starts.address()?,
        tokens: tokens.address()?,
        y: y.address(),
        stride: from.stride as u64,
        rows: rows as u32,
        width: width as u32,
        fast: u32::from(in_eights([&from])),
        unused: 0,
    };
    let grid = grid("embed", rows * width.div_ceil(EACH))?;
    // SAFETY: the forward pass has checked the ids, so every row's tokens lie inside `dy`; the kernel writes every row.
    let gradient = unsafe {
        launch(&Place::of(device)?, "embed_backward", dy.dtype(), grid, &params)?;
        y.tensor()
    };
    gradient.to_dtype(table.dtype())
}

/// The type of the result: that of the frozen tables, which are in the type of the activations, or of all if all are trained.
fn dtype(lookups: &[(&Param, &[u32])]) -> Result<DType> {
    let mut dtype = DType::F32;
    for (table, _) in lookups {
        let found = table.tensor()?.dtype();
        if found != DType::F32 {
            dtype = found;
        }
    }
    Ok(dtype)
}

pub(in crate::ops) fn cuda(lookups: &[(&Param, &[u32])], device: &Device) -> Result<Tensor> {
    let dtype = dtype(lookups)?;
    let lookups = lookups.iter().map(|(table, ids)| {
        let name = match table {
            Param::Frozen(frozen) => frozen.name(),
            Param::Tensor(_) => "a trained table",
        };
        Ok(Lookup { table: neighbouring(&table.tensor()?)?, name, ids })
    });
    let lookups: Vec<Lookup> = lookups.collect::<Result<_>>()?;
    sum(&lookups, dtype, device)
}

/// The rows `rows` of `x [n, width]`.
pub(in crate::ops) fn gather_cuda(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let lookup = Lookup { table: neighbouring(x)?, name: "the tensor", ids: rows };
    sum(&[lookup], x.dtype(), x.device())
}

/// The sum of the rows, with the gradients of the tables that are tracked.
fn sum(lookups: &[Lookup], dtype: DType, device: &Device) -> Result<Tensor> {
    let y = forward(lookups, dtype, device)?;
    let trained: Vec<&Lookup> = lookups.iter().filter(|lookup| lookup.table.track_op()).collect();
    let ids: Vec<Box<[u32]>> = trained.iter().map(|lookup| Box::from(lookup.ids)).collect();
    let trained: Vec<&Tensor> = trained.iter().map(|lookup| &lookup.table).collect();
    let gradient = move |k: usize, table: &Tensor, dy: &Tensor| backward(table, &ids[k], dy).map(Some);
    // SAFETY: the kernel writes every token's row.
    unsafe {
        match trained[..] {
            [] => Ok(y.tensor()),
            [a] => recorded("embed", [a], y, move |[a], _, dy| Ok([gradient(0, a, dy)?])),
            [a, b] => recorded("embed", [a, b], y, move |[a, b], _, dy| Ok([gradient(0, a, dy)?, gradient(1, b, dy)?])),
            [a, b, c] => recorded("embed", [a, b, c], y, move |[a, b, c], _, dy| {
                Ok([gradient(0, a, dy)?, gradient(1, b, dy)?, gradient(2, c, dy)?])
            }),
            _ => bail!("embed: {} trained tables, at most 3 fit", trained.len()),
        }
    }
}
