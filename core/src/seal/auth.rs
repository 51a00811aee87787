//! Who made a file: an extra stanza that only holders of a shared secret can write, for one file at one place.
//!
//! age says nothing of senders: whoever knows the public key can make a file that opens. The stanza
//! `-> replicate/auth hmac-sha256` holds an HMAC over the file's place and a commitment to its file key. Only
//! those who know the file key can make chunks that open, so it covers the payload; the header's own code keeps
//! it in place. Other programs skip it, as they must.
//!
//! A file of level 0 also names the one before it, by its HMAC as a further argument of the stanza. So a file of the same
//! place that was made by the same host at another time does not stand between its neighbours ([`Chain`]). An image is
//! named by what follows on it; where there is a file of level 0 that ends with it, it names that one, and stands in its
//! place.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use age_core::format::{FileKey, Stanza};
use age_core::secrecy::ExposeSecret;
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use replicate_format::{Level, Txid, TxidRange};

use super::SealError;
use super::crypto::{self, Secret32};

const TAG: &str = "replicate/auth";
const METHOD: &str = "hmac-sha256";

fn is_auth(stanza: &Stanza) -> bool {
    stanza.tag == TAG
}

/// A copy of the stanza that authenticates, if there is one.
pub(super) fn copy(stanzas: &[Stanza]) -> Option<Stanza> {
    let found = stanzas.iter().find(|stanza| is_auth(stanza))?;
    Some(Stanza { tag: found.tag.clone(), args: found.args.clone(), body: found.body.clone() })
}

/// Which file of a replica a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// Its level.
    pub(crate) level: Level,
    /// What it covers.
    pub(crate) txids: TxidRange,
}

/// The authentication of a file, by which the next one names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Link([u8; 32]);

impl Link {
    /// Of no file: what the first of a chain names.
    pub(crate) const NONE: Self = Self([0; 32]);

    /// Of its bytes.
    pub(crate) const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes; none for that of no file.
    pub(crate) fn bytes(self) -> Option<[u8; 32]> {
        (self != Self::NONE).then_some(self.0)
    }

    /// The link of the file with this header; none if it bears no authentication. Whether that is true is not looked at.
    pub(super) fn of(stanzas: &[Stanza]) -> Self {
        let found = stanzas.iter().find(|stanza| is_auth(stanza));
        found.and_then(|stanza| stanza.body.as_slice().try_into().ok()).map_or(Self::NONE, Self)
    }

    /// By which what follows on the file with this header names it, see [`Linked::name`].
    pub(super) fn name_of(stanzas: &[Stanza], level: Level) -> Self {
        let named = stanzas.iter().find(|stanza| is_auth(stanza)).and_then(|stanza| named(&stanza.args));
        named.filter(|named| level == Level::SNAPSHOT && *named != Self::NONE).unwrap_or_else(|| Self::of(stanzas))
    }
}

/// The files of level 0 and the images that were read from a replica: of two neighbours the later one names the earlier
/// one.
#[derive(Debug, Default)]
pub(crate) struct Chain(Mutex<BTreeMap<(Txid, Level), Linked>>);

/// One of them.
#[derive(Clone, Copy, Debug)]
struct Linked {
    place: Place,
    own: Link,
    /// What it names.
    named: Link,
}

impl Linked {
    /// By which what comes after it names it.
    fn name(&self) -> Link {
        if self.place.level == Level::SNAPSHOT && self.named != Link::NONE { self.named } else { self.own }
    }

    /// Whether nothing is wrong with this one right before that one, or both at one end. Naming nothing begins a chain.
    fn is_beside(&self, later: &Self) -> bool {
        let (before, after) = (self.place, later.place);
        let apart = match (before.level == Level::L0, after.level == Level::L0) {
            (_, true) => after.txids.min() != before.txids.max().next(),
            (true, false) => after.txids.max() != before.txids.max(),
            (false, false) => true,
        };
        apart || later.named == Link::NONE || later.named == self.name()
    }
}

impl Chain {
    fn add(&self, place: Place, own: Link, previous: Link) -> Result<(), SealError> {
        if ![Level::L0, Level::SNAPSHOT].contains(&place.level) {
            return Ok(());
        }
        let file = Linked { place, own, named: previous };
        let last = place.txids.max();
        // What is before it ends at its first id or, as an image, with it; what is behind it is the next of level 0.
        let near = if place.level == Level::L0 { place.txids.min().prev() } else { last };
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = files.range((last.next(), Level::L0)..).find(|((_, level), _)| *level == Level::L0);
        let beside = files.range((near, Level::L0)..=(last, Level::SNAPSHOT)).chain(next);
        if beside.map(|(_, other)| other).any(|other| !other.is_beside(&file) || !file.is_beside(other)) {
            return Err(SealError::Forged("made at another time than the files beside it"));
        }
        files.insert((last, place.level), file);
        Ok(())
    }
}

/// What a file names, by the arguments of its stanza; `None` if they are malformed.
fn named(arguments: &[String]) -> Option<Link> {
    match arguments {
        [method] if method == METHOD => Some(Link::NONE),
        [method, named] if method == METHOD => {
            let named = BASE64_STANDARD_NO_PAD.decode(named).ok();
            named.and_then(|named| named.try_into().ok()).map(Link)
        }
        _ => None,
    }
}

/// The shared secret.
pub(super) struct AuthKey(Box<Secret32>);

impl AuthKey {
    pub(super) fn new(key: Box<Secret32>) -> Self {
        Self(key)
    }

    /// Sixteen hex digits that change when the secret does, and tell nothing of it.
    pub(super) fn id(&self) -> String {
        let digest = crypto::hmac(self.0.as_slice(), &[b"replicate/auth v1 id"]);
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Version 1 of the message; the stream id is empty (`core/docs/SEALING.md`).
    fn tag(&self, file_key: &FileKey, place: Place, previous: Link) -> Secret32 {
        let commitment = crypto::hkdf(file_key.expose_secret(), &[], b"replicate/auth v1 commitment");
        let (min, max) = (place.txids.min().0.to_be_bytes(), place.txids.max().0.to_be_bytes());
        let stream_len = 0u16.to_be_bytes();
        crypto::hmac(
            self.0.as_slice(),
            &[b"replicate/auth v1\0", &stream_len, &[place.level.get()], &min, &max, &previous.0, commitment.as_ref()],
        )
    }

    pub(super) fn stanza(&self, file_key: &FileKey, place: Place, previous: Link) -> Stanza {
        let named = (previous != Link::NONE).then(|| BASE64_STANDARD_NO_PAD.encode(previous.0));
        let args = [METHOD.to_owned()].into_iter().chain(named).collect();
        Stanza { tag: TAG.to_owned(), args, body: self.tag(file_key, place, previous).to_vec() }
    }

    pub(super) fn check(
        &self,
        stanzas: &[Stanza],
        file_key: &FileKey,
        place: Place,
        chain: &Chain,
    ) -> Result<(), SealError> {
        let mut found = stanzas.iter().filter(|stanza| is_auth(stanza));
        let (Some(stanza), None) = (found.next(), found.next()) else {
            return Err(SealError::Forged("it bears no authentication, or several"));
        };
        let previous = named(&stanza.args);
        let tag: Option<[u8; 32]> = stanza.body.as_slice().try_into().ok();
        let (previous, tag) = previous.zip(tag).ok_or(SealError::Forged("its authentication is malformed"))?;
        match crypto::same(&tag, &self.tag(file_key, place, previous)) {
            true => chain.add(place, Link(tag), previous),
            false => Err(SealError::Forged("made with another key, or for another place")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(min: u64, max: u64) -> Place {
        Place { level: Level::L0, txids: TxidRange::new(Txid(min), Txid(max)).expect("a range") }
    }

    #[test]
    fn neighbours_name_each_other_in_whatever_order_they_are_read() {
        let link = |n: u8| Link([n; 32]);
        let files = [(place(2, 2), link(2), link(1)), (place(3, 5), link(5), link(2)), (place(6, 6), link(6), link(5))];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]] {
            let chain = Chain::default();
            for at in order {
                let (place, own, previous) = files[at];
                chain.add(place, own, previous).expect("it fits");
            }
            // Reading one again changes nothing; one of another time does not stand there, nor does one before a gap matter.
            chain.add(files[1].0, files[1].1, files[1].2).expect("it fits");
            assert!(chain.add(files[1].0, link(55), link(2)).is_err());
            assert!(chain.add(files[1].0, files[1].1, link(22)).is_err());
            chain.add(place(8, 8), link(8), link(77)).expect("nothing is beside it");
        }
        let chain = Chain::default();
        chain.add(place(2, 2), link(2), Link::NONE).expect("it fits");
        chain.add(place(3, 3), link(3), Link::NONE).expect("a chain may begin anywhere");
        let merged = Place { level: Level::new(1).expect("a level"), ..place(3, 5) };
        chain.add(merged, link(9), link(8)).expect("merged files are in no chain");
    }

    #[test]
    fn an_image_is_named_by_what_follows_or_names_the_file_in_whose_place_it_stands() {
        let link = |n: u8| Link([n; 32]);
        let image = |max: u64| Place { level: Level::SNAPSHOT, ..place(1, max) };
        // The image 1-5 is named by the next file; beside 6 there is the image 1-6, which names it.
        let files = [
            (image(5), link(5), Link::NONE),
            (place(6, 6), link(6), link(5)),
            (image(6), link(60), link(6)),
            (place(7, 7), link(7), link(6)),
        ];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
            let chain = Chain::default();
            for at in order {
                let (place, own, named) = files[at];
                chain.add(place, own, named).expect("it fits");
            }
            assert!(chain.add(image(5), link(55), Link::NONE).is_err(), "an older image of the same name");
            assert!(chain.add(image(6), link(66), link(16)).is_err(), "that names another file");
        }
        let read = |files: &[(Place, Link, Link)]| {
            let chain = Chain::default();
            files.iter().try_for_each(|(place, own, named)| chain.add(*place, *own, *named))
        };
        // An older image where what follows was made at another time, in both orders.
        assert!(read(&[(image(6), link(66), link(16)), files[3]]).is_err());
        assert!(read(&[files[3], (image(6), link(66), link(16))]).is_err());
        assert!(read(&[files[1], (image(5), link(55), Link::NONE)]).is_err());
        // With nothing beside it, nothing can be said of it.
        read(&[(image(5), link(55), Link::NONE), files[3]]).expect("there is nothing beside it");
    }
}
