//! The running checksum of a WAL.

/// Advances the checksum `state` over `bytes`, eight at a time.
///
/// The byte order is that of the words summed, as the magic number of the WAL says; the values themselves are
/// always stored big-endian (<https://sqlite.org/fileformat2.html#checksum_algorithm>). Bytes beyond the last
/// whole eight are left out; the format never has any.
#[must_use]
pub fn wal_checksum(big_endian: bool, state: (u32, u32), bytes: &[u8]) -> (u32, u32) {
    if big_endian { sum(state, bytes, u32::from_be_bytes) } else { sum(state, bytes, u32::from_le_bytes) }
}

#[inline]
fn sum((mut s0, mut s1): (u32, u32), bytes: &[u8], word: impl Fn([u8; 4]) -> u32) -> (u32, u32) {
    for eight in bytes.chunks_exact(8) {
        let x0 = word([eight[0], eight[1], eight[2], eight[3]]);
        let x1 = word([eight[4], eight[5], eight[6], eight[7]]);
        s0 = s0.wrapping_add(x0).wrapping_add(s1);
        s1 = s1.wrapping_add(x1).wrapping_add(s0);
    }
    (s0, s1)
}
