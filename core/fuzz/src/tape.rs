//! An input that says step by step what to do, and which bytes to do it with.

/// The rest of an input. At its end it gives zeros, so that every input means something.
#[derive(Clone, Copy, Debug)]
pub struct Tape<'a>(&'a [u8]);

impl<'a> Tape<'a> {
    /// All of it.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub fn ended(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    /// The next number, below a million and a half.
    pub fn number(&mut self) -> usize {
        // The square of the first byte, roughly: small and large ones are equally near.
        let (high, low) = (usize::from(self.byte()), usize::from(self.byte()));
        high * high * 22 + low
    }

    /// The next number, below this one, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.number() % bound
    }

    /// As many of the next bytes as there are.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes in front of which stands their length.
    pub fn run(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()) << 8 | usize::from(self.byte());
        self.take(len)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// These bytes in pieces, some of them empty; at least one piece.
    pub fn cut<'b>(&mut self, mut bytes: &'b [u8]) -> Vec<&'b [u8]> {
        let mut pieces = Vec::new();
        for _ in 0..self.byte() % 16 {
            let (piece, rest) = bytes.split_at(self.number().min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces.push(bytes);
        pieces
    }
}
