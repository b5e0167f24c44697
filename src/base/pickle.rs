//! Checks what `torch.save` wrote before candle reads it. Candle's reader allocates the length that a string claims, and copies the
//! values that the memo names, so a small file could make it allocate any amount of memory. Here every length must lie inside the
//! file, and the sizes of the values on the stack are counted without making the values.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::ModelError;

/// The deepest nesting of values; no state dict nests deeper. The limit matters because candle drops values by recursion.
const DEEPEST: usize = 64;
/// The largest size of all values, as a multiple of the pickle's size. For pickles of `torch.save` it stays below 10.
const GROWTH: usize = 64;

/// Rejects the archive at `path` if reading one of its pickles could take memory out of proportion to the file.
///
/// # Errors
/// If the file is not an archive, or a pickle is malformed or grows too much.
pub(super) fn check(path: &Path) -> Result<(), ModelError> {
    let convert = |reason: String| ModelError::Convert { path: path.to_owned(), reason };
    let file = File::open(path).map_err(ModelError::io(path))?;
    let mut room = usize::try_from(file.metadata().map_err(ModelError::io(path))?.len()).unwrap_or(usize::MAX);
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(|error| convert(error.to_string()))?;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|error| convert(error.to_string()))?;
        let name = entry.name().map_err(|error| convert(error.to_string()))?.into_owned();
        if !name.ends_with("data.pkl") {
            continue;
        }
        let mut bytes = Vec::new();
        // The inflated pickles together must not be larger than the file.
        entry.take(room as u64 + 1).read_to_end(&mut bytes).map_err(ModelError::io(path))?;
        room = room.checked_sub(bytes.len()).ok_or_else(|| convert(format!("{name} is larger than the file")))?;
        Scan::new(&bytes).run().map_err(|reason| convert(format!("{name}: {reason}")))?;
    }
    Ok(())
}

/// The size of a value, in bytes or contained values, and the depth of its nesting.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    size: usize,
    depth: usize,
}

impl Weight {
    fn with(self, other: Self) -> Self {
        Self { size: self.size.saturating_add(other.size), depth: self.depth.max(other.depth) }
    }
}

/// Runs the pickle machine on the weights of values instead of the values. A mark is `None`.
pub(super) struct Scan<'a> {
    length: usize,
    rest: &'a [u8],
    stack: Vec<Option<Weight>>,
    memo: HashMap<u32, Weight>,
    /// The total size of all values made so far.
    made: usize,
    limit: usize,
}

impl<'a> Scan<'a> {
    /// Scans `bytes`, which begin with a pickle.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let limit = bytes.len().saturating_mul(GROWTH).saturating_add(4096);
        Self { length: bytes.len(), rest: bytes, stack: Vec::new(), memo: HashMap::new(), made: 0, limit }
    }

    /// Returns the length of the pickle.
    ///
    /// # Errors
    /// The reason why candle would not read it, or not in memory proportional to `bytes`.
    pub(super) fn run(mut self) -> Result<usize, String> {
        while self.step()? {}
        Ok(self.length - self.rest.len())
    }

    /// Runs one operation and returns whether more follow. The operations are those that candle reads.
    fn step(&mut self) -> Result<bool, String> {
        let [code] = self.take()?;
        match code {
            b'.' => return Ok(false),
            0x80 => self.skip(1)?,
            b'c' => {
                let size = self.line()? + self.line()?;
                self.push(size)?;
            }
            b'q' => self.put(|[id]: [u8; 1]| u32::from(id))?,
            b'r' => self.put(u32::from_le_bytes)?,
            b'h' => self.get(|[id]: [u8; 1]| u32::from(id))?,
            b'j' => self.get(u32::from_le_bytes)?,
            b'X' => {
                let size = u32::from_le_bytes(self.take()?) as usize;
                self.skip(size)?;
                self.push(size)?;
            }
            0x8a => {
                let [size] = self.take()?;
                self.skip(size.into())?;
                if size > 8 {
                    return Err(format!("a number of {size} bytes"));
                }
                self.push(8)?;
            }
            b'K' => self.number(1)?,
            b'M' => self.number(2)?,
            b'J' => self.number(4)?,
            b'G' => self.number(8)?,
            b')' | b'}' | b']' | b'd' | b'N' | 0x88 | 0x89 => self.push(1)?,
            b'(' => self.stack.push(None),
            b'Q' | 0x85 => self.wrap(1)?,
            b'R' | b'b' | 0x81 | 0x86 => self.wrap(2)?,
            0x87 => self.wrap(3)?,
            b't' => {
                let inside = self.drain()?;
                self.store(Weight { depth: inside.depth + 1, ..inside })?;
            }
            b'a' => {
                let value = self.pop()?;
                self.add(value)?;
            }
            b's' => {
                let pair = self.pop()?.with(self.pop()?);
                self.add(pair)?;
            }
            b'u' | b'e' => {
                let inside = self.drain()?;
                self.add(inside)?;
            }
            code => return Err(format!("operation {code:#04x} is not one of a state dict")),
        }
        Ok(true)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or("it ends early")?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn skip(&mut self, size: usize) -> Result<(), String> {
        let left = self.rest.len();
        self.rest = self.rest.get(size..).ok_or_else(|| format!("{size} bytes are claimed where {left} are left"))?;
        Ok(())
    }

    /// Reads up to a line feed and returns the length before it.
    fn line(&mut self) -> Result<usize, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or("a name has no end")?;
        self.skip(end + 1)?;
        Ok(end)
    }

    fn number(&mut self, size: usize) -> Result<(), String> {
        self.skip(size)?;
        self.push(8)
    }

    fn push(&mut self, size: usize) -> Result<(), String> {
        self.store(Weight { size, depth: 0 })
    }

    fn store(&mut self, weight: Weight) -> Result<(), String> {
        let weight = Weight { size: weight.size.saturating_add(1), ..weight };
        self.count(weight)?;
        self.stack.push(Some(weight));
        Ok(())
    }

    fn count(&mut self, weight: Weight) -> Result<(), String> {
        self.made = self.made.saturating_add(weight.size);
        if weight.depth > DEEPEST {
            return Err(format!("values nest deeper than {DEEPEST}"));
        }
        if self.made > self.limit {
            return Err(format!("its values grow to more than {GROWTH} times its length"));
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Weight, String> {
        self.stack.pop().flatten().ok_or_else(|| "a value is missing".to_owned())
    }

    fn wrap(&mut self, values: usize) -> Result<(), String> {
        let mut inside = Weight::default();
        for _ in 0..values {
            inside = inside.with(self.pop()?);
        }
        self.store(Weight { depth: inside.depth + 1, ..inside })
    }

    fn drain(&mut self) -> Result<Weight, String> {
        let mut inside = Weight::default();
        loop {
            match self.stack.pop().ok_or("a mark is missing")? {
                Some(weight) => inside = inside.with(weight),
                None => return Ok(inside),
            }
        }
    }

    /// Adds `value` to the collection on top of the stack.
    fn add(&mut self, value: Weight) -> Result<(), String> {
        let top = self.stack.last_mut().and_then(Option::as_mut).ok_or("a collection is missing")?;
        *top = top.with(Weight { depth: value.depth + 1, ..value });
        let depth = Weight { size: 0, ..*top };
        self.count(depth)
    }

    fn put<const N: usize>(&mut self, id: impl Fn([u8; N]) -> u32) -> Result<(), String> {
        let id = id(self.take()?);
        let top = self.stack.last().copied().flatten().ok_or("a value to keep is missing")?;
        self.count(top)?;
        self.memo.insert(id, top);
        Ok(())
    }

    fn get<const N: usize>(&mut self, id: impl Fn([u8; N]) -> u32) -> Result<(), String> {
        let id = id(self.take()?);
        let known = *self.memo.get(&id).ok_or_else(|| format!("nothing was kept as {id}"))?;
        self.store(known)
    }
}

#[cfg(test)]
mod tests {
    use super::Scan;

    fn assert_error(bytes: &[u8], reason: &str) {
        match Scan::new(bytes).run() {
            Err(found) => assert!(found.contains(reason), "{found:?} where {reason:?} was expected"),
            Ok(_) => panic!("{bytes:?} passed where {reason:?} was expected"),
        }
    }

    #[test]
    fn accepts_a_small_state_dict() {
        let mut pickle = b"\x80\x02}q\x00(X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02(".to_vec();
        pickle.extend(
            b"(X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpu",
        );
        pickle.extend(b"K\x04tQK\x00K\x02K\x02\x86K\x02K\x01\x86\x89ccollections\nOrderedDict\n)RtRu.");
        assert_eq!(Scan::new(&pickle).run(), Ok(pickle.len()));
        let more = [&pickle[..], b"more"].concat();
        assert_eq!(Scan::new(&more).run(), Ok(pickle.len()));
        for end in 0..pickle.len() {
            assert!(Scan::new(&pickle[..end]).run().is_err(), "cut at {end}");
        }
    }

    #[test]
    fn rejects_lengths_beyond_the_end() {
        assert_error(b"X\xff\xff\xff\xffabc.", "4294967295 bytes are claimed where 4 are left");
        assert_error(b"\x8a\x20\x01.", "32 bytes are claimed where 2 are left");
        assert_error(b"\x8a\x09123456789.", "a number of 9 bytes");
    }

    #[test]
    fn rejects_copies_of_copies() {
        let mut pickle = b"]q\x00".to_vec();
        for _ in 0..40 {
            pickle.extend(b"h\x00h\x00\x86q\x00");
        }
        pickle.push(b'.');
        assert_error(&pickle, "grow to more than");
    }

    #[test]
    fn rejects_deep_nesting() {
        let mut pickle = b"N".to_vec();
        pickle.extend([0x85; 100]);
        pickle.push(b'.');
        assert_error(&pickle, "nest deeper");
        let mut lists = vec![b']'; 100];
        lists.extend([b'a'; 99]);
        lists.push(b'.');
        assert_error(&lists, "nest deeper");
    }

    #[test]
    fn rejects_missing_operands() {
        assert_error(b"R.", "a value is missing");
        assert_error(b"Nt.", "a mark is missing");
        assert_error(b"h\x07.", "nothing was kept as 7");
        assert_error(b"(a.", "a value is missing");
        assert_error(b"Na.", "a collection is missing");
        assert_error(b"q\x00.", "a value to keep is missing");
        assert_error(b"cos\nsystem", "a name has no end");
        assert_error(b"i.", "operation 0x69");
        assert_error(b"", "it ends early");
    }
}
