//! Linears with the deltas that training adapts, on a GPU. Launches cost more than the work there, so that linears which read the same
//! `x` are one operation, and candle sees no gradient but that of `x`: the backward pass adds the gradients of all `A` and `B` to
//! memory that [`TrainedDelta`] names. It consists of one product and two launches; `trained.cu` has the kernels.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Result, Tensor, bail};

use super::finish::{TARGETS, TypedDelta, Unfinished, finish};
use super::operands::{adjoin, bias_of, places, products, tracked_parameter, typed_weight};
use super::training::{like, of, whole};
use super::{Added, Linear};
use crate::cuda::{Factor, Grid, Matrix, Output, Params, Place, address, gemm, launch, recorded};
use crate::ops::gelu;
use crate::params::Delta;

/// A delta in training on a GPU.
#[derive(Debug, Clone)]
pub struct TrainedDelta {
    /// `A` and `B` without gradients. Nothing is converted if they are in the type of the activations, and B is stored rank by rank.
    pub delta: Delta,
    /// The gradients of `A`, `[rank, in]`, and of B's transpose, `[rank, out]`: f32, contiguous, and in nobody else's use during a
    /// backward pass, which adds to them in place.
    pub gradients: [Tensor; 2],
    /// Any variable, which gets no gradient. It makes candle run the backward pass even if `x` needs no gradient.
    pub anchor: Tensor,
}

/// `THREADS`, `WARPS`, `RANKS`, `DOT_ROWS`, `OUTER_COLUMNS`, `WIDE_ROWS` and `TASKS` in `trained.cu`.
const THREADS: usize = 256;
const WARPS: usize = THREADS / 32;
const RANKS: usize = 8;
const DOT_ROWS: usize = 4;
const OUTER_COLUMNS: usize = 32;
const WIDE_ROWS: usize = 4;
const TASKS: usize = 2 * TARGETS;

/// `DotTask` in `trained.cu`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct DotTask {
    x: u64,
    m: u64,
    h: u64,
    copy: u64,
    x_stride: u32,
    width: u32,
    rank: u32,
    h_stride: u32,
    copy_stride: u32,
    first: u32,
    fast: u32,
    scale: f32,
}

/// `OuterTask` in `trained.cu`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct OuterTask {
    h: u64,
    m: u64,
    sums: u64,
    h_stride: u32,
    m_stride: u32,
    width: u32,
    rank: u32,
    first: u32,
    fast: u32,
}

/// `DotParams` in `trained.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct DotParams {
    tasks: [DotTask; TASKS],
    count: u32,
    rows: u32,
}

/// `Piece` in `trained.cu`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Piece {
    a: u64,
    column: u32,
    rank: u32,
}

/// `OuterParams` in `trained.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct OuterParams {
    tasks: [OuterTask; TASKS],
    pieces: [Piece; TARGETS],
    dx: u64,
    dh: u64,
    dh_stride: u32,
    width: u32,
    piece_count: u32,
    fast: u32,
    first: u32,
    unused: u32,
    count: u32,
    rows: u32,
}

// SAFETY: the struct is that of the kernel.
unsafe impl Params for DotParams {}
// SAFETY: the struct is that of the kernel.
unsafe impl Params for OuterParams {}

/// The tasks of one launch, and its number of blocks.
struct Launch<Task> {
    tasks: [Task; TASKS],
    count: usize,
    blocks: usize,
}

impl<Task: Copy + Default> Launch<Task> {
    fn new() -> Self {
        Self { tasks: [Task::default(); TASKS], count: 0, blocks: 0 }
    }

    /// Adds the task that `task` makes from the number of its first block.
    fn push(&mut self, blocks: usize, task: impl FnOnce(u32) -> Task) -> Result<()> {
        let Some(slot) = self.tasks.get_mut(self.count) else { bail!("linear: too many deltas") };
        *slot = task(self.blocks as u32);
        self.count += 1;
        self.blocks += blocks;
        Ok(())
    }
}

/// A grid whose blocks share `floats` floats.
fn grid(blocks: usize, floats: usize) -> Grid {
    Grid { blocks: [blocks, 1, 1], threads: THREADS, shared: floats * size_of::<f32>() }
}

/// Linears, some of which have a [`TrainedDelta`] and the others no delta.
pub(super) fn linears(x: &Tensor, linears: &[Linear]) -> Result<Vec<Tensor>> {
    let mut all = Vec::with_capacity(linears.len());
    for some in linears.chunks(TARGETS) {
        all.extend(together(x, some)?);
    }
    Ok(all)
}

fn together(x: &Tensor, linears: &[Linear]) -> Result<Vec<Tensor>> {
    let mut group = Group::new(x, linears)?;
    let Some(anchor) = group.parts.iter().find_map(|part| part.trained.as_ref().map(|trained| trained.anchor.clone()))
    else {
        bail!("linear: no trained delta")
    };
    let outputs = group.forward(linears)?;
    let group = Arc::new(group);
    if let [_] = group.parts[..] {
        let mut all = Vec::with_capacity(1);
        for y in outputs {
            let group = group.clone();
            let back = move |[x, _]: [&Tensor; 2], _: &Tensor, dy: &Tensor| {
                Ok([group.backward(&[Some(dy.clone())], x.track_op())?, None])
            };
            // SAFETY: `forward` has launched the kernels.
            all.push(unsafe { recorded("trained-linear", [x, &anchor], y, back)? });
        }
        return Ok(all);
    }
    // Candle's operations have one result each. So there is one for all linears, whose own result is never read, and each output comes
    // from it. Its backward pass runs after those of the outputs, which have left their gradients here.
    let left: Arc<Mutex<Vec<Option<Tensor>>>> = Arc::new(Mutex::new(vec![None; outputs.len()]));
    let (all_left, none) = (left.clone(), vec![None; outputs.len()]);
    let back = move |[x, _]: [&Tensor; 2], _: &Tensor, _: &Tensor| {
        let dys = std::mem::replace(&mut *all_left.lock().unwrap_or_else(PoisonError::into_inner), none.clone());
        Ok([group.backward(&dys, x.track_op())?, None])
    };
    // SAFETY: nothing reads the element that no kernel has written; the gradients that arrive for it are zeros.
    let joint = unsafe { recorded("trained-linears", [x, &anchor], Output::new(1, DType::F32, x.device())?, back)? };
    let each = outputs.into_iter().enumerate().map(|(i, y)| {
        let left = left.clone();
        let back = move |[joint]: [&Tensor; 1], _: &Tensor, dy: &Tensor| {
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            let first = left.iter().all(Option::is_none);
            left[i] = Some(dy.clone());
            // Some gradient must arrive, whatever its value.
            Ok([first.then(|| joint.zeros_like()).transpose()?])
        };
        // SAFETY: `forward` has launched the kernels.
        unsafe { recorded("trained-linear", [&joint], y, back) }
    });
    each.collect()
}

/// What the backward pass needs of one linear.
struct Part {
    /// `W [out, in]`, in the type of x.
    weight: Tensor,
    trained: Option<TrainedDelta>,
    typed: Option<TypedDelta>,
    /// The sum to which GELU is applied, if it is. [`Group::forward`] sets it.
    sum: Option<Tensor>,
}

/// Linears that read the same x.
struct Group {
    x: Tensor,
    parts: Vec<Part>,
}

impl Group {
    /// # Errors
    /// If a linear has another kind of delta or trained parameters of its own, or shapes do not fit.
    fn new(x: &Tensor, linears: &[Linear]) -> Result<Self> {
        let part = |linear: &Linear| {
            let trained = match &linear.added {
                Added::Nothing => None,
                Added::Trained(trained) => Some(trained.clone()),
                Added::Whole(_) | Added::Segments(_) => bail!("linear: trained deltas beside other deltas"),
            };
            if tracked_parameter(&linear.weight) || tracked_parameter(&linear.bias) {
                bail!("linear: a trained delta needs a frozen weight and bias");
            }
            let weight = typed_weight(x, &linear.weight)?;
            let out = weight.dim(0)?;
            let typed = trained.as_ref().map(|trained| TypedDelta::new(x, &trained.delta, out)).transpose()?;
            for (trained, typed) in trained.iter().zip(&typed) {
                for (sums, of) in trained.gradients.iter().zip([&typed.a, &typed.bt]) {
                    if sums.dims() != of.dims() || sums.dtype() != DType::F32 || !sums.is_contiguous() {
                        bail!("linear: expected gradients {:?} in f32, found {sums:?}", of.dims());
                    }
                }
            }
            Ok(Part { weight, trained, typed, sum: None })
        };
        Ok(Self { x: x.detach(), parts: linears.iter().map(part).collect::<Result<_>>()? })
    }

    /// The outputs, each in memory of its own.
    fn forward(&mut self, linears: &[Linear]) -> Result<Vec<Output>> {
        let (x, rows) = (&self.x, self.x.dim(0)?);
        let weights: Vec<Tensor> = self.parts.iter().map(|part| part.weight.clone()).collect();
        let products = products(x, &weights)?;
        let places = places(&products, x)?;
        // Linears that share a product write to fresh memory.
        let shares = products.iter().flat_map(|product| product.outs.iter().map(move |_| product.outs.len() > 1));
        let fresh = |weight: &Tensor| Output::new((rows, weight.dim(0)?), x.dtype(), x.device());
        let fresh = shares.zip(&weights).map(|(shares, weight)| shares.then(|| fresh(weight)).transpose());
        let fresh = fresh.collect::<Result<Vec<_>>>()?;
        let (mut biases, mut pieces) = (Vec::with_capacity(linears.len()), Vec::with_capacity(linears.len()));
        for ((linear, weight), part) in linears.iter().zip(&weights).zip(&self.parts) {
            biases.push(bias_of(&linear.bias, weight.dim(0)?)?);
            let typed = part.typed.iter().filter(|typed| rows > 0 && typed.a.dims()[0] > 0);
            pieces.push(typed.map(|typed| typed.piece(0..rows)).collect::<Result<Vec<_>>>()?);
        }
        let mut unfinished = Vec::with_capacity(linears.len());
        for i in 0..weights.len() {
            let out = weights[i].dim(0)?;
            let to = fresh[i].as_ref().map_or(places[i], |own| (own.address(), out));
            let (bias, pieces) = (biases[i].as_ref(), &pieces[i][..]);
            unfinished.push(Unfinished { from: places[i], to, out, bias, gelu: false, pieces });
        }
        // SAFETY: the places are those of the products, which the queue has written before the kernels run, and of fresh memory.
        unsafe { finish(x, &unfinished)? };
        drop(unfinished);
        let alone = products.into_iter().filter(|product| product.outs.len() == 1);
        let mut alone = alone.map(|product| product.y);
        let mut outputs = Vec::with_capacity(linears.len());
        for ((fresh, linear), part) in fresh.into_iter().zip(linears).zip(&mut self.parts) {
            let Some(sum) = fresh.or_else(|| alone.next()) else { bail!("linear: fewer products than linears") };
            outputs.push(if linear.gelu {
                // SAFETY: the kernels above write every element.
                let sum = part.sum.insert(unsafe { sum.tensor() });
                gelu::forward_cuda(sum)?
            } else {
                sum
            });
        }
        Ok(outputs)
    }

    /// Adds the gradients of the deltas to their sums, and returns that of x, if it needs one. An output without a gradient has no part
    /// in the loss. With `H = scale * x A^T` and `dH = scale * dY B`: `dx = dY W + dH A`, `dA = dH^T x`, `dB = dY^T H`.
    fn backward(&self, dys: &[Option<Tensor>], tracked: bool) -> Result<Option<Tensor>> {
        let x = &self.x;
        let mut used = Vec::with_capacity(dys.len());
        for (part, dy) in self.parts.iter().zip(dys) {
            let Some(dy) = dy else { continue };
            let dy = like(dy, x)?;
            let dy = match &part.sum {
                Some(sum) => gelu::backward_cuda(sum, &dy)?,
                None => dy,
            };
            used.push(Used { part, dy });
        }
        let joined = if tracked { Joined::new(x, &used)? } else { None };
        let (small, outers) = self.dots(&used, joined.as_ref())?;
        let dx = tracked.then(|| self.products(&used, joined)).transpose()?;
        self.sums(&used, &small, &outers, dx.as_ref())?;
        // SAFETY: the first product writes every element.
        Ok(dx.map(|dx| unsafe { dx.tensor() }))
    }

    /// Launches the computation of H and dH of every delta, which also copies the dYs next to each other if they are to be joined. Returns
    /// the tasks that add the gradients of the deltas.
    fn dots(&self, used: &[Used], joined: Option<&Joined>) -> Result<(Small, Launch<OuterTask>)> {
        let (x, (rows, width)) = (&self.x, self.x.dims2()?);
        let columns = used.iter().map(|used| used.rank().next_multiple_of(RANKS)).sum::<usize>();
        let h = Output::new((2 * rows * columns).max(1), x.dtype(), x.device())?;
        let small = Small { h, rows, columns, element: x.dtype().size_in_bytes() };
        let (mut dots, mut outers) = (Launch::new(), Launch::new());
        let (from, mut column, mut place) = (Matrix::of("linear", x)?, 0, joined.map(|joined| joined.y.address()));
        for used in used {
            let (dy, out, rank) = (Matrix::of("linear", &used.dy)?, used.dy.dim(1)?, used.rank());
            let (tiles, blocks) = (rank.div_ceil(RANKS), rows.div_ceil(DOT_ROWS));
            let copy = place.map(|place| (place, joined.map_or(0, |joined| joined.columns)));
            if let (Some(typed), Some(trained)) = (&used.part.typed, &used.part.trained) {
                let [h, dh] = [small.address(0, column), small.address(1, column)];
                let (a, bt) = (address(&typed.a)?, address(&typed.bt)?);
                dots.push(blocks * tiles, |first| dot(&from, a, (h, columns), rank, None, typed.scale, first))?;
                // Without a rank, there is still dY to copy.
                let tiles_of_dy = tiles.max(usize::from(copy.is_some()));
                dots.push(blocks * tiles_of_dy, |first| dot(&dy, bt, (dh, columns), rank, copy, typed.scale, first))?;
                let [da, dbt] = [address(&trained.gradients[0])?, address(&trained.gradients[1])?];
                let blocks = |width: usize| width.div_ceil(OUTER_COLUMNS) * tiles;
                outers.push(blocks(width), |first| outer((dh, columns), &from, da, rank, first))?;
                outers.push(blocks(out), |first| outer((h, columns), &dy, dbt, rank, first))?;
            } else if copy.is_some() {
                dots.push(blocks, |first| dot(&dy, 0, (0, 0), 0, copy, 0.0, first))?;
            }
            column += rank.next_multiple_of(RANKS);
            place = place.map(|place| place + (out * small.element) as u64);
        }
        let params = DotParams { tasks: dots.tasks, count: dots.count as u32, rows: rows as u32 };
        let grid = grid(dots.blocks, WARPS * DOT_ROWS * RANKS);
        // SAFETY: the tasks' matrices are x, the dYs, the typed A's and B's, `small` and `joined`, of these shapes.
        unsafe { launch(&Place::of(x.device())?, "linear_dots", x.dtype(), grid, &params)? };
        Ok((small, outers))
    }

    /// The gradient of x that comes through the weights.
    fn products(&self, used: &[Used], joined: Option<Joined>) -> Result<Output> {
        let (x, width, place) = (&self.x, self.x.dim(1)?, Place::of(self.x.device())?);
        let dx = Output::new(x.shape(), x.dtype(), x.device())?;
        let target = whole(&dx, x.dtype())?;
        if let Some(Joined { y, columns }) = &joined {
            let weight = Factor::at(address(&used[0].part.weight)?, [*columns, width], width, x.dtype());
            // SAFETY: `dots` has queued the copies to `y`, and the weights lie one after another from this address on.
            unsafe { gemm(&place, 1.0, whole(y, x.dtype())?, weight, 0.0, target)? };
            return Ok(dx);
        }
        for (i, used) in used.iter().enumerate() {
            let beta = if i == 0 { 0.0 } else { 1.0 };
            // SAFETY: the factors are those of tensors that live until the product is queued.
            unsafe { gemm(&place, 1.0, of(&used.dy)?, of(&used.part.weight)?, beta, target)? };
        }
        Ok(dx)
    }

    /// Adds the gradients of the deltas to their sums, and `dH A` of every delta to `dx`.
    fn sums(&self, used: &[Used], small: &Small, outers: &Launch<OuterTask>, dx: Option<&Output>) -> Result<()> {
        let (x, (rows, width)) = (&self.x, self.x.dims2()?);
        let (mut pieces, mut count, mut column) = ([Piece::default(); TARGETS], 0, 0);
        for used in used {
            if let (Some(typed), Some(piece)) = (&used.part.typed, pieces.get_mut(count)) {
                *piece = Piece { a: address(&typed.a)?, column, rank: used.rank() as u32 };
                count += 1;
            }
            column += used.rank().next_multiple_of(RANKS) as u32;
        }
        let to = dx.map_or(0, Output::address);
        let a = pieces.map(|piece| piece.a);
        let params = OuterParams {
            tasks: outers.tasks,
            pieces,
            dx: to,
            dh: small.address(1, 0),
            dh_stride: small.columns as u32,
            width: width as u32,
            piece_count: count as u32,
            fast: in_eights(&[&a[..], &[to]].concat(), &[width]),
            first: outers.blocks as u32,
            unused: 0,
            count: outers.count as u32,
            rows: rows as u32,
        };
        let units = rows.div_ceil(WIDE_ROWS) * width.div_ceil(RANKS);
        let blocks = if dx.is_some() && count > 0 { units.div_ceil(THREADS) } else { 0 };
        let grid = grid(outers.blocks + blocks, WARPS * RANKS * OUTER_COLUMNS);
        // Backward passes that run side by side on the host may add to the same sums.
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the tasks' matrices are x, the dYs, `small`, which `dots` has written, the typed A's, `dx`, and the sums, whose shapes
        // `Group::new` has checked.
        unsafe { launch(&Place::of(x.device())?, "linear_outer", x.dtype(), grid, &params) }
    }
}

/// Held while sums are added to.
static ALONE: Mutex<()> = Mutex::new(());

/// A linear whose output has a gradient.
struct Used<'a> {
    part: &'a Part,
    dy: Tensor,
}

impl Used<'_> {
    fn rank(&self) -> usize {
        self.part.typed.as_ref().map_or(0, |typed| typed.a.dims()[0])
    }
}

/// Room for the dYs of linears whose weights lie one after another in memory, so that one product gives their part of x's gradient.
struct Joined {
    y: Output,
    columns: usize,
}

impl Joined {
    /// `None` if there is nothing to join.
    fn new(x: &Tensor, used: &[Used]) -> Result<Option<Self>> {
        if used.len() < 2 {
            return Ok(None);
        }
        for pair in used.windows(2) {
            if !adjoin(&pair[0].part.weight, &pair[1].part.weight)? {
                return Ok(None);
            }
        }
        let columns = used.iter().map(|used| used.part.weight.dim(0)).sum::<Result<usize>>()?;
        Ok(Some(Self { y: Output::new((x.dim(0)?, columns), x.dtype(), x.device())?, columns }))
    }
}

/// H of all deltas side by side, and dH below it, each `[rows, columns]`. A delta begins at a multiple of eight columns.
struct Small {
    h: Output,
    rows: usize,
    columns: usize,
    /// Bytes of an element.
    element: usize,
}

impl Small {
    /// The address of a column in H (0) or dH (1).
    fn address(&self, which: usize, column: usize) -> u64 {
        self.h.address() + ((which * self.rows * self.columns + column) * self.element) as u64
    }
}

/// Whether rows at these addresses, which lie these numbers of elements apart, may be read in units of eight elements.
fn in_eights(addresses: &[u64], strides: &[usize]) -> u32 {
    let aligned = addresses.iter().all(|address| address.is_multiple_of(16));
    u32::from(aligned && strides.iter().all(|stride| stride.is_multiple_of(RANKS)))
}

/// `h = scale * x m^T`, and x copied to `copy`.
fn dot(
    x: &Matrix,
    m: u64,
    (h, h_stride): (u64, usize),
    rank: usize,
    copy: Option<(u64, usize)>,
    scale: f32,
    first: u32,
) -> DotTask {
    let (to, to_stride) = copy.unwrap_or((0, 0));
    DotTask {
        x: x.address,
        m,
        h,
        copy: to,
        x_stride: x.stride as u32,
        width: x.width as u32,
        rank: rank as u32,
        h_stride: h_stride as u32,
        copy_stride: to_stride as u32,
        first,
        fast: in_eights(&[x.address, m, to], &[x.stride, x.width, to_stride]),
        scale,
    }
}

/// `sums += h^T m`.
fn outer((h, h_stride): (u64, usize), m: &Matrix, sums: u64, rank: usize, first: u32) -> OuterTask {
    OuterTask {
        h,
        m: m.address,
        sums,
        h_stride: h_stride as u32,
        m_stride: m.stride as u32,
        width: m.width as u32,
        rank: rank as u32,
        first,
        fast: in_eights(&[h, m.address], &[h_stride, m.stride, m.width]),
    }
}
