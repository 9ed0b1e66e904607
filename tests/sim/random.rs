//! The one source of chance of a simulation: splitmix64. The same seed gives the same numbers.

/// A stream of numbers.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed ^ 0x6f61_726c_6f63_6b00);
        random.next();
        random
    }

    /// A stream of its own, so that one user of chance does not shift another's.
    pub(crate) fn fork(&mut self) -> Self {
        Self::new(self.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn next_u128(&mut self) -> u128 {
        (u128::from(self.next()) << 64) | u128::from(self.next())
    }

    /// A number in `from..upto`.
    pub(crate) fn within(&mut self, from: u64, upto: u64) -> u64 {
        from + self.next() % (upto - from).max(1)
    }

    /// True so many times in a thousand.
    pub(crate) fn per_mille(&mut self, rate: u64) -> bool {
        self.next() % 1_000 < rate
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.next() as usize % from.len()]
    }

    /// Some of them, in their order, at least one.
    pub(crate) fn some_of<T: Copy>(&mut self, from: &[T]) -> Vec<T> {
        let some: Vec<T> = from.iter().copied().filter(|_| self.per_mille(500)).collect();
        if some.is_empty() { vec![*self.pick(from)] } else { some }
    }
}
