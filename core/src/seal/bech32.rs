//! The text of keys: Bech32 (BIP 173) without its limit of length.
//!
//! Our own because a private key goes through it: the usual crate leaves its digits behind in memory that it has given
//! back. Everything here that holds some of a key is made in its final size and wiped.

use zeroize::Zeroizing;

const DIGITS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
/// Digits of the checksum.
const CHECKSUM: usize = 6;
/// What the checksum of a text that is right comes to. (In Bech32m it is another number.)
const RIGHT: u32 = 1;
/// The one reason that is told: which digit is wrong could tell a part of the key.
const WRONG: &str = "not well-formed, or mistyped";

/// The text of a key, in the case of its prefix.
pub(super) fn encode(prefix: &str, bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + 1 + (bytes.len() * 8).div_ceil(5) + CHECKSUM));
    let upper = prefix.starts_with(|c: char| c.is_ascii_uppercase());
    let mut push = |digit: u8| {
        let letter = char::from(DIGITS[usize::from(digit)]);
        text.push(if upper { letter.to_ascii_uppercase() } else { letter });
    };
    let mut sum = Sum::of(prefix);
    let (mut held, mut bits) = (0_u32, 0);
    for byte in bytes {
        (held, bits) = ((held << 8 | u32::from(*byte)) & 0xfff, bits + 8);
        while bits >= 5 {
            bits -= 5;
            let digit = (held >> bits & 31) as u8;
            sum.add(digit);
            push(digit);
        }
    }
    if bits > 0 {
        let digit = (held << (5 - bits) & 31) as u8;
        sum.add(digit);
        push(digit);
    }
    (0..CHECKSUM).for_each(|_| sum.add(0));
    let checksum = sum.0 ^ RIGHT;
    (0..CHECKSUM).rev().for_each(|i| push((checksum >> (5 * i) & 31) as u8));
    text.insert(0, '1');
    text.insert_str(0, prefix);
    text
}

/// The bytes of a key whose text begins with this prefix and a `1`, all of it in the prefix's case.
pub(super) fn decode(prefix: &str, text: &str) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let letters = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('1')).ok_or(WRONG)?.as_bytes();
    let upper = prefix.starts_with(|c: char| c.is_ascii_uppercase());
    let count = letters.len().checked_sub(CHECKSUM).ok_or(WRONG)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(count * 5 / 8));
    let mut sum = Sum::of(prefix);
    let (mut held, mut bits) = (0_u32, 0);
    for (i, letter) in letters.iter().enumerate() {
        let other_case = if upper { letter.is_ascii_lowercase() } else { letter.is_ascii_uppercase() };
        let digit = DIGITS.iter().position(|digit| *digit == letter.to_ascii_lowercase()).filter(|_| !other_case);
        let digit = digit.ok_or(WRONG)? as u8;
        sum.add(digit);
        if i >= count {
            continue;
        }
        (held, bits) = ((held << 5 | u32::from(digit)) & 0xfff, bits + 5);
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 0xff) as u8);
        }
    }
    // What is left over fills up the last digit: less than a digit, and nothing.
    let spare = held & ((1 << bits) - 1);
    if sum.0 == RIGHT && bits < 5 && spare == 0 { Ok(bytes) } else { Err(WRONG) }
}

/// The checksum over what was added.
struct Sum(u32);

impl Sum {
    fn of(prefix: &str) -> Self {
        let mut sum = Self(1);
        let letters = prefix.bytes().map(|byte| byte.to_ascii_lowercase());
        letters.clone().for_each(|letter| sum.add(letter >> 5));
        sum.add(0);
        letters.for_each(|letter| sum.add(letter & 31));
        sum
    }

    fn add(&mut self, digit: u8) {
        let top = self.0 >> 25;
        self.0 = (self.0 & 0x01ff_ffff) << 5 ^ u32::from(digit);
        GENERATOR.iter().enumerate().filter(|(i, _)| top >> i & 1 == 1).for_each(|(_, term)| self.0 ^= term);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_standard_are_told_apart() {
        // BIP 173, with data of whole bytes.
        let known = "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw";
        assert_eq!(decode("abcdef", known).expect("valid").len(), 20);
        assert_eq!(*encode("abcdef", &decode("abcdef", known).expect("valid")), known);
        assert_eq!(decode("a", "a12uel5l").expect("valid").len(), 0);
        assert_eq!(decode("A", "A12UEL5L").expect("valid").len(), 0);
        for (prefix, wrong) in [
            ("A", "A1G7SGD8"),
            ("a", "a12uel5L"),
            ("A", "A12uel5l"),
            ("a", "A12UEL5L"),
            // The same text as Bech32m.
            ("a", "a1lqfn3a"),
            ("a", "a1"),
            ("a", "a"),
            ("a", "b12uel5l"),
            ("abcdef", "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqx"),
            ("age", "age1pq1qqqqqq"),
            ("age", "age1äääääääää"),
        ] {
            assert!(decode(prefix, wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back_and_no_changed_letter_is_taken(
            bytes in prop::collection::vec(any::<u8>(), 0..80), upper: bool, at: prop::sample::Index, to in 0_u8..128,
        ) {
            let prefix = if upper { "AGE-SECRET-KEY-" } else { "age" };
            let text = encode(prefix, &bytes);
            prop_assert_eq!(text.capacity(), text.len());
            prop_assert_eq!(&**decode(prefix, &text).expect("valid"), &bytes);
            // The usual crate agrees.
            let (found, digits, _) = bech32::decode(&text).expect("valid");
            prop_assert_eq!(found, prefix.to_ascii_lowercase());
            prop_assert_eq!(<Vec<u8> as bech32::FromBase32>::from_base32(&digits).expect("valid"), bytes);
            let mut changed = text.as_bytes().to_vec();
            let at = at.index(changed.len());
            if changed[at] != to {
                changed[at] = to;
                prop_assert!(decode(prefix, std::str::from_utf8(&changed).expect("text")).is_err());
            }
        }
    }
}
