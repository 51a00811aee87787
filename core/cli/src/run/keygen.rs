//! `replicate keygen`: key pairs, in the form of `age-keygen`.

use std::fs::OpenOptions;
use std::io::{ErrorKind as Io, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use replicate::clock::{Clock, SystemClock};
use replicate::seal::{GeneratedIdentity, generate_identity, recipient_of};
use replicate::{Error, ErrorKind, Result};
use serde_json::json;
use zeroize::Zeroizing;

use crate::args::Keygen;
use crate::{output, time};

/// Makes a key pair, or tells the public halves of a file.
pub(super) fn run(request: &Keygen) -> Result<()> {
    if let Some(path) = &request.public_of {
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|e| Error::disk("read private keys", path, e))?;
        let public = recipient_of(&text)?;
        match request.json {
            true => output::json(&json!({ "recipients": public })),
            false => output::text(&public.join("\n")),
        }
        return Ok(());
    }
    let keys = generate_identity(request.kind)?;
    let text = text(&keys);
    match (&request.output, request.json) {
        (Some(path), as_json) => {
            write_new(path, &text)?;
            match as_json {
                true => output::json(&json!({ "path": path.display().to_string(), "recipient": keys.recipient })),
                false => output::text(&keys.recipient),
            }
        }
        (None, true) => output::json(&json!({ "identity": keys.identity.as_str(), "recipient": keys.recipient })),
        (None, false) => output::text(&text),
    }
    Ok(())
}

fn text(keys: &GeneratedIdentity) -> Zeroizing<String> {
    let head = format!("# created: {}\n# public key: {}\n", time::format(SystemClock::new().now()), keys.recipient);
    let mut text = Zeroizing::new(String::with_capacity(head.len() + keys.identity.len() + 1));
    [&head, keys.identity.as_str(), "\n"].iter().for_each(|part| text.push_str(part));
    text
}

/// Writes a file that nobody else may read, and that was not there.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|e| match e.kind() {
        Io::AlreadyExists => Error::new(ErrorKind::Exists, format!("the file exists path={}", path.display()))
            .with_hint("a private key is never overwritten: what was sealed to it could not be opened any more"),
        _ => Error::disk("write a private key", path, e),
    })
}
