//! The sum of rows looked up in several tables, and the copy of rows of one tensor.

mod cpu;
mod cuda;
mod reference;

pub(super) use cpu::cpu;
pub(super) use cuda::{cuda, gather_cuda};
pub(super) use reference::{gather_reference, reference};
