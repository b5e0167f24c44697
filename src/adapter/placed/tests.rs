#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{CpuStorage, Storage};
use rand::{Rng, SeedableRng};
use serde_json::Map;

use super::*;
use crate::adapter::{Adapter, read, write};
use crate::base::{self, BaseConfig};
use crate::params::Layout;

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/bert");

fn gpu(dtype: DType) -> Backend {
    Backend::cuda_on_host().with_dtype(dtype).unwrap()
}

fn layout() -> Layout {
    base::layout(&BaseConfig::read(Path::new(BASE)).unwrap()).unwrap()
}

/// All tensors of an adapter, those of its deltas first.
fn tensors(weights: &AdapterWeights) -> (Vec<&Tensor>, Vec<&Tensor>) {
    let deltas = weights.sites.iter().flatten().map(Change::delta).flat_map(|delta| [&delta.a, &delta.b]);
    (deltas.collect(), weights.head.values().collect())
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let floats = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    floats.into_iter().map(f32::to_bits).collect()
}

/// The blocks in which these tensors lie: bytes by address.
fn blocks(weights: &AdapterWeights) -> BTreeMap<usize, usize> {
    let (deltas, head) = tensors(weights);
    let block = |tensor: &Tensor| {
        let (storage, _) = tensor.storage_and_layout();
        let bytes = match &*storage {
            Storage::Cpu(CpuStorage::F32(data)) => size_of_val(&data[..]),
            Storage::Cpu(CpuStorage::BF16(data)) => size_of_val(&data[..]),
            Storage::Cpu(CpuStorage::F16(data)) => size_of_val(&data[..]),
            other => panic!("{:?} on {:?}", other.dtype(), other.device()),
        };
        (std::ptr::from_ref(&*storage).addr(), bytes)
    };
    deltas.into_iter().chain(head).map(block).collect()
}

#[test]
fn views_of_a_block_hold_what_the_cpu_holds() {
    for name in ["ragged", "bighead", "onelabel", "plain"] {
        let (dir, layout) = (Path::new(BASE).join(name), layout());
        let on_cpu = read(&dir, &layout, Backend::cpu()).unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let placed = read(&dir, &layout, gpu(dtype)).unwrap();
            let ((ours, our_head), (deltas, head)) = (tensors(&placed.weights), tensors(&on_cpu.weights));
            assert_eq!((ours.len(), our_head.len()), (deltas.len(), head.len()));
            assert_eq!(blocks(&placed.weights).len(), if dtype == DType::F32 { 1 } else { 2 }, "{name} {dtype:?}");
            for (ours, theirs) in ours.iter().zip(&deltas) {
                assert_eq!((ours.dtype(), ours.dims()), (dtype, theirs.dims()));
                assert_eq!(bits(ours), bits(&theirs.to_dtype(dtype).unwrap()), "{name} {dtype:?}");
            }
            for Change::LowRank(delta) in placed.weights.sites.iter().flatten() {
                let (width, out) = (delta.a.dims()[1], delta.b.dims()[0]);
                assert_eq!((delta.a.stride(), delta.b.stride()), (&[width, 1][..], &[1, out][..]));
            }
            for (ours, theirs) in our_head.iter().zip(&head) {
                assert_eq!((ours.dtype(), ours.dims(), ours.stride()), (DType::F32, theirs.dims(), theirs.stride()));
                assert_eq!(bits(ours), bits(theirs), "{name} {dtype:?}");
            }
            for tensor in ours.iter().chain(&our_head) {
                let start = tensor.layout().start_offset() * tensor.dtype().size_in_bytes();
                assert_eq!(start % ALIGNMENT, 0, "{name} {dtype:?} {:?}", tensor.dims());
            }
            let parameters = (placed.delta_parameters(), placed.head_parameters());
            assert_eq!(placed.bytes(), parameters.0 * dtype.size_in_bytes() + parameters.1 * 4);
            assert_eq!(placed.ranks(&layout), on_cpu.ranks(&layout));
        }
    }
}

#[test]
fn deltas_are_rounded_to_the_nearest_even() {
    let mut bytes = Vec::new();
    // 1 + 2^-8 lies halfway between two numbers of 8 bits, as does 1 + 3 * 2^-8.
    append(&mut bytes, &[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -0.1, 0.0], DType::BF16).unwrap();
    let words: Vec<u16> = bytes.as_chunks().0.iter().map(|word| u16::from_ne_bytes(*word)).collect();
    assert_eq!(words, [0x3f80, 0x3f82, 0xbdcd, 0]);
    assert!(append(&mut bytes, &[0.0], DType::U32).is_err());
}

/// An adapter with random ranks from 0 to `most` at 12 sites, which are 384 and 1536 wide, and a head for `labels` labels.
fn ragged(random: &mut impl Rng, most: usize, labels: usize) -> AdapterWeights {
    let zeros = |rows: usize, columns: usize| Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap();
    let sites = (0..12).map(|site| {
        let (rank, width) = (random.random_range(0..=most), if site % 3 == 2 { 1536 } else { 384 });
        let b = zeros(rank.max(1), width).t().unwrap();
        (rank > 0).then(|| Change::LowRank(Delta { a: zeros(rank, 384), b, scale: 1.0 }))
    });
    let sites = sites.collect();
    let head = [("weight", zeros(labels, 384)), ("bias", zeros(1, labels).squeeze(0).unwrap())];
    AdapterWeights { sites, head: head.map(|(name, tensor)| (name.to_owned(), tensor)).into() }
}

/// Adapters take 2 bytes for each parameter of the deltas, the heads, and at most 2 % more. The driver hands out multiples of 512 bytes.
#[test]
fn a_thousand_adapters_take_the_bytes_of_their_ranks() {
    let (mut random, mut expected, mut taken, mut counted) = (rand::rngs::StdRng::seed_from_u64(7), 0, 0, 0);
    for _ in 0..1000 {
        let labels = random.random_range(1..9);
        let mut weights = ragged(&mut random, 8, labels);
        let (deltas, head) = tensors(&weights);
        let elements = |tensors: &[&Tensor]| tensors.iter().map(|tensor| tensor.elem_count()).sum::<usize>();
        let bytes = 2 * elements(&deltas) + 4 * elements(&head);
        place(&mut weights, &gpu(DType::BF16)).unwrap();
        taken += blocks(&weights).values().map(|bytes| bytes.next_multiple_of(512)).sum::<usize>();
        expected += bytes;
        let info = crate::adapter::AdapterInfo {
            labels: Vec::new(),
            problem_type: None,
            base_fingerprint: None,
            base_model: None,
        };
        counted += Adapter { info, weights }.bytes();
    }
    assert_eq!(counted, expected);
    assert!(taken <= expected + expected / 50, "{taken} bytes for {expected}");
}

/// It has no block of deltas.
#[test]
fn head_without_deltas_is_placed() {
    let mut weights = ragged(&mut rand::rngs::StdRng::seed_from_u64(7), 0, 3);
    place(&mut weights, &gpu(DType::BF16)).unwrap();
    assert_eq!(blocks(&weights).into_values().collect::<Vec<_>>(), [16 + 4 * 384 * 3]);
}

#[test]
fn element_beyond_the_range_of_f16_is_refused() {
    let (layout, dir) = (layout(), tempfile::tempdir().unwrap());
    let mut adapter = read(&Path::new(BASE).join("ragged"), &layout, Backend::cpu()).unwrap();
    for Change::LowRank(delta) in adapter.weights.sites.iter_mut().flatten() {
        delta.b = (&delta.b * 0.0).unwrap().affine(1.0, 70_000.0).unwrap();
    }
    write(dir.path(), &layout, &adapter, &Map::new()).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        read(dir.path(), &layout, gpu(dtype)).unwrap();
    }
    let error = read(dir.path(), &layout, gpu(DType::F16)).unwrap_err();
    assert!(matches!(error, AdapterError::OutOfRange { index: 0, found: 70_000.0, dtype: "f16", .. }), "{error}");
    assert!(error.to_string().ends_with("lora_B.weight: element 0 is 70000, beyond the range of f16"), "{error}");
}
