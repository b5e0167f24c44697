//! What one step reads of a method, and how the gradients of what it reads become those of the variables.

use candle_core::{Result, Tensor};
use polyrank::encoder::Hooks;
use polyrank::ops::Added;
use polyrank::params::Site;

use crate::optim::Variable;

/// The hooks of one step. All micro-batches of the step share them.
pub trait Pass: Hooks + Send + Sync {
    /// The tensors whose gradients the step needs: the variables themselves, or tensors computed from them, such as a product of two
    /// variables or a copy in another type.
    fn leaves(&self) -> Vec<Tensor>;

    /// The gradients of the method's variables, in order, from those of [`Self::leaves`]; `None` if the loss does not depend on one.
    ///
    /// # Errors
    /// A tensor operation fails.
    fn gradients(&self, of_leaves: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>>;
}

/// A pass that reads the variables themselves.
pub struct PlainPass<'a> {
    hooks: &'a (dyn Hooks + Send + Sync),
    variables: Vec<Variable>,
}

impl<'a> PlainPass<'a> {
    /// A pass with `hooks`, which give the encoder these variables.
    #[must_use]
    pub fn new(hooks: &'a (dyn Hooks + Send + Sync), variables: Vec<Variable>) -> Self {
        Self { hooks, variables }
    }
}

impl Hooks for PlainPass<'_> {
    fn parameter(&self, name: &str) -> Result<Option<Tensor>> {
        self.hooks.parameter(name)
    }

    fn added(&self, site: Site) -> Result<Added<'_>> {
        self.hooks.added(site)
    }

    fn after(&self, site: Site, h: Tensor) -> Result<Tensor> {
        self.hooks.after(site, h)
    }
}

impl Pass for PlainPass<'_> {
    fn leaves(&self) -> Vec<Tensor> {
        self.variables.iter().map(|variable| variable.var.as_tensor().clone()).collect()
    }

    fn gradients(&self, of_leaves: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        Ok(of_leaves)
    }
}
