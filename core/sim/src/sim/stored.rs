//! Bytes of a file as programs see them and as a loss of power would leave them.

use super::rng::Rng;

/// What a loss of power does to writes that were not synced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loss {
    /// None of them arrived.
    All,
    /// All of them arrived.
    None,
    /// Some did, some in part, in any order.
    Some,
}

impl Loss {
    /// Draws one.
    pub fn draw(rng: &mut Rng) -> Self {
        rng.pick(&[Self::All, Self::None, Self::Some])
    }
}

/// The content of one file.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Ranges written since the last sync.
    dirty: Vec<(usize, usize)>,
}

impl Stored {
    /// Bytes that are on the disk.
    pub fn synced(bytes: Vec<u8>) -> Self {
        Self { durable: bytes.clone(), bytes, dirty: Vec::new() }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn is_synced(&self) -> bool {
        self.dirty.is_empty()
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Reads what is there.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let read = buf.len().min(self.bytes.len() - start);
        buf[..read].copy_from_slice(&self.bytes[start..start + read]);
        read
    }

    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
        self.dirty.push((offset, end));
    }

    pub fn set_len(&mut self, len: usize) {
        let before = self.bytes.len();
        self.bytes.resize(len, 0);
        self.dirty.push((before.min(len), before.max(len)));
    }

    pub fn sync(&mut self) {
        if !self.dirty.is_empty() {
            self.durable.clone_from(&self.bytes);
            self.dirty.clear();
        }
    }

    /// Power is lost and comes back.
    pub fn lose_power(&mut self, loss: Loss, rng: &mut Rng) {
        if self.dirty.is_empty() || loss == Loss::None {
            self.durable.clone_from(&self.bytes);
            self.dirty.clear();
            return;
        }
        let mut left = self.durable.clone();
        if loss == Loss::Some {
            if rng.percent(50) {
                left.resize(self.bytes.len(), 0);
            }
            for &(start, end) in &self.dirty {
                let landed = match rng.below(5) {
                    0 | 1 => end,
                    2 => start + rng.index(end - start + 1),
                    _ => continue,
                };
                let landed = landed.min(self.bytes.len());
                if start < landed {
                    if left.len() < landed {
                        left.resize(landed, 0);
                    }
                    left[start..landed].copy_from_slice(&self.bytes[start..landed]);
                }
            }
        }
        self.durable.clone_from(&left);
        self.bytes = left;
        self.dirty.clear();
    }

    /// One bit turns over, on the disk too.
    pub fn rot(&mut self, rng: &mut Rng) -> Option<usize> {
        if self.bytes.is_empty() {
            return None;
        }
        let at = rng.index(self.bytes.len());
        let bit = 1 << rng.below(8);
        self.bytes[at] ^= bit;
        if let Some(byte) = self.durable.get_mut(at) {
            *byte ^= bit;
        }
        Some(at)
    }
}
