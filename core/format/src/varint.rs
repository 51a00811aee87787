//! Unsigned LEB128 numbers: seven bits a byte, low group first, as the page index of LTX holds them.

/// Bytes of the longest `u64`.
pub(crate) const MAX_LEN: usize = 10;

/// Appends a number in its shortest form.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number from the front of a slice. `None` if the slice ends within it, or if it does not fit
/// into 64 bits, or if it is not in its shortest form.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().enumerate().take(MAX_LEN) {
        if i == MAX_LEN - 1 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            let shortest = byte != 0 || i == 0;
            *bytes = &bytes[i + 1..];
            return shortest.then_some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, value);
        out
    }

    #[test]
    fn lengths_change_at_powers_of_128() {
        for (shift, len) in [(7, 1), (14, 2), (21, 3), (28, 4), (35, 5), (63, 9)] {
            assert_eq!(encoded((1 << shift) - 1).len(), len);
            assert_eq!(encoded(1 << shift).len(), len + 1);
        }
        assert_eq!(encoded(u64::MAX).len(), MAX_LEN);
    }

    #[test]
    fn long_forms_overruns_and_cut_numbers_are_refused() {
        let long: [&[u8]; 6] = [
            &[],
            &[0x80],
            &[0x80, 0x00],
            &[0xff, 0x80, 0x00],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            &[0xff; 11],
        ];
        for mut bytes in long {
            assert_eq!(take(&mut bytes), None, "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn every_number_comes_back_and_leaves_the_rest(value: u64, shift in 0_u32..64, tail: Vec<u8>) {
            let value = value >> shift;
            let mut bytes = encoded(value);
            bytes.extend_from_slice(&tail);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(take(&mut rest), Some(value));
            prop_assert_eq!(rest, tail.as_slice());
        }
    }
}
