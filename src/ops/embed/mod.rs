//! The sum of rows looked up in several tables.

mod cpu;
mod reference;

pub(super) use cpu::cpu;
pub(super) use reference::reference;
