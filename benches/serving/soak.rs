use crate::common::Failure;
use crate::options::World;
use crate::table::Line;
pub(crate) fn measure(_: &World) -> Result<Vec<Line>, Failure> { Ok(vec![]) }
