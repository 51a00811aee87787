//! Carrying out requests, one file each.

mod keygen;
mod ltx;
mod replicate;
mod restore;
mod rewrap;

use serde_json::json;

use crate::args::Request;
use crate::exit::Failure;
use crate::output;

/// Does what was asked for.
pub(crate) fn run(request: Request) -> Result<(), Failure> {
    match request {
        Request::Replicate(request) => replicate::run(request),
        Request::Restore(request) => restore::run(&request),
        Request::Ltx(request) => ltx::run(&request).map_err(Failure::from),
        Request::Keygen(request) => keygen::run(&request).map_err(Failure::from),
        Request::Rewrap(request) => rewrap::run(&request).map_err(Failure::from),
        Request::Version { json } => {
            version(json);
            Ok(())
        }
    }
}

fn version(as_json: bool) {
    let version = env!("CARGO_PKG_VERSION");
    if as_json {
        output::json(&json!({ "name": "replicate", "version": version }));
    } else {
        output::text(&format!("replicate {version}"));
    }
}
