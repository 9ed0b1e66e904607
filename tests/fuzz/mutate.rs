//! Changes of inputs that decoders tend to stumble over.

/// Small and repeatable. Marsaglia's xorshift64.
pub(crate) struct Chance(u64);

/// Longest input: larger ones only cost time.
const INPUT_BYTES_MAX: usize = 4096;

const INTERESTING: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xfb\xff\xff",
    b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\"",
    b"{\"",
    b"[[[[[[[[",
    b"%2F%2e%2e/",
    b"%ff",
    b"\xed\xa0\x80",
    b"-1",
    b"1e400",
    b"18446744073709551616",
    b"\r\n\r\n",
];

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap_or(0)
    }

    /// One of the inputs, changed in a few places, sometimes joined with another.
    pub(crate) fn mutant(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        if self.below(8) == 0 {
            let other = &inputs[self.below(inputs.len())];
            bytes.truncate(self.below(bytes.len() + 1));
            bytes.extend_from_slice(&other[self.below(other.len() + 1)..]);
        }
        for _ in 0..=self.below(4) {
            self.change(&mut bytes);
        }
        bytes.truncate(INPUT_BYTES_MAX);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        match self.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap_or(0),
            2 => bytes.truncate(at),
            3 => {
                let until = (at + 1 + self.below(16)).min(bytes.len());
                bytes.drain(at.min(until)..until);
            }
            4 => {
                let from = self.below(bytes.len() + 1);
                let until = (from + self.below(32)).min(bytes.len());
                let copied = bytes[from..until].to_vec();
                bytes.splice(at..at, copied);
            }
            _ => {
                let what = INTERESTING[self.below(INTERESTING.len())];
                bytes.splice(at..at, what.iter().copied());
            }
        }
    }
}
