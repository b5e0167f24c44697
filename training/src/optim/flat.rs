//! Adam's state of all variables on a device. Hundreds of small tensors would mean thousands of small launches a step, so that variables
//! which step alike are joined into one long vector.

use candle_core::{Result, Tensor, Var};
use polyrank::ops::Ops;

use super::clip::clip_on_device;
use super::{Descent, Group, Moments, Rule, Step, Variable};

/// Variables that step alike: of one group, and with equally many steps in their moments.
struct Section {
    /// The variables, by index, in ascending order.
    which: Vec<usize>,
    group: Group,
    /// Adam's state, vectors of the variables' elements one after another. `None` for plain gradient descent.
    moments: Option<Moments>,
}

/// Adam's state of all variables, on their device.
pub(super) struct Flat {
    ops: &'static dyn Ops,
    /// Each variable is in one section.
    sections: Vec<Section>,
}

impl Flat {
    /// The state before the first step.
    pub(super) fn new(variables: &[Variable], ops: &'static dyn Ops) -> Result<Self> {
        let zeros = |variable: &Variable| Moments::zeros(&variable.var);
        let moments = variables.iter().map(zeros).collect::<Result<Vec<_>>>()?;
        Ok(Self { ops, sections: sections(variables, &vec![true; variables.len()], &moments, ops)? })
    }

    /// The moments of variable `i`: views, which are not copied.
    pub(super) fn moments(&self, variables: &[Variable], i: usize) -> Result<Moments> {
        let zeros = || Moments::zeros(&variables[i].var);
        let Some(section) = self.sections.iter().find(|section| section.which.contains(&i)) else { return zeros() };
        let Some(Moments { first, second, steps }) = &section.moments else { return zeros() };
        let before = section.which.iter().take_while(|other| **other != i);
        let start = before.map(|other| variables[*other].var.elem_count()).sum();
        let var = &variables[i].var;
        let part = |vector: &Tensor| vector.narrow(0, start, var.elem_count())?.reshape(var.shape());
        Ok(Moments { first: part(first)?, second: part(second)?, steps: *steps })
    }

    /// Sets the moments of the variables that `of` gives; `None` leaves a variable's as they are.
    pub(super) fn set(&mut self, variables: &[Variable], of: impl Fn(usize) -> Result<Option<Moments>>) -> Result<()> {
        self.rebuild(variables, &vec![true; variables.len()], of)
    }

    /// Joins the variables anew. Those that are `active` are joined apart from the others.
    fn rebuild(
        &mut self,
        variables: &[Variable],
        active: &[bool],
        of: impl Fn(usize) -> Result<Option<Moments>>,
    ) -> Result<()> {
        let moments = (0..variables.len()).map(|i| of(i)?.map_or_else(|| self.moments(variables, i), Ok));
        self.sections = sections(variables, active, &moments.collect::<Result<Vec<_>>>()?, self.ops)?;
        Ok(())
    }

    /// Clips the gradients of `step` and makes the step. Returns the gradients' norm before clipping, a scalar on the device.
    pub(super) fn apply(&mut self, variables: &[Variable], step: &Step, rule: &Rule) -> Result<Tensor> {
        let active: Vec<bool> = step.gradients.iter().map(Option::is_some).collect();
        let mixed = |section: &Section| section.which.iter().any(|&i| active[i] != active[section.which[0]]);
        if self.sections.iter().any(mixed) {
            self.rebuild(variables, &active, |_| Ok(None))?;
        }
        let ops = self.ops;
        let sections: Vec<&mut Section> = self.sections.iter_mut().filter(|section| active[section.which[0]]).collect();
        let joined = |section: &&mut Section| {
            ops.join(&section.which.iter().filter_map(|&i| step.gradients[i].as_ref()).collect::<Vec<_>>())
        };
        let mut gradients = sections.iter().map(joined).collect::<Result<Vec<_>>>()?;
        let norm = clip_on_device(&mut gradients, rule.clip.unwrap_or(f64::INFINITY))?;
        for (section, gradient) in sections.into_iter().zip(gradients) {
            let vars: Vec<&Var> = section.which.iter().map(|&i| &variables[i].var).collect();
            let before = ops.join(&vars.iter().map(|var| var.as_tensor()).collect::<Vec<_>>())?;
            let group = section.group;
            let after = match &mut section.moments {
                Some(moments) => {
                    let (after, held) = group.adam(step.rate, rule).on_device(&before, &gradient, moments)?;
                    *moments = held;
                    after
                }
                None => (before - (gradient * (step.rate * group.rate))?)?,
            };
            ops.assign(&after, &vars)?;
        }
        Ok(norm)
    }
}

/// Sections of the variables with these moments. Those that are `active` are in other sections than the others.
fn sections(
    variables: &[Variable],
    active: &[bool],
    moments: &[Moments],
    ops: &'static dyn Ops,
) -> Result<Vec<Section>> {
    let mut kinds: Vec<((bool, Group, usize), Vec<usize>)> = Vec::new();
    for (i, Variable { group, .. }) in variables.iter().enumerate() {
        let kind = (active[i], *group, moments[i].steps);
        match kinds.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, which)) => which.push(i),
            None => kinds.push((kind, vec![i])),
        }
    }
    let section = |((_, group, steps), which): ((bool, Group, usize), Vec<usize>)| {
        let joined =
            |of: fn(&Moments) -> &Tensor| ops.join(&which.iter().map(|&i| of(&moments[i])).collect::<Vec<_>>());
        let moments = match group.descent {
            Descent::AdamW => Some(Moments { first: joined(|m| &m.first)?, second: joined(|m| &m.second)?, steps }),
            Descent::Gradient => None,
        };
        Ok(Section { which, group, moments })
    };
    kinds.into_iter().map(section).collect()
}
