//! `replicate ltx`: the files of a replica.

use replicate::{LtxInfo, Result};
use serde_json::{Value, json};

use crate::args::Ltx;
use crate::{output, time};

/// Lists them.
pub(super) fn run(request: &Ltx) -> Result<()> {
    let mut files = replicate::list(&request.config)?;
    files.retain(|file| request.level.is_none_or(|level| file.level == level));
    if request.json {
        output::json(&Value::Array(files.iter().map(object).collect()));
    } else {
        output::text(&table(&files));
    }
    Ok(())
}

fn object(file: &LtxInfo) -> Value {
    json!({
        "level": file.level.get(),
        "min_txid": file.txids.min().to_string(),
        "max_txid": file.txids.max().to_string(),
        "size": file.size,
        "timestamp": created(file),
    })
}

/// When the content was captured, or, where the listing does not tell, when the store got it.
fn created(file: &LtxInfo) -> String {
    time::format(file.created.unwrap_or(file.modified))
}

fn table(files: &[LtxInfo]) -> String {
    let mut text = format!("{:<5}  {:<16}  {:<16}  {:>12}  created", "level", "min_txid", "max_txid", "size");
    for file in files {
        let (level, min, max) = (file.level.get(), file.txids.min(), file.txids.max());
        text.push_str(&format!("\n{level:<5}  {min:<16}  {max:<16}  {:>12}  {}", file.size, created(file)));
    }
    text
}
