//! Opens an age file as its bytes arrive, in order, in pieces of any length.
//!
//! Plain bytes come out chunk by chunk, each authenticated before. Whether the file is whole is known when its
//! last piece was taken without an error, so nothing may be called good before.

use std::sync::Arc;

use super::SealError;
use super::auth::{Chain, Place};
use super::header::{Header, HeaderParser};
use super::keys::Keys;
use super::payload::{NONCE, PayloadKey, SEALED_CHUNK};

/// Opens one file.
pub(crate) struct Opener {
    keys: Arc<Keys>,
    place: Option<Place>,
    chain: Arc<Chain>,
    state: State,
    /// What is not used yet: the nonce or a chunk as far as they have come.
    carry: Vec<u8>,
}

enum State {
    Header(HeaderParser),
    Nonce(Header),
    Chunks {
        key: PayloadKey,
        /// The number of the next one.
        number: u64,
        /// The last one was opened.
        ended: bool,
    },
}

const FULL: usize = SEALED_CHUNK as usize;

impl Opener {
    /// An opener for the file at this place, if it is one of a replica.
    pub(crate) fn new(keys: Arc<Keys>, place: Option<Place>) -> Self {
        Self { keys, place, chain: Arc::default(), state: State::Header(HeaderParser::new()), carry: Vec::new() }
    }

    /// The same among files that were read before.
    pub(crate) fn among(self, chain: Arc<Chain>) -> Self {
        Self { chain, ..self }
    }

    /// Takes the next bytes of the file; `last`: it ends with them. Plain bytes are added to `out`.
    pub(crate) fn feed(&mut self, mut input: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), SealError> {
        loop {
            match &mut self.state {
                State::Header(parser) => match parser.feed(input)? {
                    Some((header, taken)) => {
                        input = &input[taken..];
                        self.state = State::Nonce(header);
                    }
                    None if last => return Err(parser.ended()),
                    None => return Ok(()),
                },
                State::Nonce(header) => {
                    let taken = input.len().min(NONCE - self.carry.len());
                    self.carry.extend_from_slice(&input[..taken]);
                    input = &input[taken..];
                    let Ok(nonce) = <[u8; NONCE]>::try_from(self.carry.as_slice()) else {
                        return if last { Err(SealError::Header("the file ends within its nonce")) } else { Ok(()) };
                    };
                    self.carry.clear();
                    let file_key = self.keys.open_header(header, self.place, &self.chain)?;
                    self.state = State::Chunks { key: PayloadKey::new(&file_key, &nonce), number: 0, ended: false };
                }
                State::Chunks { key, number, ended } => {
                    return chunks(&mut self.carry, key, number, ended, input, last, out);
                }
            }
        }
    }
}

fn chunks(
    carry: &mut Vec<u8>,
    key: &PayloadKey,
    number: &mut u64,
    ended: &mut bool,
    mut input: &[u8],
    last: bool,
    out: &mut Vec<u8>,
) -> Result<(), SealError> {
    out.reserve(input.len() + carry.len());
    loop {
        // A whole chunk from one piece is not carried.
        let direct = carry.is_empty() && input.len() >= FULL;
        let taken = input.len().min(FULL - carry.len());
        if !direct {
            carry.extend_from_slice(&input[..taken]);
        }
        let chunk = if direct { &input[..taken] } else { carry.as_slice() };
        let at_end = last && taken == input.len();
        if chunk.len() < FULL && !at_end {
            return Ok(());
        }
        if *ended && !chunk.is_empty() {
            return Err(SealError::Payload { chunk: *number, why: "data follows the end" });
        }
        if *ended {
            return Ok(());
        }
        *ended = open_chunk(key, *number, chunk, out)?;
        *number += 1;
        carry.clear();
        input = &input[taken..];
        if input.is_empty() {
            return match last && !*ended {
                true => Err(SealError::Payload { chunk: *number, why: "the end is missing" }),
                false => Ok(()),
            };
        }
    }
}

/// Opens a chunk that is full, or whatever there is at the end. Whether it was the last one.
fn open_chunk(key: &PayloadKey, number: u64, chunk: &[u8], out: &mut Vec<u8>) -> Result<bool, SealError> {
    let start = out.len();
    let mut attempt = |last: bool| {
        out.truncate(start);
        out.extend_from_slice(chunk);
        let opened = key.open(number, last, &mut out[start..]);
        out.truncate(start + *opened.as_ref().unwrap_or(&0));
        opened
    };
    if chunk.len() == FULL && attempt(false).is_ok() {
        return Ok(false);
    }
    // Only data that is empty altogether ends with an empty chunk.
    match attempt(true)? {
        0 if number > 0 => Err(SealError::Payload { chunk: number, why: "an empty chunk ends it" }),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use age_core::format::FileKey;
    use age_core::secrecy::ExposeSecret;

    use super::*;
    use crate::seal::{Chain, Identities, IdentityKind, KeysBuilder, Link, Recipients, generate_identity};
    use replicate_format::{Level, Txid, TxidRange};

    /// A small sealed file, and what is needed to open parts of it.
    struct Sample {
        keys: Arc<Keys>,
        place: Place,
        bytes: Vec<u8>,
        header: usize,
        file_key: [u8; 16],
    }

    fn place(txid: u64) -> Place {
        Place { level: Level::L0, txids: TxidRange::single(Txid(txid)).expect("valid") }
    }

    fn sample(len: usize, auth: bool) -> Sample {
        sample_for(IdentityKind::X25519, len, auth)
    }

    fn sample_for(kind: IdentityKind, len: usize, auth: bool) -> Sample {
        let made = generate_identity(kind).expect("made");
        let recipients = Some(Recipients::parse(&made.recipient).expect("a recipient"));
        let identities = Some(Identities::parse(&made.identity).expect("an identity"));
        let auth_key = auth.then(|| Box::new(zeroize::Zeroizing::new([9; 32])));
        let keys =
            KeysBuilder { recipients, identities, auth_key, ..KeysBuilder::default() }.build().expect("they fit");
        seal_with(&Arc::new(keys), len)
    }

    fn seal_with(keys: &Arc<Keys>, len: usize) -> Sample {
        let place = place(7);
        let (mut bytes, key, _) = keys.start_file(place, Link::NONE).expect("sealed").expect("there are recipients");
        let header = bytes.len() - NONCE;
        let plain: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        // Data that is empty has one chunk, too.
        let first = &plain[..plain.len().min(crate::seal::CHUNK as usize)];
        let chunks = std::iter::once(first).chain(plain.chunks(crate::seal::CHUNK as usize).skip(1));
        let last = (plain.len() as u64).div_ceil(crate::seal::CHUNK).saturating_sub(1);
        for (number, chunk) in (0..).zip(chunks) {
            let mut chunk = chunk.to_vec();
            let tag = key.seal(number, number == last, &mut chunk);
            bytes.extend_from_slice(&chunk);
            bytes.extend_from_slice(&tag);
        }
        let (parsed, _) = HeaderParser::new().feed(&bytes).expect("a header").expect("whole");
        let file_key = *keys.open_header(&parsed, Some(place), &Chain::default()).expect("opens").expose_secret();
        Sample { keys: keys.clone(), place, bytes, header, file_key }
    }

    impl Sample {
        fn open(&self, bytes: &[u8]) -> Result<Vec<u8>, SealError> {
            let mut out = Vec::new();
            Opener::new(self.keys.clone(), Some(self.place)).feed(bytes, true, &mut out).map(|()| out)
        }

        /// The same for a change behind the header, without opening that again.
        fn open_payload(&self, bytes: &[u8]) -> Result<Vec<u8>, SealError> {
            let file_key = FileKey::new(Box::new(self.file_key));
            let nonce = bytes[self.header..][..NONCE].try_into().expect("a nonce");
            let key = PayloadKey::new(&file_key, nonce);
            let mut opener = Opener::new(self.keys.clone(), None);
            opener.state = State::Chunks { key, number: 0, ended: false };
            let mut out = Vec::new();
            opener.feed(&bytes[self.header + NONCE..], true, &mut out).map(|()| out)
        }
    }

    /// A reproducible source of numbers.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound as u64) as usize
        }
    }

    /// One change of a file, and where it begins.
    fn changed(sample: &Sample, random: &mut Random, kind: usize) -> (usize, Vec<u8>) {
        let (mut bytes, len) = (sample.bytes.clone(), sample.bytes.len());
        match kind {
            0 => {
                let (at, bit) = (random.below(len), random.below(8));
                bytes[at] ^= 1 << bit;
                (at, bytes)
            }
            1 => {
                let end = random.below(len);
                bytes.truncate(end);
                (end, bytes)
            }
            _ => loop {
                // Two stretches change places, often side by side.
                let count = 1 + random.below(32);
                let a = random.below(len - 2 * count);
                let b = a + count + random.below(len - 2 * count - a + 1);
                (0..count).for_each(|i| bytes.swap(a + i, b + i));
                if bytes != sample.bytes {
                    return (a, bytes);
                }
            },
        }
    }

    /// Random flips of a bit, cuts and swaps, a third each, over the sizes that small objects have. What is changed
    /// behind the header is opened with the file key at hand, but for one in a hundred: opening the header anew each
    /// time would show a million times the same and take minutes.
    #[test]
    fn a_million_changed_files_are_refused_one_by_one() {
        const CHANGES: usize = 1_000_000;
        let mut samples: Vec<_> = [(0, false), (224, false), (300, true), (1000, true), (4096, false), (6000, true)]
            .into_iter()
            .map(|(len, auth)| sample(len, auth))
            .collect();
        samples.push(sample_for(IdentityKind::PostQuantum, 16_000, true));
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let samples = &samples;
                scope.spawn(move || {
                    let mut random = Random(0x5ea1 + thread as u64);
                    for round in (thread..CHANGES).step_by(threads) {
                        let sample = &samples[round / 3 % samples.len()];
                        let (at, bytes) = changed(sample, &mut random, round % 3);
                        let whole = at < sample.header + NONCE || round % 100 == 0;
                        let opened = if whole { sample.open(&bytes) } else { sample.open_payload(&bytes) };
                        assert!(opened.is_err(), "round {round} at {at} of {}", sample.bytes.len());
                    }
                });
            }
        });
        for sample in &samples {
            assert!(sample.open(&sample.bytes).is_ok() && sample.open_payload(&sample.bytes).is_ok());
        }
    }

    #[test]
    fn cuts_swaps_and_joins_are_refused() {
        for len in [0, 300, 65_536, 140_000] {
            let one = sample(len, false);
            let other = seal_with(&one.keys, len);
            let step = one.bytes.len().div_ceil(700);
            for cut in (0..one.bytes.len()).step_by(step) {
                assert!(one.open(&one.bytes[..cut]).is_err(), "len={len} cut={cut}");
            }
            for more in [1, 16, 70_000] {
                let mut bytes = one.bytes.clone();
                bytes.resize(bytes.len() + more, 0);
                assert!(one.open(&bytes).is_err(), "len={len} more={more}");
            }
            for edge in [one.header, one.header + NONCE] {
                assert!(one.open(&[&one.bytes[..edge], &other.bytes[edge..]].concat()).is_err(), "len={len} {edge}");
            }
            let mut random = Random(3);
            for _ in 0..300.min(one.bytes.len() / 2) {
                let (a, b) = (random.below(one.bytes.len() - 16), random.below(one.bytes.len() - 16));
                let mut bytes = one.bytes.clone();
                (0..16).for_each(|i| bytes.swap(a + i, b + i));
                assert!(bytes == one.bytes || one.open(&bytes).is_err(), "len={len} {a} {b}");
            }
        }
    }

    #[test]
    fn with_an_authentication_key_only_its_holders_files_open_and_only_at_their_place() {
        let signed = sample(500, true);
        assert!(signed.open(&signed.bytes).is_ok());
        let moved = Sample { place: place(8), ..sample(500, true) };
        assert!(matches!(moved.open(&signed.bytes), Err(SealError::NoMatch)));
        let elsewhere = Sample { place: place(8), keys: signed.keys.clone(), bytes: Vec::new(), ..signed };
        assert!(matches!(elsewhere.open(&signed.bytes), Err(SealError::Forged(_))));

        // Whoever knows the public key makes a file that opens, but not one that proves itself.
        let made = generate_identity(IdentityKind::PostQuantum).expect("made");
        let builder = |auth: Option<u8>| KeysBuilder {
            recipients: Some(Recipients::parse(&made.recipient).expect("a recipient")),
            identities: Some(Identities::parse(&made.identity).expect("an identity")),
            auth_key: auth.map(|byte| Box::new(zeroize::Zeroizing::new([byte; 32]))),
            ..KeysBuilder::default()
        };
        let build = |auth| Arc::new(builder(auth).build().expect("they fit"));
        let (demanding, trusting, foreign) = (build(Some(1)), build(None), build(Some(2)));
        for (writer, fine) in [(&demanding, true), (&trusting, false), (&foreign, false)] {
            let (mut bytes, key, _) =
                writer.start_file(place(7), Link::NONE).expect("sealed").expect("there are recipients");
            let mut chunk = b"data".to_vec();
            let tag = key.seal(0, true, &mut chunk);
            bytes.extend([chunk.as_slice(), tag.as_slice()].concat());
            let opened = |keys: &Arc<Keys>| {
                let mut out = Vec::new();
                Opener::new(keys.clone(), Some(place(7))).feed(&bytes, true, &mut out)
            };
            assert_eq!(opened(&demanding).is_ok(), fine);
            assert_eq!(opened(&trusting), Ok(()));
        }
    }
}
