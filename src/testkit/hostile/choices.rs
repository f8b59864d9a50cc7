//! Decisions read from bytes: how a fuzzer, which knows bytes only, writes trees, payloads and
//! histories.

/// The bytes that are left. When there are none every decision is the first one, so that each input
/// is a whole case.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    /// Decisions from these bytes.
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) =
            self.rest.split_first().map_or((0, self.rest), |(first, rest)| (*first, rest));
        self.rest = rest;
        first
    }

    /// A number below `end`, which is at most 256; zero if that is zero.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()).checked_rem(end).unwrap_or(0)
    }

    /// Yes, once in so many times; never when no bytes are left.
    pub fn one_in(&mut self, times: usize) -> bool {
        !self.rest.is_empty() && self.below(times) == times - 1
    }

    /// One of several, of which there is one at least.
    pub fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }

    /// At most `most` bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let length = self.below(most + 1).min(self.rest.len());
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    /// A text of at most `most` bytes; what is no UTF-8 is replaced.
    pub fn text(&mut self, most: usize) -> String {
        String::from_utf8_lossy(self.bytes(most)).into_owned()
    }

    /// Everything that is left, as text.
    pub fn remainder(&mut self) -> String {
        String::from_utf8_lossy(std::mem::take(&mut self.rest)).into_owned()
    }
}
