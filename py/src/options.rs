//! Options from keyword arguments: pairs of texts, handed to the library's own table and parser.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use replicate::{Config, ConfigKey, Error, ErrorKind, Options, Result, Txid};

use crate::failure::Outcome;

/// Options as pairs of name and text.
pub(crate) type Pairs = Vec<(String, String)>;

/// Options that were given, and nothing else.
pub(crate) fn given(pairs: Pairs) -> Result<Config> {
    apply(Options::new(), pairs)?.check()
}

/// The same; where they name no place, on top of those of the environment.
pub(crate) fn given_or_environment(pairs: Pairs) -> Result<Config> {
    let places = [ConfigKey::Url.name(), ConfigKey::Endpoint.name()];
    if pairs.iter().any(|(name, value)| places.contains(&name.as_str()) && !value.trim().is_empty()) {
        return given(pairs);
    }
    let (options, unknown) = Options::from_env();
    for name in unknown {
        tracing::warn!(target: "replicate", %name, "unknown variable, ignored");
    }
    apply(options, pairs)?.check()
}

fn apply(mut options: Options, pairs: Pairs) -> Result<Options> {
    for (name, value) in pairs {
        options.set(&name, value)?;
    }
    Ok(options)
}

/// A path that names something.
pub(crate) fn path(path: PathBuf) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = Path::as_os_str(&path).as_bytes();
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(Error::new(ErrorKind::Config, format!("not a path: {path:?}")));
    }
    Ok(path)
}

/// A transaction id: a whole number, or the text of 16 hex digits.
pub(crate) fn parse_txid(value: &Bound<'_, PyAny>) -> Outcome<Txid> {
    let wrong = |what: &str| {
        Error::new(ErrorKind::Config, format!("txid is not valid: {what}")).with_hint("an int, or 16 hex digits")
    };
    if let Ok(text) = value.extract::<String>() {
        return Ok(text.parse().map_err(|_| wrong(&format!("{text:?}")))?);
    }
    match value.extract::<u64>() {
        Ok(number) => Ok(Txid(number)),
        Err(_) => Err(wrong(&value.repr()?.to_string()).into()),
    }
}
