//! A first pass, before the first request.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{Engine, Error, Row};
use crate::adapter::{Adapter, AdapterInfo, AdapterWeights, Change};
use crate::params::{Delta, Dim};
use crate::text::Encoded;

/// The passes: how many texts, and their tokens. Large batches have other kernels than small ones.
const PASSES: [(usize, usize); 2] = [(1, 8), (32, 128)];

impl Engine {
    /// Runs a small and a large pass on a GPU, so that its kernels and handles are loaded before the first request. On the CPU there is
    /// nothing to load.
    ///
    /// # Errors
    /// If an operation fails.
    pub fn warm_up(&self) -> Result<(), Error> {
        if self.backend.on_host() {
            return Ok(());
        }
        // One text of two adapters also forks.
        let adapters = [Arc::new(self.zeros()?), Arc::new(self.zeros()?)];
        for (texts, tokens) in PASSES {
            let tokens = tokens.min(self.config().longest_text());
            // Texts that are equal run once.
            let texts = (0..texts as u32).map(|text| Encoded {
                ids: (0..tokens as u32).map(|token| (text + token) % self.config().vocab_size as u32).collect(),
                type_ids: vec![0; tokens],
                truncated: false,
            });
            let rows: Vec<Row> = texts
                .flat_map(|text| {
                    adapters.each_ref().map(|adapter| Row { text: text.clone(), adapter: Arc::clone(adapter) })
                })
                .collect();
            self.logits(&rows)?;
        }
        Ok(())
    }

    /// An adapter that changes nothing, with a delta at every site of the first layer and all tensors of a head.
    fn zeros(&self) -> Result<Adapter, Error> {
        let layout = self.layout();
        let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, self.device());
        let dtype = self.backend.dtype();
        let mut sites = Vec::with_capacity(layout.len());
        for site in layout.sites() {
            let module = layout.module(site);
            sites.push(if site.layer == 0 {
                let (a, b) = (zeros(&[1, module.in_features], dtype)?, zeros(&[module.out_features, 1], dtype)?);
                Some(Change::LowRank(Delta { a, b, scale: 1.0 }))
            } else {
                None
            });
        }
        let size = |dim: &Dim| match *dim {
            Dim::Labels => 2,
            Dim::Fixed(size) => size,
        };
        let head = layout.head.iter().map(|parameter| {
            let shape: Vec<usize> = parameter.shape.iter().map(size).collect();
            Ok::<_, Error>((parameter.name.clone(), zeros(&shape, DType::F32)?))
        });
        let labels = vec!["0".to_owned(), "1".to_owned()];
        Ok(Adapter {
            info: AdapterInfo { labels, problem_type: None, base_fingerprint: None, base_model: None },
            weights: AdapterWeights { sites, head: head.collect::<Result<_, _>>()? },
        })
    }
}
