//! What it costs to make one file of many small ones, as Litestream's compaction does: a figure of the library alone,
//! with every input verified. What Litestream needs for it cannot be asked of its command.

use std::time::Instant;

use replicate_format::{Decoder, Encoder, Header, Merger, PageEncoding, PageSize, Pgno, Txid, TxidRange};
use replicate_sim::peers::Outcome;

use crate::table::{OURS, Row, Table};
use crate::{Bench, Case, tell};

const FILES: [u64; 3] = [10, 100, 1000];
/// Pages of each file, as a small transaction touches them.
const PAGES: u32 = 3;
/// Pages of the database that they are of.
const DATABASE: u32 = 4096;

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("merge", measure)]
}

fn measure(bench: &Bench<'_>, table: &mut Table) -> Outcome {
    tell("merge");
    for count in FILES {
        let files = (2..count + 2).map(file).collect::<Outcome<Vec<_>>>()?;
        let mut row = Row::new(&format!("merge of {count} small files, in memory"), "–", "ms");
        for _ in 0..bench.sizes.rounds.max(3) {
            let start = Instant::now();
            merge(&files)?;
            row.add(OURS, start.elapsed().as_secs_f64() * 1e3);
        }
        table.add(row);
    }
    Ok(())
}

fn merge(files: &[Vec<u8>]) -> Outcome {
    let failed = |e| format!("merge: {e}");
    let inputs = files.iter().map(|bytes| Decoder::new(bytes.as_slice())).collect::<Result<Vec<_>, _>>();
    let merger = Merger::new(inputs.map_err(failed)?, Vec::new(), PageEncoding::Frame).map_err(failed)?;
    merger.finish().map_err(failed)?;
    Ok(())
}

/// Half of each page cannot be compressed.
fn file(txid: u64) -> Outcome<Vec<u8>> {
    let failed = |e| format!("make a file: {e}");
    let size = PageSize::new(4096).ok_or("no page size")?;
    let txids = TxidRange::single(Txid(txid)).ok_or("no transaction id")?;
    let header = Header::untracked(size, DATABASE, txids, 0);
    let mut encoder = Encoder::new(Vec::new(), header, PageEncoding::Frame).map_err(failed)?;
    let mut random = txid;
    let mut page = vec![b'x'; size.len()];
    let first = u32::try_from(txid * 37 % u64::from(DATABASE - PAGES)).unwrap_or(0) + 1;
    for pgno in (first..first + PAGES).filter_map(Pgno::new) {
        for chunk in page[..2048].chunks_mut(8) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chunk.copy_from_slice(&(random ^ (random >> 29)).to_le_bytes());
        }
        encoder.page(pgno, &page).map_err(failed)?;
    }
    Ok(encoder.finish().map_err(failed)?.1)
}
