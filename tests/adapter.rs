//! Adapters on disk: PEFT's files and our own are read, and malformed files are refused with an error that names the cause.

mod head;
mod inspect;
mod malformed;
mod peft;
mod round_trip;
mod versions;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use polyrank::params::{Dim, HeadParameter, Input, Layout, Module};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

const HIDDEN: usize = 32;
const WIDE: usize = 64;

/// The layout of the goldens' base, written by hand.
fn layout() -> Layout {
    let module =
        |name, label, in_features, out_features, input| Module { name, label, in_features, out_features, input };
    let head = |name: &str, shape: &[Dim], required| HeadParameter { name: name.into(), shape: shape.into(), required };
    Layout {
        prefix: "bert",
        stack: "encoder.layer",
        layers: 3,
        modules: vec![
            module("attention.self.query", "query", HIDDEN, HIDDEN, Input::Attention),
            module("attention.self.key", "key", HIDDEN, HIDDEN, Input::Attention),
            module("attention.self.value", "value", HIDDEN, HIDDEN, Input::Attention),
            module("attention.output.dense", "attention output", HIDDEN, HIDDEN, Input::AttentionOutput),
            module("intermediate.dense", "intermediate", HIDDEN, WIDE, Input::FeedForward),
            module("output.dense", "output", WIDE, HIDDEN, Input::FeedForwardOutput),
        ],
        other_linears: vec!["bert.pooler.dense".into()],
        tables: ["word", "position", "token_type"].map(|table| format!("bert.embeddings.{table}_embeddings")).into(),
        head: vec![
            head("classifier.weight", &[Dim::Labels, Dim::Fixed(HIDDEN)], true),
            head("classifier.bias", &[Dim::Labels], true),
            head("bert.pooler.dense.weight", &[Dim::Fixed(HIDDEN), Dim::Fixed(HIDDEN)], false),
            head("bert.pooler.dense.bias", &[Dim::Fixed(HIDDEN)], false),
        ],
        hidden: HIDDEN,
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bert").join(name)
}

/// A tensor of a file: its type, shape and bytes.
type Raw = (Dtype, Vec<usize>, Vec<u8>);

fn raw_tensors(dir: &Path) -> BTreeMap<String, Raw> {
    let bytes = std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let raw = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    tensors.iter().map(|(name, view)| (name.to_owned(), raw(view))).collect()
}

fn write_raw_tensors(dir: &Path, tensors: &BTreeMap<String, Raw>) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).expect("a tensor that fits its bytes"))
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(dir.join("adapter_model.safetensors"), bytes).unwrap();
}

fn f32_bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}
