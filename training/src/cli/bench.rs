//! `polyrank-train bench`: measures the speed of training steps on random texts. `tests/gpu/peer_training.py` makes the same steps.

use std::time::Instant;

use candle_core::Tensor;
use clap::Args;
use polyrank::adapter::ProblemType;
use polyrank::engine::Engine;
use polyrank::engine::micro_batches::Workers;
use polyrank::params::DeviceName;
use polyrank::text::Encoded;
use polyrank_training::data::Target;
use polyrank_training::defaults::TaskSize;
use polyrank_training::error::Error;
use polyrank_training::loss::TaskLoss;
use polyrank_training::method::StepDropout;
use polyrank_training::optim::{Optimizer, Rule};
use polyrank_training::settings::Settings;
use polyrank_training::stepper::{Batch, Stepper};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{open, print};

/// Quantiles of the lengths of SST-2's training texts.
const LENGTHS: [usize; 32] =
    [3, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 8, 8, 9, 9, 10, 11, 11, 12, 13, 14, 15, 16, 17, 18, 20, 22, 24, 26, 29, 34, 42];

/// The outputs of the classifier.
const LABELS: usize = 2;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Number of timed steps.
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// Number of steps before those.
    #[arg(long, default_value_t = 10)]
    warmup_steps: usize,
    /// Numbers of tokens of the texts of a batch, comma-separated; they repeat in a larger batch [default: like SST-2's].
    #[arg(long, value_delimiter = ',')]
    lengths: Vec<usize>,
    /// Where to compute: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    #[command(flatten)]
    settings: Settings,
}

/// Runs the command.
pub(super) fn bench(args: &BenchArgs) -> Result<(), Error> {
    args.settings.check()?;
    let base = open(&args.settings.model_id, args.device, args.settings.dtype)?;
    let (engine, settings) = (&base.engine, &args.settings);
    let lengths = if args.lengths.is_empty() { LENGTHS.to_vec() } else { args.lengths.clone() };
    let size = settings.batch_size.unwrap_or(32);
    let lengths: Vec<usize> = lengths.into_iter().cycle().take(size).collect();
    let (tokens, total) = (lengths.iter().sum::<usize>(), args.warmup_steps + args.steps);
    let problem = ProblemType::SingleLabelClassification;
    let method = settings.method(engine, TaskSize { rows: total * size, labels: LABELS, problem })?;
    let rule = Rule { weight_decay: settings.weight_decay, eps: 1e-8, clip: Some(settings.clip), total };
    let optimizer = Optimizer::new(method.variables(), rule, engine.backend())?;
    let loss = TaskLoss::new(problem, &[]);
    let mut stepper = Stepper { engine, method, optimizer, loss, workers: Workers::new(tokens)? };
    let mut rng = StdRng::seed_from_u64(settings.seed);
    let (mut start, mut last) = (Instant::now(), None);
    for step in 0..total {
        if step == args.warmup_steps {
            engine.device().synchronize()?;
            start = Instant::now();
        }
        last = Some(step_on(&mut stepper, &lengths, settings, &mut rng)?);
    }
    engine.device().synchronize()?;
    let seconds = start.elapsed().as_secs_f64();
    let loss = last.map(|loss| loss.to_scalar::<f32>()).transpose()?;
    let result = serde_json::json!({
        "device": args.device.to_string(),
        "dtype": settings.dtype.name(),
        "method": settings.method,
        "rank": settings.rank,
        "batch_size": size,
        "steps": args.steps,
        "milliseconds_per_step": 1000.0 * seconds / args.steps as f64,
        "tokens_per_second": (tokens * args.steps) as f64 / seconds,
        "loss": loss,
    });
    print(&result.to_string())
}

/// Makes a step on a new batch of random texts.
fn step_on(stepper: &mut Stepper, lengths: &[usize], settings: &Settings, rng: &mut StdRng) -> Result<Tensor, Error> {
    let texts: Vec<Encoded> = lengths.iter().map(|&length| random_text(stepper.engine, length, rng)).collect();
    let texts: Vec<&Encoded> = texts.iter().collect();
    let targets: Vec<Target> = lengths.iter().map(|_| Target::Class(rng.random_range(0..LABELS))).collect();
    stepper.step(&Batch { texts: &texts, targets: &targets }, StepDropout::default(), settings.lr.unwrap_or(5e-4))
}

fn random_text(engine: &Engine, length: usize, rng: &mut StdRng) -> Encoded {
    let words = engine.config().vocab_size as u32;
    Encoded {
        ids: (0..length).map(|_| rng.random_range(0..words)).collect(),
        type_ids: vec![0; length],
        truncated: false,
    }
}
