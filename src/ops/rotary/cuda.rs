//! The GPU's form, with its gradient.

use candle_core::{Device, Result, Tensor};

use super::Rotary;
use crate::cuda::{Matrix, Output, Params, Place, Table, launch, recorded};
use crate::ops::rows::{EACH, grid, in_eights, neighbouring};

/// `RotaryParams` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RotaryParams {
    x: u64,
    positions: u64,
    angles: u64,
    y: u64,
    stride: u64,
    rows: u32,
    heads: u32,
    half: u32,
    fast: u32,
    sign: f32,
    unused: u32,
}

// SAFETY: the struct is that of the kernel.
unsafe impl Params for RotaryParams {}

impl Rotary {
    /// The position of each token, `[T]`, and the cosines and sines of each position, `[longest, 2, half]`, uploaded once, and without
    /// a wait for what the device does.
    fn uploaded(&self, device: &Device) -> Result<[Table; 2]> {
        if let Some(uploaded) = self.uploaded.get() {
            return Ok(uploaded.clone());
        }
        let positions: Vec<u32> = self.positions.iter().map(|&position| position as u32).collect();
        let rows = self.angles.chunks(self.half);
        let rows = rows.flat_map(|row| row.iter().map(|angle| angle.0).chain(row.iter().map(|angle| angle.1)));
        let angles: Vec<f32> = rows.collect();
        let uploaded = [Table::new(&positions, device)?, Table::new(&angles, device)?];
        Ok(self.uploaded.get_or_init(|| uploaded).clone())
    }

    /// Rotates forward with `sign` 1, backward with `sign` -1.
    fn run(&self, x: &Tensor, sign: f32) -> Result<Output> {
        let rows = Matrix::of("rotary", x)?;
        let [positions, angles] = self.uploaded(x.device())?;
        let y = Output::new(x.shape(), x.dtype(), x.device())?;
        let heads = rows.width / (2 * self.half);
        let params = RotaryParams {
            x: rows.address,
            positions: positions.address()?,
            angles: angles.address()?,
            y: y.address(),
            stride: rows.stride as u64,
            rows: rows.rows as u32,
            heads: heads as u32,
            half: self.half as u32,
            fast: u32::from(self.half.is_multiple_of(EACH) && in_eights([&rows])),
            sign,
            unused: 0,
        };
        let grid = grid("rotary", rows.rows * heads * self.half.div_ceil(EACH))?;
        // SAFETY: `check` has compared the rows with the positions, each of which has angles; the output has the shape of `x`.
        unsafe { launch(&Place::of(x.device())?, "rotary", x.dtype(), grid, &params)? };
        Ok(y)
    }
}

pub(in crate::ops) fn cuda(x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
    rotary.check(x)?;
    let x = neighbouring(x)?;
    let y = rotary.run(&x, 1.0)?;
    let rotary = rotary.clone();
    // SAFETY: the kernel writes every element, in both directions.
    unsafe { recorded("rotary", [&x], y, move |_, _, dy| Ok([Some(rotary.run(&neighbouring(dy)?, -1.0)?.tensor())])) }
}
