//! Heads of mixed sizes in one go, against each head alone.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use candle_core::Device;

use super::*;
use crate::base::Base;
use crate::encoder::{Identity, open};
use crate::params::{Backend, Dim};

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let uniform =
        |i: u64| (ops::splitmix(seed.wrapping_mul(1 << 20).wrapping_add(i)) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(uniform).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A head with `labels` labels, which carries the base's optional tensors only if it is `whole`.
fn head(layout: &Layout, labels: usize, whole: bool) -> Head {
    let parameters = layout.head.iter().filter(|parameter| parameter.required || whole);
    let size = |dim: &Dim| match dim {
        Dim::Labels => labels,
        Dim::Fixed(size) => *size,
    };
    let tensor = |(i, parameter): (usize, &HeadParameter)| {
        let shape: Vec<usize> = parameter.shape.iter().map(size).collect();
        (parameter.name.clone(), random((labels * 10 + i) as u64, &shape))
    };
    parameters.enumerate().map(tensor).collect()
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

#[test]
fn heads_of_mixed_sizes_match_each_head_alone_in_one_tensor() {
    crate::cuda::run_on_host(polyrank_on_host::launch);
    let goldens = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens"));
    let cuda = Backend::cuda_on_host();
    let backends = [Backend::cpu(), cuda.clone(), cuda.with_dtype(DType::BF16).unwrap()];
    for name in ["bert", "encoders/roberta", "encoders/deberta", "encoders/modernbert-mean", "encoders/distilbert"] {
        let base = Base::open(&goldens.join(name)).unwrap();
        let reference = open(&base, &Backend::reference(Device::Cpu)).unwrap();
        let layout = reference.layout();
        let heads = [head(layout, 2, false), head(layout, 3, true), head(layout, 5, false)];
        let rows: [&[usize]; 4] = [&[0, 2], &[1], &[], &[0, 3, 4]];
        let jobs: Vec<HeadJob> =
            rows.iter().zip([0, 1, 1, 2]).map(|(rows, i)| HeadJob { rows, head: &heads[i] }).collect();
        for backend in &backends {
            // Heads are f32, the base's tensors included, so bf16 rounds only the pooled texts.
            let pooled = random(1, &[5, layout.hidden]).to_dtype(backend.dtype()).unwrap();
            let wide = pooled.to_dtype(DType::F32).unwrap();
            let encoder = open(&base, backend).unwrap();
            let logits = encoder.heads(&pooled, &jobs, &Identity).unwrap();
            assert!(encoder.heads(&pooled, &[], &Identity).unwrap().is_empty(), "{name}: logits of no job");
            let mut start = 0;
            for (job, logits) in jobs.iter().zip(&logits) {
                assert_eq!(logits.storage_and_layout().1.start_offset(), start, "{name}: not in one tensor");
                start += logits.elem_count();
                if job.rows.is_empty() {
                    assert_eq!(logits.dims(), [0, 3], "{name}");
                    continue;
                }
                let rows = Tensor::new(job.rows(), &Device::Cpu).unwrap();
                let alone = reference.logits(&wide.index_select(&rows, 0).unwrap(), job.head, &Identity).unwrap();
                let worst = difference(logits, &alone);
                assert!(worst < 1e-4, "{name} on {backend:?} differs by {worst}");
            }
        }
    }
}

#[test]
fn heads_of_rows_outside_the_batch_are_errors() {
    crate::cuda::run_on_host(polyrank_on_host::launch);
    let base = Base::open(&PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/bert"))).unwrap();
    for backend in [Backend::cpu(), Backend::cuda_on_host()] {
        let encoder = open(&base, &backend).unwrap();
        let head = head(encoder.layout(), 2, true);
        let pooled = random(1, &[2, encoder.layout().hidden]);
        assert!(encoder.heads(&pooled, &[HeadJob { rows: &[0, 2], head: &head }], &Identity).is_err(), "{backend:?}");
    }
}
