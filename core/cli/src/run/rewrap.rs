//! `replicate rewrap`.

use replicate::Result;
use serde_json::json;

use crate::args::Rewrap;
use crate::output;

/// Gives the objects new headers.
pub(super) fn run(request: &Rewrap) -> Result<()> {
    let report = replicate::rewrap(&request.config, &mut |_| ())?;
    match request.json {
        true => output::json(&json!({ "rewrapped": report.rewrapped, "plain": report.plain })),
        false => output::text(&format!("rewrapped {} plain={}", report.rewrapped, report.plain)),
    }
    Ok(())
}
