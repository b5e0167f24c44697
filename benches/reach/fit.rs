//! Whether the ragged delta costs what it must: time = c0 rows (in + out) + c1 sum of r rows (in + out), for adapters of rank 2,
//! with and without one of rank 64 among them, for each shape by itself. Each adapter has a text of 24 tokens or several. Beside it
//! the control, every rank padded to 64; and, told apart, how far smaller segments lie from the same line: fetching an adapter,
//! which it has no term for, costs as much for one row as for many.

use polyrank::ops::{self, Segment};
use polyrank::params::{Backend, Delta};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::common::fit::least_squares;
use crate::common::{Failure, random};
use crate::rounds::{Job, medians};

/// (in, out) of the default base's linears.
const SHAPES: [(usize, usize); 3] = [(384, 384), (384, 1536), (1536, 384)];
/// Adapters in a batch, and rows of each: one text or several, and less than one.
const BATCHES: [(usize, usize); 10] = [
    (4, TEXT),
    (4, 2 * TEXT),
    (4, 3 * TEXT),
    (16, TEXT),
    (16, 2 * TEXT),
    (32, TEXT),
    (4, TEXT / 3),
    (16, TEXT / 3),
    (32, TEXT / 3),
    (16, 2 * TEXT / 3),
];
/// Tokens of a text. Segments of fewer rows are not in the fit.
const TEXT: usize = 24;
const NARROW: usize = 2;
const WIDE: usize = 64;
/// How far a batch's time may lie from the fit.
const GOAL: f64 = 15.0;

/// A batch of adapters with `rows` each.
struct Mix {
    shape: (usize, usize),
    rows: usize,
    deltas: Vec<Delta>,
}

impl Mix {
    fn new(shape: (usize, usize), rows: usize, ranks: &[usize], rng: &mut StdRng) -> Result<Self, Failure> {
        let deltas = ranks.iter().map(|&rank| random::delta(shape, rank, rng)).collect::<Result<_, _>>()?;
        Ok(Self { shape, rows, deltas })
    }

    /// rows (in + out), and the sum of r rows (in + out).
    fn terms(&self) -> [f64; 2] {
        let one = (self.rows * (self.shape.0 + self.shape.1)) as f64;
        let ranks: usize = self.deltas.iter().map(Delta::rank).sum();
        [one * self.deltas.len() as f64, one * ranks as f64]
    }

    fn job(&self, rng: &mut StdRng) -> Result<Job<'_>, Failure> {
        let rows = self.rows * self.deltas.len();
        let (x, y) = (random::tensor(&[rows, self.shape.0], rng)?, random::tensor(&[rows, self.shape.1], rng)?);
        let segment = |(i, delta)| Segment { rows: i * self.rows..(i + 1) * self.rows, delta };
        let segments: Vec<Segment> = self.deltas.iter().enumerate().map(segment).collect();
        let ops = ops::of(&Backend::cpu());
        Ok(Box::new(move || Ok(ops.add_segments(&x, &y, &segments).map(drop)?)))
    }
}

pub(crate) fn print() -> Result<(), Failure> {
    let mut rng = StdRng::seed_from_u64(5);
    let (mut mixes, mut controls) = (Vec::new(), Vec::new());
    for shape in SHAPES {
        for (adapters, rows) in BATCHES {
            let mut ranks = vec![NARROW; adapters];
            mixes.push(Mix::new(shape, rows, &ranks, &mut rng)?);
            ranks[0] = WIDE;
            mixes.push(Mix::new(shape, rows, &ranks, &mut rng)?);
            controls.push(Mix::new(shape, rows, &vec![WIDE; adapters], &mut rng)?);
        }
    }
    let mut jobs = mixes.iter().chain(&controls).map(|mix| mix.job(&mut rng)).collect::<Result<Vec<_>, _>>()?;
    // As the engine runs a pass: on one core.
    let core = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let times = core.install(|| medians(&mut jobs))?;
    let (times, padded) = times.split_at(mixes.len());
    let terms: Vec<[f64; 2]> = mixes.iter().map(Mix::terms).collect();
    // Two mixes a batch, shape after shape.
    let of_shape = 2 * BATCHES.len();
    let fit = |first: usize| {
        let points = (first..first + of_shape).filter(|&i| mixes[i].rows >= TEXT).map(|i| (terms[i], times[i]));
        least_squares(points)
    };
    let fits = (0..SHAPES.len()).map(|shape| fit(shape * of_shape)).collect::<Option<Vec<_>>>();
    let fits = fits.ok_or("the batches do not tell the two terms apart")?;

    println!("\n| in | out | adapters | rows each | widest | us | fitted, us | off | padded, us |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let (mut worst, mut small): (f64, f64) = (0.0, 0.0);
    for (i, (mix, (time, [a, b]))) in mixes.iter().zip(times.iter().zip(&terms)).enumerate() {
        let [c0, c1] = fits[i / of_shape];
        let fitted = c0 * a + c1 * b;
        let off = 100.0 * (fitted / time - 1.0);
        let worst = if mix.rows >= TEXT { &mut worst } else { &mut small };
        *worst = worst.max(off.abs());
        let (wide, control) = match i % 2 {
            0 => (NARROW, String::new()),
            _ => (WIDE, format!("{:.1}", padded[i / 2] * 1e6)),
        };
        let ((width, out), adapters, rows) = (mix.shape, mix.deltas.len(), mix.rows);
        let (time, fitted) = (time * 1e6, fitted * 1e6);
        println!(
            "| {width} | {out} | {adapters} | {rows} | {wide} | {time:.1} | {fitted:.1} | {off:+.0} % | {control} |"
        );
    }
    for ((width, out), [c0, c1]) in SHAPES.iter().zip(&fits) {
        println!("\n{width} to {out}: c0 = {:.3} ns, c1 = {:.4} ns", c0 * 1e9, c1 * 1e9);
    }
    println!(
        "\nthe worst is {worst:.0} % off, the goal {GOAL:.0} %; of parts of a text, which are not in the fit, {small:.0} %"
    );
    Ok(())
}
