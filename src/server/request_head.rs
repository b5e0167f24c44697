//! What a request's head says of itself while it arrives, before hyper has read it.

/// The header with the length of a body.
const LENGTH: &[u8] = b"content-length:";

/// A number of fewer digits fits into 64 bits.
const HUGE: usize = 20;

/// Only so much of a line is looked at. A header with a length is shorter, but for spaces and zeros.
const LONGEST: usize = 256;

/// The head of one request, as far as it has arrived.
#[derive(Debug, Default)]
pub(super) struct RequestHead {
    /// The beginning of the line that is not complete yet.
    line: Vec<u8>,
    /// Whether its first line is complete.
    pub(super) has_line: bool,
    /// Whether it announces a body of a length that may not fit into 64 bits. hyper calls the head malformed then, or too large.
    pub(super) is_huge: bool,
    /// Whether its last line, which is empty, has arrived. What follows is the body.
    ended: bool,
}

impl RequestHead {
    /// Reads the next bytes. They may end anywhere in a line.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.ended {
                return;
            }
            self.line.extend(part.iter().take(LONGEST - self.line.len()));
            if part.ends_with(b"\n") {
                let line = self.line.trim_ascii();
                // Empty lines before the first one do not count.
                self.ended = self.has_line && line.is_empty();
                self.has_line |= !line.is_empty();
                self.is_huge |= announces_huge(line);
                self.line.clear();
            }
        }
    }
}

fn announces_huge(line: &[u8]) -> bool {
    let (name, value) = line.split_at_checked(LENGTH.len()).unwrap_or_default();
    let digits = value.trim_ascii().iter().skip_while(|byte| **byte == b'0');
    name.eq_ignore_ascii_case(LENGTH) && digits.clone().count() >= HUGE && digits.clone().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_lengths_are_seen_wherever_the_bytes_are_cut() {
        let (nines, zeros) = ("9".repeat(100), format!("{}15", "0".repeat(30)));
        for (length, huge) in [
            ("18446744073709551616", true),
            (&*nines, true),
            ("9999999999999999999", false),
            (&*zeros, false),
            ("1x", false),
        ] {
            let head = format!("\r\nPOST / HTTP/1.1\r\nHost: x\r\ncontent-LENGTH: \t{length}\r\n\r\n");
            for cut in 0..=head.len() {
                let (one, other) = head.as_bytes().split_at(cut);
                let mut read = RequestHead::default();
                read.read(one);
                read.read(other);
                assert!(read.has_line && read.ended && read.is_huge == huge, "{length} cut at {cut}");
            }
        }
        let mut body = RequestHead::default();
        body.read(format!("POST / HTTP/1.1\r\n\r\nContent-Length: {nines}\r\n").as_bytes());
        assert!(!body.is_huge, "this line is the body's");
        let mut long = RequestHead::default();
        (0..1000).for_each(|_| long.read(b"x"));
        assert!(long.line.len() == LONGEST && !long.has_line);
    }
}
