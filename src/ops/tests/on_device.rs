//! The same tests on a GPU: operations that copy their inputs to the GPU, run there, and copy their results back. Gradients flow
//! through the copies.

use std::sync::OnceLock;

use super::*;
use crate::cuda;

/// Operations on another device.
#[derive(Debug)]
pub(super) struct OnDevice(Backend);

/// The GPU's operations on the device that the environment names ([`cuda::test_device`]). Without one, the kernels run on the CPU.
pub(super) fn asked() -> Option<&'static OnDevice> {
    static ASKED: OnceLock<Option<OnDevice>> = OnceLock::new();
    ASKED.get_or_init(|| cuda::test_device().map(|device| OnDevice(Backend::native(device)))).as_ref()
}

/// The device of the GPU's operations: the CPU where their kernels run there.
pub(super) fn device() -> &'static Device {
    asked().map_or(CPU, |asked| asked.0.device())
}

impl OnDevice {
    fn ops(&self) -> &'static dyn Ops {
        of(&self.0)
    }

    fn there(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.to_device(self.0.device())
    }

    fn param(&self, param: &Param) -> Result<Param> {
        Ok(match param {
            Param::Frozen(frozen) => Param::Frozen(frozen.clone().placed(&self.0)?),
            Param::Tensor(tensor) => Param::Tensor(self.there(tensor)?),
        })
    }

    fn delta(&self, delta: &Delta) -> Result<Delta> {
        Ok(Delta { a: self.there(&delta.a)?, b: self.there(&delta.b)?, scale: delta.scale })
    }

    fn deltas(&self, segments: &[Segment]) -> Result<Vec<Delta>> {
        segments.iter().map(|segment| self.delta(segment.delta)).collect()
    }

    fn qkv(&self, qkv: [&Tensor; 3]) -> Result<[Tensor; 3]> {
        let [q, k, v] = qkv;
        Ok([self.there(q)?, self.there(k)?, self.there(v)?])
    }
}

/// The same rows, changed by copies of their deltas.
fn segments<'a>(segments: &[Segment], deltas: &'a [Delta]) -> Vec<Segment<'a>> {
    segments.iter().zip(deltas).map(|(segment, delta)| Segment { rows: segment.rows.clone(), delta }).collect()
}

fn here(tensor: Result<Tensor>) -> Result<Tensor> {
    tensor?.to_device(CPU)
}

impl Ops for OnDevice {
    fn embed(&self, lookups: &[(&Param, &[u32])], _: &Device) -> Result<Tensor> {
        let tables = lookups.iter().map(|(table, _)| self.param(table)).collect::<Result<Vec<_>>>()?;
        let lookups: Vec<(&Param, &[u32])> =
            tables.iter().zip(lookups).map(|(table, (_, ids))| (table, *ids)).collect();
        here(self.ops().embed(&lookups, self.0.device()))
    }

    fn gather(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        here(self.ops().gather(&self.there(x)?, rows))
    }

    fn mean(&self, x: &Tensor, offsets: &[usize]) -> Result<Tensor> {
        here(self.ops().mean(&self.there(x)?, offsets))
    }

    fn head_linears(&self, x: &Tensor, linears: &[HeadLinear]) -> Result<Tensor> {
        let moved = linears.iter().map(|linear| {
            let (weight, bias) = (self.param(&linear.weight)?, self.param(&linear.bias)?);
            Ok(HeadLinear { rows: linear.rows, weight, bias })
        });
        here(self.ops().head_linears(&self.there(x)?, &moved.collect::<Result<Vec<_>>>()?))
    }

    fn linears(&self, x: &Tensor, linears: &[Linear]) -> Result<Vec<Tensor>> {
        let deltas = linears.iter().map(|linear| match &linear.added {
            Added::Segments(all) => self.deltas(all),
            Added::Nothing | Added::Whole(_) | Added::Trained(_) => Ok(Vec::new()),
        });
        let deltas = deltas.collect::<Result<Vec<_>>>()?;
        let moved = linears.iter().zip(&deltas).map(|(linear, deltas)| {
            let added = match &linear.added {
                Added::Nothing => Added::Nothing,
                Added::Whole(delta) => Added::Whole(self.delta(delta)?),
                // It is on the device already.
                Added::Trained(delta) => Added::Trained(delta.clone()),
                Added::Segments(all) => Added::Segments(segments(all, deltas)),
            };
            let (weight, bias) = (self.param(&linear.weight)?, self.param(&linear.bias)?);
            Ok(Linear { weight, bias, added, gelu: linear.gelu })
        });
        let moved = moved.collect::<Result<Vec<_>>>()?;
        self.ops().linears(&self.there(x)?, &moved)?.into_iter().map(|y| here(Ok(y))).collect()
    }

    fn add_segments(&self, x: &Tensor, y: &Tensor, all: &[Segment]) -> Result<Tensor> {
        let deltas = self.deltas(all)?;
        here(self.ops().add_segments(&self.there(x)?, &self.there(y)?, &segments(all, &deltas)))
    }

    fn norm(&self, h: &Tensor, residual: Option<&Tensor>, norm: &Norm) -> Result<Tensor> {
        let residual = residual.map(|residual| self.there(residual)).transpose()?;
        let (weight, bias) = (self.param(norm.weight)?, self.param(norm.bias)?);
        let norm = Norm { weight: &weight, bias: &bias, eps: norm.eps };
        here(self.ops().norm(&self.there(h)?, residual.as_ref(), &norm))
    }

    fn gelu(&self, x: &Tensor) -> Result<Tensor> {
        here(self.ops().gelu(&self.there(x)?))
    }

    fn gated_gelu(&self, x: &Tensor) -> Result<Tensor> {
        here(self.ops().gated_gelu(&self.there(x)?))
    }

    fn rotate(&self, x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        here(self.ops().rotate(&self.there(x)?, rotary))
    }

    fn attention(&self, qkv: [&Tensor; 3], heads: &Heads) -> Result<Tensor> {
        let [q, k, v] = self.qkv(qkv)?;
        let bias = heads.bias.map(|bias| self.there(bias)).transpose()?;
        let heads = Heads { bias: bias.as_ref(), ..heads.clone() };
        here(self.ops().attention([&q, &k, &v], &heads))
    }

    fn disentangled_attention(
        &self,
        qkv: [&Tensor; 3],
        positions: &Tensor,
        how: &Disentangled,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        let [q, k, v] = self.qkv(qkv)?;
        here(self.ops().disentangled_attention([&q, &k, &v], &self.there(positions)?, how, dropout))
    }

    fn dropout(&self, h: &Tensor, dropout: Dropout) -> Result<Tensor> {
        here(self.ops().dropout(&self.there(h)?, dropout))
    }

    fn join(&self, tensors: &[&Tensor]) -> Result<Tensor> {
        let moved = tensors.iter().map(|tensor| self.there(tensor)).collect::<Result<Vec<_>>>()?;
        here(self.ops().join(&moved.iter().collect::<Vec<_>>()))
    }

    fn split(&self, vector: &Tensor, shapes: &[Shape], dtype: DType) -> Result<Vec<Var>> {
        let vars = self.ops().split(&self.there(vector)?, shapes, dtype)?;
        vars.iter().map(|var| Var::from_tensor(&var.as_detached_tensor().to_device(CPU)?)).collect()
    }

    fn assign(&self, vector: &Tensor, vars: &[&Var]) -> Result<()> {
        let moved = vars.iter().map(|var| Var::from_tensor(&self.there(var)?)).collect::<Result<Vec<_>>>()?;
        self.ops().assign(&self.there(vector)?, &moved.iter().collect::<Vec<_>>())?;
        vars.iter().zip(moved).try_for_each(|(var, moved)| var.set(&moved.as_detached_tensor().to_device(CPU)?))
    }
}

/// A method that is not overridden would run the reference on the CPU, and its tests would show nothing about the GPU.
#[test]
fn every_operation_runs_on_the_device() {
    let names = |source: &str, start: &str| -> Vec<String> {
        let start = source.find(start).unwrap();
        let body = &source[start..start + source[start..].find("\n}\n").unwrap()];
        let lines = body.lines().filter_map(|line| line.strip_prefix("    fn "));
        lines.map(|line| line.split(['(', '<']).next().unwrap().to_owned()).collect()
    };
    let all = names(include_str!("../mod.rs"), "pub trait Ops");
    assert!(all.len() >= 10, "{all:?}");
    assert_eq!(names(include_str!("on_device.rs"), "impl Ops for OnDevice"), all);
}
