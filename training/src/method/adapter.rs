//! Houlsby's adapters (2019): a bottleneck after the attention's output linear and one after the feed-forward, in each layer, and a head.
//!
//! As in the authors' code (`feedforward_adapter` of google-research/adapter-bert), the activation is GELU, and the matrices are drawn from
//! N(0, 1e-3), cut off at two standard deviations, so that a bottleneck starts close to the identity. There, dropout comes before the
//! bottleneck; here, it comes after it. The authors also train the norms, which stay frozen here.

use candle_core::{Device, Result, Tensor, Var};
use polyrank::adapter::AdapterInfo;
use polyrank::encoder::{Head, Hooks};
use polyrank::params::{Backend, Layout, Site};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};

use super::{Bottleneck, Bottlenecks, Export, Method, Pass, PlainPass, Report, TrainedHead, sites};
use crate::optim::{Group, Variable};

/// The standard deviation of the matrices' initial values.
const SPREAD: f32 = 1e-3;

/// Trained bottlenecks and a head.
pub struct BottleneckAdapter {
    layout: Layout,
    backend: Backend,
    /// The variables after each site, by [`Layout::index`], in the order of [`Bottleneck::PARTS`].
    sites: Vec<Option<[Var; 4]>>,
    head: TrainedHead,
}

impl BottleneckAdapter {
    /// New bottlenecks of `size` values, drawn with the random seed `seed`.
    ///
    /// # Errors
    /// A tensor operation fails.
    pub fn new(
        layout: &Layout,
        size: usize,
        seed: u64,
        head: TrainedHead,
        backend: impl Into<Backend>,
    ) -> Result<Self> {
        let backend = backend.into();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut all = vec![None; layout.len()];
        for site in sites(layout) {
            let [down, down_bias, up, up_bias] = Bottleneck::shapes(size, layout.module(site).out_features)
                .map(|shape| start(&shape, &mut rng, backend.device()));
            all[layout.index(site)] = Some([down?, down_bias?, up?, up_bias?]);
        }
        Ok(Self { layout: layout.clone(), backend, sites: all, head })
    }

    /// The current bottleneck of these variables, made by `view`.
    fn bottleneck(parts: &[Var; 4], view: impl Fn(&Var) -> Result<Tensor>) -> Result<Bottleneck> {
        let [down, down_bias, up, up_bias] = parts.each_ref().map(view);
        Ok(Bottleneck::of([down?, down_bias?, up?, up_bias?]))
    }
}

/// A bias of zeros, or a matrix of small random values.
fn start(shape: &[usize], rng: &mut StdRng, device: &Device) -> Result<Var> {
    let count = shape.iter().product();
    let values = if shape.len() == 1 {
        vec![0.0; count]
    } else {
        let normal = StandardNormal.sample_iter(rng).filter(|x: &f32| x.abs() <= 2.0);
        normal.map(|x| SPREAD * x).take(count).collect()
    };
    Var::from_vec(values, shape, device)
}

impl Hooks for BottleneckAdapter {
    fn after(&self, site: Site, h: Tensor) -> Result<Tensor> {
        match &self.sites[self.layout.index(site)] {
            Some(parts) => Self::bottleneck(parts, |var| Ok(var.as_tensor().clone()))?.forward(&h, &self.backend),
            None => Ok(h),
        }
    }
}

impl Method for BottleneckAdapter {
    /// The four parts of each bottleneck, in order of execution, and then the head.
    fn variables(&self) -> Vec<Variable> {
        let named = self.layout.sites().zip(&self.sites).filter_map(|(site, parts)| Some((site, parts.as_ref()?)));
        let of = |(site, parts): (Site, &[Var; 4])| {
            let name = self.layout.name(site);
            let variable = |(part, var): (&str, &Var)| Variable {
                name: format!("{name}.{part}"),
                group: Group::of(var),
                var: var.clone(),
            };
            Bottleneck::PARTS.into_iter().zip(parts).map(variable).collect::<Vec<_>>()
        };
        named.flat_map(of).chain(self.head.variables()).collect()
    }

    fn head(&self) -> Head {
        self.head.tracked()
    }

    fn pass(&self) -> Result<Box<dyn Pass + '_>> {
        Ok(Box::new(PlainPass::new(self, self.variables())))
    }

    fn report(&self) -> Result<Report> {
        let parameters = self.sites.iter().flatten().flatten().map(|var| var.elem_count()).sum();
        Ok(Report { ranks: Vec::new(), parameters, kept: 1.0, xi: None })
    }

    fn export(&self, info: AdapterInfo) -> Result<Export> {
        let copy = |parts: &Option<[Var; 4]>| {
            parts.as_ref().map(|parts| Self::bottleneck(parts, |var| var.as_detached_tensor().copy())).transpose()
        };
        let sites = self.sites.iter().map(copy).collect::<Result<_>>()?;
        let (layout, backend) = (self.layout.clone(), self.backend.clone());
        Ok(Export::Bottlenecks(Bottlenecks { info, sites, layout, backend, head: self.head.copy()? }))
    }
}
