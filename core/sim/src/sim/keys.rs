//! Keys of sealed schedules: two pairs, made once for all of them.

use std::sync::{Arc, OnceLock};

use replicate::seal::{GeneratedIdentity, IdentityKind, Keys, generate_identity};
use replicate::{ConfigKey, Options};

use super::rng::Rng;
use super::step::{Manner, Sealing};

/// The pairs. Their bytes are chance; nothing that a schedule does depends on them.
fn pairs() -> &'static [GeneratedIdentity; 2] {
    static PAIRS: OnceLock<[GeneratedIdentity; 2]> = OnceLock::new();
    PAIRS.get_or_init(|| [(); 2].map(|()| generate_identity(IdentityKind::X25519).expect("chance")))
}

/// Both private keys.
fn private() -> String {
    pairs().each_ref().map(|pair| pair.identity.as_str()).join("\n")
}

/// The secret that authenticated schedules share.
const SECRET: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// Who has which keys.
#[derive(Clone, Copy, Debug)]
pub struct SimKeys {
    sealing: Sealing,
    authenticated: bool,
}

impl SimKeys {
    /// The keys of a schedule, if its objects are sealed.
    pub fn of(manner: Manner) -> Option<Self> {
        manner.sealed.map(|sealing| Self { sealing, authenticated: manner.authenticated })
    }

    /// What the host that replicates has, at one start.
    pub fn of_host(self, rng: &mut Rng) -> Arc<Keys> {
        let pair = usize::from(matches!(self.sealing, Sealing::Rekeyed) && rng.percent(30));
        let options = Options::new().with(ConfigKey::AgeRecipient, &*pairs()[pair].recipient);
        match self.sealing {
            Sealing::WriteOnly => self.keys(options),
            Sealing::ReadBack | Sealing::Rekeyed => self.keys(options.with(ConfigKey::AgeIdentity, private())),
        }
    }

    /// What opens every object, and demands that it is authentic if the host makes such.
    pub fn of_reader(self) -> Arc<Keys> {
        static READERS: [OnceLock<Arc<Keys>>; 2] = [OnceLock::new(), OnceLock::new()];
        let reader = &READERS[usize::from(self.authenticated)];
        reader.get_or_init(|| self.keys(Options::new().with(ConfigKey::AgeIdentity, private()))).clone()
    }

    fn keys(self, options: Options) -> Arc<Keys> {
        let options = if self.authenticated { options.with(ConfigKey::AuthKey, SECRET) } else { options };
        options.check().expect("keys that were made here").keys
    }
}
