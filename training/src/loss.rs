//! The loss of a task: the cross-entropy of classes, the binary cross-entropy of several labels, or the squared error of a regression.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::log_softmax;
use polyrank::adapter::ProblemType;

use crate::data::Target;

/// A task's loss, as PyTorch and `transformers` define it. `weights` are those of the classes; empty for equal weights.
///
/// | problem | mean over a batch of B rows with L outputs |
/// | --- | --- |
/// | one class a row | `sum of w_c -log softmax(x)_c` over the rows' classes c, divided by the sum of their weights `w_c` |
/// | several labels a row | the sum of `-w_l y_l log sigmoid(x_l) - (1 - y_l) log(1 - sigmoid(x_l))`, divided by `B L` |
/// | a regression | the sum of `(x - y)^2`, divided by B |
///
/// So the weights are `weight` of PyTorch's `CrossEntropyLoss`, and `pos_weight` of its `BCEWithLogitsLoss`.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskLoss {
    problem: ProblemType,
    weights: Vec<f64>,
}

impl TaskLoss {
    /// The loss of a task. `weights` has a weight for each class, or is empty.
    #[must_use]
    pub fn new(problem: ProblemType, weights: &[f64]) -> Self {
        Self { problem, weights: weights.to_vec() }
    }

    /// The kind of task.
    #[must_use]
    pub fn problem(&self) -> ProblemType {
        self.problem
    }

    /// The mean loss of `logits [B, outputs]` over the batch, a scalar, f32.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn mean(&self, logits: &Tensor, targets: &[Target]) -> Result<Tensor> {
        self.share(logits, targets, self.divisor(targets))
    }

    /// What the loss of a batch is divided by, without the number of outputs: the number of its rows, or the sum of their weights.
    #[must_use]
    pub fn divisor(&self, targets: &[Target]) -> f64 {
        let weight = |target: &Target| match target {
            Target::Class(class) => self.weight(*class),
            Target::Classes(_) | Target::Value(_) => 1.0,
        };
        targets.iter().map(weight).sum()
    }

    /// The part that some rows of a batch have in its mean loss; `divisor` is [`Self::divisor`] of the whole batch. The parts of all rows
    /// add up to [`Self::mean`].
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn share(&self, logits: &Tensor, targets: &[Target], divisor: f64) -> Result<Tensor> {
        let (rows, outputs) = logits.dims2()?;
        let (device, logits) = (logits.device(), logits.to_dtype(DType::F32)?);
        if self.problem == ProblemType::Regression {
            let values: Vec<f32> = targets.iter().map(|target| target.value() as f32).collect();
            return (logits.squeeze(1)? - Tensor::from_vec(values, rows, device)?)?.sqr()?.sum_all()? / divisor;
        }
        // Both other losses are sums of log-probabilities, each with a factor that is 0 for most of them.
        let (log_probabilities, factors) = if self.problem == ProblemType::MultiLabelClassification {
            // The sigmoid of a logit is the softmax of the logit and 0.
            let both = Tensor::stack(&[&logits, &logits.zeros_like()?], 2)?;
            (log_softmax(&both, 2)?, self.factors_of_labels(targets, outputs, divisor))
        } else {
            (log_softmax(&logits, 1)?, self.factors_of_classes(targets, outputs, divisor))
        };
        (Tensor::from_vec(factors, log_probabilities.dims(), device)? * log_probabilities)?.sum_all()?.neg()
    }

    /// The factors `[B, outputs]` of the log-probabilities of classes.
    fn factors_of_classes(&self, targets: &[Target], outputs: usize, divisor: f64) -> Vec<f32> {
        let mut factors = vec![0.0; targets.len() * outputs];
        for (target, row) in targets.iter().zip(factors.chunks_mut(outputs)) {
            for &class in target.classes() {
                row[class] = (self.weight(class) / divisor) as f32;
            }
        }
        factors
    }

    /// The factors `[B, outputs, 2]` of the log-probabilities of having a label and of not having it.
    fn factors_of_labels(&self, targets: &[Target], outputs: usize, divisor: f64) -> Vec<f32> {
        let each = divisor * outputs as f64;
        let absent = [0.0, (1.0 / each) as f32];
        let mut factors: Vec<f32> = absent.into_iter().cycle().take(targets.len() * outputs * 2).collect();
        for (target, row) in targets.iter().zip(factors.chunks_mut(outputs * 2)) {
            for &label in target.classes() {
                row[2 * label..2 * label + 2].copy_from_slice(&[(self.weight(label) / each) as f32, 0.0]);
            }
        }
        factors
    }

    fn weight(&self, class: usize) -> f64 {
        self.weights.get(class).copied().unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::{Device, Var};

    use super::*;

    /// The logits of four rows with three outputs.
    const LOGITS: [[f32; 3]; 4] = [[0.5, -1.25, 2.0], [0.0, 0.75, -0.5], [1.5, -2.0, 0.25], [-0.75, 3.0, 1.0]];
    const WEIGHTS: [f64; 3] = [0.5, 2.0, 3.0];

    fn classes() -> Vec<Target> {
        [0, 2, 1, 1].map(Target::Class).to_vec()
    }

    fn labels() -> Vec<Target> {
        [vec![0, 2], vec![], vec![0, 1], vec![1, 2]].map(Target::Classes).to_vec()
    }

    /// Checks a loss and its gradients against PyTorch's, and that the parts of two micro-batches of unequal sizes add up to both.
    fn check(loss: &TaskLoss, targets: &[Target], expected: f32, gradients: [[f32; 3]; 4]) {
        let logits = Var::new(&LOGITS, &Device::Cpu).unwrap();
        let divisor = loss.divisor(targets);
        let part = |from: usize, rows: usize| {
            let logits = logits.narrow(0, from, rows).unwrap();
            loss.share(&logits, &targets[from..from + rows], divisor).unwrap()
        };
        for mean in [loss.mean(&logits, targets).unwrap(), (part(0, 1) + part(1, 3)).unwrap()] {
            let value = mean.to_scalar::<f32>().unwrap();
            assert!((value - expected).abs() < 1e-6, "{loss:?}: {value}, expected {expected}");
            let found = mean.backward().unwrap().get(&logits).unwrap().to_vec2::<f32>().unwrap();
            for (found, expected) in found.iter().flatten().zip(gradients.iter().flatten()) {
                assert!((found - expected).abs() < 1e-6, "{loss:?}: {found}, expected {expected}");
            }
        }
    }

    /// `torch.nn.functional.cross_entropy(x, t, weight=w)`, and its gradients.
    #[test]
    fn weighted_cross_entropy_equals_pytorch_in_micro_batches() {
        let gradients = [
            [-0.054_878_66, 0.002_048_45, 0.052_830_204],
            [0.107_424_945, 0.227_418_59, -0.334_843_5],
            [0.202_526_2, -0.260_550_92, 0.058_024_727],
            [0.005_411_73, -0.036_554_083, 0.031_142_356],
        ];
        let loss = TaskLoss::new(ProblemType::SingleLabelClassification, &WEIGHTS);
        check(&loss, &classes(), 1.887_393_4, gradients);
        let plain = TaskLoss::new(ProblemType::SingleLabelClassification, &[]);
        let mean = plain.mean(&Tensor::new(&LOGITS, &Device::Cpu).unwrap(), &classes()).unwrap();
        assert!((mean.to_scalar::<f32>().unwrap() - 1.867_464).abs() < 1e-6);
    }

    /// `torch.nn.functional.binary_cross_entropy_with_logits(x, y)`, without and with `pos_weight=w`, and the gradients. One of the
    /// logits is 0, and one row has no label.
    #[test]
    fn binary_cross_entropy_equals_pytorch_in_micro_batches() {
        let plain = TaskLoss::new(ProblemType::MultiLabelClassification, &[]);
        let gradients = [
            [-0.031_461_72, 0.018_558_344, -0.009_933_58],
            [0.041_666_668, 0.056_598_227, 0.031_461_723],
            [-0.015_202_13, -0.073_399_76, 0.046_848_044],
            [0.026_735_106, -0.003_952_155, -0.022_411_784],
        ];
        check(&plain, &labels(), 0.588_335_8, gradients);
        let weighted = TaskLoss::new(ProblemType::MultiLabelClassification, &WEIGHTS);
        let gradients = [
            [-0.015_730_86, 0.018_558_344, -0.029_800_734],
            [0.041_666_668, 0.056_598_227, 0.031_461_723],
            [-0.007_601_065, -0.146_799_52, 0.046_848_044],
            [0.026_735_106, -0.007_904_31, -0.067_235_35],
        ];
        check(&weighted, &labels(), 0.814_848_36, gradients);
    }

    /// Logits at which `exp` overflows have a finite loss.
    #[test]
    fn large_logits_have_finite_losses() {
        let logits = Tensor::new(&[[300_f32, -300.0]], &Device::Cpu).unwrap();
        let loss = TaskLoss::new(ProblemType::MultiLabelClassification, &[]);
        for (labels, expected) in [(vec![0], 0.0), (vec![1], 300.0), (vec![0, 1], 150.0)] {
            let found = loss.mean(&logits, &[Target::Classes(labels)]).unwrap().to_scalar::<f32>().unwrap();
            assert!((found - expected).abs() < 1e-4, "{found}, expected {expected}");
        }
    }
}
