//! What tests of sealing share: keys, restores with them, and a look at what is stored.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use replicate::seal::{GeneratedIdentity, IdentityKind, generate_identity};
use replicate::{Cancel, ConfigKey, Error, Options, RestoreOptions, restore};
use rusqlite::Connection;

use super::Lab;

/// A shared secret.
pub const AUTH: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

pub fn make(kind: IdentityKind) -> GeneratedIdentity {
    generate_identity(kind).unwrap()
}

pub fn sealed_to(lab: &Lab, keys: &GeneratedIdentity) -> Options {
    lab.options().with(ConfigKey::AgeRecipient, &*keys.recipient)
}

pub fn restore_with(lab: &Lab, options: Options) -> Result<Connection, Error> {
    let output = lab.folder.path().join("back.db");
    let config = options.with(ConfigKey::Url, format!("file://{}", lab.replica.display())).check()?;
    let options = RestoreOptions::new(&output).overwrite(true);
    restore(&options, &config, &Cancel::new(), &mut |_| ())?;
    Ok(Connection::open(output).unwrap())
}

pub fn opened_by(keys: &GeneratedIdentity) -> Options {
    Options::new().with(ConfigKey::AgeIdentity, keys.identity.as_str())
}

pub fn objects(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { objects(&path) } else { vec![path] }).collect()
}

pub fn is_sealed(path: &Path) -> bool {
    std::fs::read(path).unwrap().starts_with(b"age-encryption.org/v1\n")
}

/// Everything that this process logs, at every level, and says when it panics.
static HEARD: Mutex<String> = Mutex::new(String::new());

struct Spy;

impl tracing::Subscriber for Spy {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        hear(&format!("{span:?}"));
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        hear(&format!("{values:?}"));
    }
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Fields(String);
        impl tracing::field::Visit for Fields {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!(" {}={value:?}", field.name()));
            }
        }
        let mut fields = Fields(event.metadata().target().to_owned());
        event.record(&mut fields);
        hear(&fields.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

pub fn hear(text: &str) {
    let mut heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner);
    heard.push_str(text);
    heard.push('\n');
}

/// Listens from now on.
pub fn listen() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(Spy).unwrap();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            hear(&panic.to_string());
            before(panic);
        }));
    });
}

/// What was heard of these secrets until now: stretches of ten letters, however they are written.
pub fn told(secrets: &[&str]) -> Vec<String> {
    let heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner).to_ascii_uppercase();
    let stretches = secrets.iter().flat_map(|secret| {
        // The part that all keys of a kind have in common is no secret.
        let own = secret.rfind("-1").map_or(*secret, |at| &secret[at + 2..]).to_ascii_uppercase();
        (0..own.len().saturating_sub(9)).map(move |at| own[at..at + 10].to_owned()).collect::<Vec<_>>()
    });
    stretches.filter(|stretch| heard.contains(stretch)).collect()
}

pub fn lines_heard() -> usize {
    HEARD.lock().unwrap_or_else(PoisonError::into_inner).lines().count()
}
