//! Keys of sealed schedules: two pairs, made once for all of them.

use std::sync::{Arc, OnceLock};

use replicate::seal::{GeneratedIdentity, IdentityKind, Keys, generate_identity};
use replicate::{ConfigKey, Options};

use super::rng::Rng;
use super::step::Sealing;

/// The pairs. Their bytes are chance; nothing that a schedule does depends on them.
fn pairs() -> &'static [GeneratedIdentity; 2] {
    static PAIRS: OnceLock<[GeneratedIdentity; 2]> = OnceLock::new();
    PAIRS.get_or_init(|| [(); 2].map(|()| generate_identity(IdentityKind::X25519).expect("chance")))
}

/// Both private keys.
fn private() -> String {
    pairs().each_ref().map(|pair| pair.identity.as_str()).join("\n")
}

fn keys(options: Options) -> Arc<Keys> {
    options.check().expect("keys that were made here").keys
}

/// Who has which keys.
#[derive(Clone, Copy, Debug)]
pub struct SimKeys(Sealing);

impl SimKeys {
    pub fn new(sealing: Sealing) -> Self {
        Self(sealing)
    }

    /// What the host that replicates has, at one start.
    pub fn of_host(self, rng: &mut Rng) -> Arc<Keys> {
        let pair = usize::from(matches!(self.0, Sealing::Rekeyed) && rng.percent(30));
        let options = Options::new().with(ConfigKey::AgeRecipient, &*pairs()[pair].recipient);
        match self.0 {
            Sealing::WriteOnly => keys(options),
            Sealing::ReadBack | Sealing::Rekeyed => keys(options.with(ConfigKey::AgeIdentity, private())),
        }
    }

    /// What opens every object.
    pub fn of_reader(self) -> Arc<Keys> {
        static READER: OnceLock<Arc<Keys>> = OnceLock::new();
        READER.get_or_init(|| keys(Options::new().with(ConfigKey::AgeIdentity, private()))).clone()
    }
}
